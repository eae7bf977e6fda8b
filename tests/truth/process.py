# SPDX-License-Identifier: Apache-2.0
"""A payload as a plain process of this machine, outside every container.

    with Process(["nsenter", "--net=/run/netns/x"], log, name="helper", cgroup=directory) as helper: ...

say(), await_line() and output are those of a rig container.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PAYLOAD = Path(__file__).with_name("payload.py")
PYTHON = ("/usr/bin/python3", "-I", "-S", "-u")


class Process:
    """The process; `prefix` is the command that runs it, `cgroup` a directory of cgroup v2 to be in."""

    def __init__(self, prefix: Sequence[str], log: Path, name: str, cgroup: Path | None = None) -> None:
        if cgroup:
            prefix = ["sh", "-c", f'echo $$ > {cgroup}/cgroup.procs && exec "$@"', "sh", *prefix]
        self._process = subprocess.Popen(
            [*prefix, *PYTHON, str(PAYLOAD), str(log), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        with self._news:
            return "".join(self._lines)

    def say(self, text: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def await_line(self, text: str, timeout: float = 20) -> str:
        def found() -> str | None:
            return next((line for line in self._lines if text in line), None)

        with self._news:
            self._news.wait_for(lambda: self._ended or found() is not None, timeout)
            line = found()
        if line is None:
            raise AssertionError(f"process {self.pid}: no line {text!r} in {self.output!r}")
        return line

    def wait(self, timeout: float = 30) -> int:
        return self._process.wait(timeout)

    def close(self) -> None:
        """End it; its sockets are closed then."""
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()
