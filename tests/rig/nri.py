# SPDX-License-Identifier: Apache-2.0
"""NRI in tests: its table in containerd's configuration, the plugin as a process, and plugins that err.

with Containerd(plugins=configuration(folder)) as containerd:
    with Plugin(folder, run_directory) as plugin:       # `flowtag nri`; its stub lies in folder/hook
        plugin.await_connected()
        plugin.process.send_signal(signal.SIGSTOP)
    with erring(folder, lambda line, stream: line.sendall(bytes(8))):    # answers CreateContainer so
        ...
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from hooks import installed, nri
from hooks import nri_wire as wire

ROOT = Path(__file__).resolve().parents[2]
_COMMAND = """
import argparse, sys
from bpf.error import FlowtagError
from hooks import nri
parser = argparse.ArgumentParser()
nri.add_command(parser.add_subparsers())
args = parser.parse_args()
try:
    sys.exit(args.run(args))
except FlowtagError as error:
    sys.exit(f"flowtag: {error}")
"""


def configuration(folder: Path) -> str:
    """NRI on, with its socket in `folder`; 1.7 and 2.x alike."""
    return (
        '[plugins."io.containerd.nri.v1.nri"]\n'
        f'disable = false\nsocket_path = "{folder}/nri.sock"\n'
        f'plugin_path = "{folder}/plugins"\nplugin_config_path = "{folder}/conf.d"\n'
    )


class Plugin:
    """`flowtag nri` as a process, with a hook directory and a log of its own."""

    def __init__(self, folder: Path, run_directory: Path) -> None:
        self.hook_directory = folder / "hook"
        self.run_directory = run_directory
        self._log = folder / "plugin.log"
        self._argv = [
            *(sys.executable, "-c", _COMMAND, "nri", "--socket", f"{folder}/nri.sock"),
            *("--hook-directory", str(self.hook_directory), "--run-directory", str(run_directory)),
        ]
        self.process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def __enter__(self) -> Plugin:
        installed.install(str(self.hook_directory), str(ROOT))
        self.start()
        return self

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(self._argv, cwd=ROOT, stderr=log)

    def await_connected(self, times: int = 1, timeout: float = 20) -> None:
        """Wait until it has said that often that containerd accepted it."""
        deadline = time.monotonic() + timeout
        while self.log.count(": connected to ") < times:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"the plugin does not connect: {self.log}")
            time.sleep(0.01)
        time.sleep(0.1)  # containerd counts it in after its answer

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


@contextmanager
def erring(folder: Path, fault: Callable[[socket.socket, int], object]) -> Iterator[None]:
    """A plugin in this process that registers well, and answers CreateContainer by `fault(line, stream)`."""
    ready = threading.Event()
    line = socket.socket(socket.AF_UNIX)
    line.connect(f"{folder}/nri.sock")

    def serve() -> None:
        inbox = wire.Demultiplexer()
        with suppress(OSError):
            line.sendall(nri.registration())
            while data := line.recv(1 << 16):
                for message in inbox.feed(data):
                    method = wire.text(message.body, 2)
                    if method == "CreateContainer":
                        fault(line, message.stream)
                    elif message.kind == wire.REQUEST:
                        events = wire.field(2, nri.CREATE_CONTAINER) if method == "Configure" else b""
                        line.sendall(nri.reply(message.stream, events))
                        if method == "Synchronize":
                            ready.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ready.wait(20)
        time.sleep(0.1)  # as above
        yield
    finally:
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
        thread.join(20)
        line.close()
