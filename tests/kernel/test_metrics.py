# SPDX-License-Identifier: Apache-2.0
"""Metrics and health of a real exporter, by promtool and a real Prometheus, and what breaks it."""

from __future__ import annotations

import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.kernel.storm import Storm, build
from tests.rig.exporter import Exporter, flowtag
from tests.rig.network import Network
from tests.rig.prometheus import RULES, Prometheus, free_port, program

CONNECTIONS = 10_000
SCRAPES = 12
_LINE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


# A certificate and a names source need not be there; entries are counted after 30 seconds.
UNSEEN = (
    "flowtag_certificate_not_after_seconds",
    "flowtag_map_entries",
    "flowtag_names_source_up",
)


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:  # it says that it is attached, and listens then
        return 0, str(error)


def until(condition: Callable[[], object], seconds: float, what: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def total(text: str, name: str) -> float:
    found = [_LINE.fullmatch(line) for line in text.splitlines()]
    return sum(float(one[3]) for one in found if one and one[1] == name)


def tables(port: int, directory: Path) -> str:
    return (
        f'[metrics]\nlisten = "127.0.0.1:{port}"\nhealth_seconds = 2\n'
        f'[spool]\ndirectory = "{directory}/spool"\nmin_free_bytes = 0\n'
        f'[sinks.file]\ntype = "json"\npath = "{directory}/flows.json"\n'
    )


def test_metrics_balance_under_load_and_prometheus_answers(
    kernel: None, tmp_path: Path, pin_directory: Path
) -> None:
    port = free_port()
    storm = build(tmp_path)
    with (
        Network() as network,
        Exporter(tmp_path, pin_directory, tables=tables(port, tmp_path), arguments=("--output", "none")),
        Prometheus(tmp_path, port) as prometheus,
    ):
        until(lambda: get(port, "/readyz")[0] == 200, 10, lambda: get(port, "/readyz"))
        with Storm(storm, network.namespace("load", bridge=False), CONNECTIONS) as load:
            for _ in range(SCRAPES):
                text = get(port, "/metrics")[1]
                seen, *parts = (
                    total(text, f"flowtag_sink_{name}")
                    for name in (
                        "seen_records_total",
                        "delivered_records_total",
                        "dropped_records_total",
                        "waiting_records",
                    )
                )
                assert seen == sum(parts)
                owned, nobodys = (
                    total(text, f"flowtag_{name}_flows_total") for name in ("attributed", "unattributed")
                )
                assert owned + nobodys == total(text, "flowtag_records_total")
                time.sleep(0.5)
            load.made()

        def seen_now() -> float:
            return total(get(port, "/metrics")[1], "flowtag_sink_seen_records_total")

        until(lambda: seen_now() > CONNECTIONS, 20, seen_now)  # both ends of each
        text = get(port, "/metrics")[1]
        checked = subprocess.run(
            [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")

        def rate() -> list[float]:
            return [value for _, value in prometheus.query("sum(rate(flowtag_kernel_opened_total[1m]))")]

        until(lambda: rate() != [], 20, rate)  # it wants two scrapes, one a second
        assert rate()[0] > 0
        assert [value for _, value in prometheus.query('up{job="flowtag"}')] == [1.0]
        for name in re.findall(r"\bflowtag_\w+", RULES.read_text(encoding="utf-8")):
            if name not in UNSEEN:
                until(
                    partial(prometheus.query, f"count({name})"), 10, lambda: "no series of what a rule names"
                )
        assert prometheus.query('ALERTS{alertstate="firing"}') == []
        assert get(port, "/readyz") == (200, "ok\n")


def test_removed_link_is_told_until_the_restart(kernel: None, tmp_path: Path, pin_directory: Path) -> None:
    port = free_port()
    where = tables(port, tmp_path)
    with Exporter(tmp_path, pin_directory, tables=where, arguments=("--output", "none")) as exporter:
        until(lambda: get(port, "/healthz") == (200, "ok\n"), 10, lambda: get(port, "/readyz"))
        (pin_directory / "link_state").unlink()
        until(lambda: get(port, "/healthz")[0] == 503, 5, lambda: get(port, "/healthz"))
        status, text = get(port, "/readyz")
        assert (status, text.splitlines()[1][:15]) == (503, "live: detached:")
        assert 'flowtag_problem{problem="detached",severity="live"} 1.0' in get(port, "/metrics")[1]
        with pytest.raises(RuntimeError):  # it exits 1: the same rule
            flowtag("check", config=exporter.config)
        exporter.stop()
        exporter.start()
        until(lambda: get(port, "/healthz") == (200, "ok\n"), 5, lambda: get(port, "/readyz"))


def test_stalled_output_is_told_and_is_over(kernel: None, tmp_path: Path, pin_directory: Path) -> None:
    """The main loop hangs in its write, as it would with a reader that stalls: the ring is not drained."""
    port = free_port()
    config = f'[metrics]\nlisten = "127.0.0.1:{port}"\nhealth_seconds = 2\n'
    storm = build(tmp_path)
    with Network() as network, Exporter(tmp_path, pin_directory, tables=config) as exporter:
        with exporter.stalled():
            with Storm(storm, network.namespace("stall", bridge=False), 2000) as load:
                load.made()
            until(lambda: get(port, "/healthz")[0] == 503, 8, lambda: get(port, "/healthz"))
            assert "stalled" in get(port, "/healthz")[1]
        until(lambda: get(port, "/readyz") == (200, "ok\n"), 10, lambda: get(port, "/readyz"))


def test_read_only_spool_is_told_and_is_over(kernel: None, tmp_path: Path, pin_directory: Path) -> None:
    port = free_port()
    spool = tmp_path / "spool"
    spool.mkdir(mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "flowtag-test", str(spool)], check=True
    )
    try:
        with Exporter(tmp_path, pin_directory, tables=tables(port, tmp_path), arguments=("--output", "none")):
            until(lambda: get(port, "/readyz")[0] == 200, 10, lambda: get(port, "/readyz"))
            subprocess.run(["mount", "-o", "remount,ro", str(spool)], check=True)

            def ready(wanted: int) -> bool:  # what asks is a flow itself, so that there is one to write
                return get(port, "/readyz")[0] == wanted

            until(lambda: ready(503), 10, lambda: get(port, "/readyz"))
            assert "spool_unwritable" in get(port, "/readyz")[1]
            assert get(port, "/healthz") == (200, "ok\n"), "a restart would not cure it"
            subprocess.run(["mount", "-o", "remount,rw", str(spool)], check=True)
            until(lambda: ready(200), 10, lambda: get(port, "/readyz"))
    finally:
        subprocess.run(["umount", str(spool)], check=True)
