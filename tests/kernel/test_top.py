# SPDX-License-Identifier: Apache-2.0
"""`flowtag top` beside a real exporter: exact bytes of an interval; the terminal is given back."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf import abi
from identity.pinned import open_map
from identity.workload import Workload
from tests.rig.exporter import COMMAND, Exporter, flowtag
from tests.rig.kernel import netns_cookie
from tests.rig.network import Namespace, Network

OWNER = 0x70_70_70_70
PORT = 7002


@pytest.fixture
def exporter(kernel: None, tmp_path: Path, pin_directory: Path) -> Iterator[Exporter]:
    with Exporter(tmp_path, pin_directory, arguments=("--output", "none")) as exporter:
        yield exporter


@pytest.fixture
def claimed(exporter: Exporter) -> Iterator[Namespace]:
    """A namespace whose sockets are the workload `top-web`'s."""
    pins = str(exporter.pin_directory)
    with Network() as network:
        namespace = network.namespace("claimed", bridge=False)
        with open_map("ft_workload", pins) as workloads, open_map("ft_netns", pins) as spaces:
            workload = Workload(id=OWNER, kind=1, source=1, state=1, container="top-web", container_id="c1")
            workloads.update(abi.ID.pack(OWNER), workload.pack())
            claim = abi.NETNS.pack(OWNER, 1, 0, abi.FLAG_NO_CGROUP, 1)
            spaces.update(abi.ID.pack(netns_cookie(namespace)), claim)
        yield namespace


def connected(namespace: Namespace) -> tuple[socket.socket, socket.socket]:
    with namespace.entered(), socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=10)
        return client, listener.accept()[0]


def send(ends: tuple[socket.socket, socket.socket], size: int) -> None:
    ends[0].sendall(bytes(size))
    while size:
        size -= len(ends[1].recv(size))


def test_top_counts_the_bytes_of_an_interval_exactly(exporter: Exporter, claimed: Namespace) -> None:
    old = connected(claimed)
    send(old, 5000)
    argv = [COMMAND, "top", "--json", "--interval", "1", "--config", str(exporter.config)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as top:
        assert top.stdout
        json.loads(top.stdout.readline())
        send(old, 1000)
        new = connected(claimed)
        send(new, 300)
        gone = connected(claimed)
        send(gone, 20)
        gone[0].close()
        assert gone[1].recv(1) == b""
        gone[1].close()
        with claimed.entered(), socket.socket() as refused:
            assert refused.connect_ex(("127.0.0.1", 9)) != 0
        shown = [json.loads(top.stdout.readline()) for _ in range(2)]
        top.send_signal(signal.SIGINT)
        assert top.wait(10) == 0
    lines = [line for one in shown for line in one["workloads"] if line["workload"] == "top-web"]
    sums = {
        name: sum(line[name] for line in lines) for name in lines[0] if name not in ("workload", "rtt_us")
    }
    assert (sums["bytes_sent"], sums["bytes_received"]) == (1320, 1320)
    assert (sums["opened"], sums["refused"], sums["timeout"]) == (5, 1, 0)
    assert lines[-1]["flows"] == 4
    assert lines[-1]["rtt_us"] is not None
    for one in shown:
        assert one["total"]["bytes_sent"] == sum(line["bytes_sent"] for line in one["workloads"])
    for end in (*old, *new):
        end.close()


def test_top_once_shows_nobodys_flows_by_reason(exporter: Exporter) -> None:
    with Network() as network:
        namespace = network.namespace("nobody", bridge=False)
        ends = connected(namespace)
        threading.Timer(0.8, send, (ends, 777)).start()
        found = json.loads(
            flowtag("top", "--once", "--json", "--interval", "1.6", config=exporter.config, timeout=20)
        )
        nobody = [line for line in found["workloads"] if line["workload"].startswith("nobody: ")]
        assert any(line["bytes_sent"] >= 777 and line["flows"] >= 2 for line in nobody), found
        for end in ends:
            end.close()


def test_flows_as_json_has_the_real_record(exporter: Exporter, claimed: Namespace) -> None:
    ends = connected(claimed)
    send(ends, 4321)
    for end in ends:
        end.close()
    deadline = time.monotonic() + 10
    found: list[dict[str, object]] = []
    while len(found) < 2 and time.monotonic() < deadline:
        text = flowtag("flows", "--output", "json", "--workload", "top-web", config=exporter.config)
        found = [json.loads(line) for line in text.splitlines()]
    pairs = sorted((int(str(r["bytes_sent"])), int(str(r["bytes_received"]))) for r in found)
    assert pairs == [(0, 4321), (4321, 0)]
    assert {(r["workload"], r["attributed_by"], r["kind"]) for r in found} == {("top-web", "netns", "close")}


def test_top_without_an_exporter_says_so(tmp_path: Path) -> None:
    config = tmp_path / "flowtag.toml"
    config.write_text('[host]\npin_directory = "/sys/fs/bpf/flowtag-test-none"\n', encoding="utf-8")
    argv = [COMMAND, "top", "--once", "--config", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("flowtag: opening pinned map")


class Terminal:
    """`top` on a pseudo terminal of 100 columns and 10 lines."""

    def __init__(self, exporter: Exporter, term: str = "xterm") -> None:
        self.master, self.slave = pty.openpty()
        self.resize(10, 100)
        self.before = termios.tcgetattr(self.slave)
        argv = [COMMAND, "top", "--interval", "0.3", "--config", str(exporter.config)]
        ends = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave}
        self.process = subprocess.Popen(argv, env={**os.environ, "TERM": term}, **ends)  # type: ignore[call-overload]
        self.text = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def await_text(self, text: str) -> None:
        deadline = time.monotonic() + 15
        while text not in self.text:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, self.text
            self.text += os.read(self.master, 65536).decode()

    def end(self) -> int:
        """Its exit status; the terminal must be as it was."""
        status: int = self.process.wait(10)
        assert termios.tcgetattr(self.slave) == self.before
        if "\x1b[?1049h" in self.text:
            self.await_text("\x1b[?1049l")
        os.close(self.master)
        os.close(self.slave)
        return status


@pytest.mark.parametrize(("way", "status"), [("q", 0), ("SIGTERM", 143), ("SIGINT", 0)])
def test_top_gives_the_terminal_back(exporter: Exporter, way: str, status: int) -> None:
    terminal = Terminal(exporter)
    terminal.await_text("total")
    assert "\x1b[2J" not in terminal.text
    terminal.text = "\x1b[?1049h"
    terminal.resize(5, 60)
    terminal.process.send_signal(signal.SIGWINCH)
    os.write(terminal.master, b"f")
    terminal.await_text("fail\x1b[K")
    if way == "q":
        os.write(terminal.master, b"q")
    else:
        terminal.process.send_signal(getattr(signal, way))
    assert terminal.end() == status
    drawn = terminal.text.split("\x1b[H")[-1].split("\x1b[J")[0].split("\r\n")
    assert len(drawn) <= 5
    assert max(len(line.removesuffix("\x1b[K")) for line in drawn) < 60, drawn


def test_top_on_a_dumb_terminal_is_plain_text(exporter: Exporter) -> None:
    terminal = Terminal(exporter, "dumb")
    terminal.await_text("total")
    assert "\x1b" not in terminal.text
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 0
