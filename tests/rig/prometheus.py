# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus on a private port with private data; the program comes from Debian's package, unpacked.

    with Prometheus(tmp_path, port) as prometheus:      # scrapes that port each second, with our rules
        prometheus.query("up")                          # [({"job": "flowtag", ...}, 1.0)]

The package is not installed: it would start a service.
"""

from __future__ import annotations

import json
import shutil
import socket
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.rig.daemon import Daemon
from tests.rig.debian import unpacked

RULES = Path(__file__).resolve().parents[2] / "packaging/prometheus/flowtag.rules.yml"


def program(name: str) -> str:
    """The path of prometheus or promtool; RuntimeError if it cannot be had."""
    return shutil.which(name) or str(unpacked("bookworm", "prometheus") / "usr/bin" / name)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number: int = probe.getsockname()[1]
    return number


class Prometheus:
    """A context manager; it is ready on entering."""

    def __init__(self, directory: Path, target: int) -> None:
        self._address = f"127.0.0.1:{free_port()}"
        file = directory / "prometheus.json"  # JSON is YAML
        scrape = {"job_name": "flowtag", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        seconds = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config = {"global": seconds, "rule_files": [str(RULES)], "scrape_configs": [scrape]}
        file.write_text(json.dumps(config), encoding="utf-8")
        argv = [
            program("prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={directory / 'prometheus'}",
            f"--web.listen-address={self._address}",
        ]
        self._daemon = Daemon("prometheus", argv, log=directory / "prometheus.log")

    def __enter__(self) -> Prometheus:
        self._daemon.start(self._ready)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._daemon.stop()

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each result, now; HTTPError for what is no expression."""
        where = f"http://{self._address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(where, timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]
