# SPDX-License-Identifier: Apache-2.0
"""`flowtag nri` as a process, with a listener that plays containerd."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hooks import nri
from hooks import nri_wire as wire
from hooks.nri_wire import Message
from tests.rig.leavings import scratch, sweep
from tests.rig.nri import Plugin


@pytest.fixture
def folder() -> Iterator[Path]:
    found = scratch("ftn")  # a socket's path must be short
    yield found
    sweep(found)


def await_end(plugin: Plugin) -> str:
    assert plugin.process.wait(20) == 1
    return plugin.log.strip()


def await_line(plugin: Plugin, text: str, times: int = 1) -> None:
    deadline = time.monotonic() + 20
    while plugin.log.count(text) < times:
        assert time.monotonic() < deadline, plugin.log
        time.sleep(0.02)


def listen(folder: Path) -> socket.socket:
    (folder / "nri.sock").unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/nri.sock")
    listener.listen()
    listener.settimeout(20)
    return listener


def accept(listener: socket.socket, run_directory: Path) -> None:
    """Take one plugin as containerd does, until it knows that it is accepted; hang up."""
    line, _ = listener.accept()
    with line:
        line.settimeout(20)
        (found,) = wire.Demultiplexer().feed(line.recv(4096))
        assert wire.text(found.body, 2) == "RegisterPlugin"
        for stream, method in enumerate(("Configure", "Synchronize", "Shutdown")):
            line.sendall(wire.encode(Message(wire.PLUGIN, stream, wire.REQUEST, wire.field(2, method))))
            assert line.recv(4096)
        assert (run_directory / "nri").read_text(encoding="utf-8").endswith("nri.sock  \n")


def test_nri_waits_for_containerd_and_comes_back(folder: Path, run_directory: Path) -> None:
    with Plugin(folder, run_directory) as plugin:
        await_line(plugin, "nobody listens; waiting")
        for times in (1, 2):
            with listen(folder) as listener:
                accept(listener, run_directory)
            await_line(plugin, "containerd closed the connection; connecting again", times)
            assert (run_directory / "nri").read_text(encoding="utf-8") == ""
        assert plugin.process.poll() is None


def test_nri_without_its_stub_says_so(folder: Path, run_directory: Path) -> None:
    with Plugin(folder, run_directory) as plugin:
        plugin.kill()
        (plugin.hook_directory / "flowtag-hook").unlink()
        plugin.start()
        assert await_end(plugin).endswith("flowtag-hook is not there, or not executable")


def test_nri_runs_once_for_a_run_directory(folder: Path, run_directory: Path) -> None:
    run_directory.mkdir()
    file = nri.open_status(str(run_directory))
    with Plugin(folder, run_directory) as plugin:
        assert await_end(plugin).endswith("is locked: it runs already")
    os.close(file)
