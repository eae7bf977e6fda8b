# SPDX-License-Identifier: Apache-2.0
"""./run: records of its containers on standard output, its signals, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.container import cgroup_mounts
from tests.rig.exporter import ROOT, Record

RUN = str(ROOT / "run")


@pytest.fixture
def arguments(pin_directory: Path, tmp_path: Path) -> list[str]:
    config = tmp_path / "flowtag.toml"
    config.write_text(
        f"[host]\npin_directory = '{pin_directory}'\nrun_directory = '{tmp_path / 'run'}'\n",
        encoding="utf-8",
    )
    return ["--config", str(config), "--output", "json"]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = leftovers()
    yield
    assert leftovers() <= before


def leftovers() -> set[str]:
    """Namespaces, cgroups, folders and processes that a demo could have left."""
    found = {str(path) for path in Path("/run/netns").glob("*-demo-*")}
    found |= {str(path) for path in Path("/tmp").glob("flowtag-demo-*")}
    for mount in cgroup_mounts():
        found |= {str(path) for path in mount.glob("runc/flowtag-demo-*")}
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"tests.demo" in words:
            found.add(str(process))
    return found


def is_demo(record: Record) -> bool:
    return record["workload_kind"] == "container" and "demo-" in record["container_id"]


def test_run_shows_the_flows_of_containers(arguments: list[str]) -> None:
    done = subprocess.run(
        [RUN, *arguments, "--for", "5"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    demo = [record for record in records if is_demo(record)]
    assert demo, done.stderr
    assert {record["attributed_by"] for record in demo} == {"cgroup"}
    web = next(iter({r["container_id"] for r in demo if r["role"] == "server"}))
    tag = web.removeprefix("demo-web-")
    facts = {
        (
            record["container_id"].removesuffix(f"-{tag}"),
            ":" in record["local_address"],
            record["local_port"] if record["role"] == "server" else record["peer_port"],
            record["role"],
            record["end_reason"],
            record["bytes_sent"],
            record["bytes_received"],
        )
        for record in demo
        if record["container_id"].endswith(tag)
    }
    assert facts == {
        ("demo-web", False, 80, "server", "fin", 5000, 1000),
        ("demo-web", True, 80, "server", "fin", 5000, 1000),
        ("demo-shop", False, 80, "client", "fin", 1000, 5000),
        ("demo-shop", True, 80, "client", "fin", 1000, 5000),
        ("demo-shop", False, 81, "client", "refused", 0, 0),
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_stops_by_a_signal_and_cleans_up(arguments: list[str], number: signal.Signals) -> None:
    """In the midst of a round: the first record is a demo container's."""
    with subprocess.Popen(
        [RUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        while not is_demo(json.loads(process.stdout.readline())):
            pass
        process.send_signal(number)
        began = time.monotonic()
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0, log
        assert time.monotonic() - began < 10


def test_run_passes_exit_codes_on(arguments: list[str]) -> None:
    done = subprocess.run(
        [RUN, *arguments, "--for", "never"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "--for" in done.stderr


def test_run_help_needs_no_rights() -> None:
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--clear-groups", "/bin/sh", RUN, "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    assert "--clean" in done.stdout
