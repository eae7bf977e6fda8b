# SPDX-License-Identifier: Apache-2.0
"""A daemon under test: started, waited for, ended by its own pid, its log kept.

daemon = Daemon("dockerd", argv, log=tmp_path / "dockerd.log", environment={...})
daemon.start(ready=lambda: socket_answers())   # AssertionError with its log if it ends or hangs
daemon.pid                                     # of the daemon itself
daemon.signal(signal.SIGHUP)
daemon.stop()                                  # SIGTERM, and SIGKILL if that does not help
daemon.text                                    # the log of all its lives
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class Daemon:
    """One daemon, which may be started and stopped many times."""

    def __init__(
        self, name: str, argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = log
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def start(self, ready: Callable[[], bool], timeout: float = 60) -> None:
        """Start it and wait until `ready`; AssertionError with its log if it does not come up."""
        with open(self.log, "ab") as log:
            # A session of its own: an interrupted test run does not take it down before its containers.
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while not ready():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                what = "ended" if ended else f"is not ready after {timeout} s"
                raise AssertionError(f"{self.name} {what}: {self.text[-4000:]}")
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def await_text(self, text: str, count: int = 1, timeout: float = 20) -> None:
        """Wait until its log contains `text` that often."""
        deadline = time.monotonic() + timeout
        while self.text.count(text) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} does not say {text!r}: {self.text[-4000:]}")
            time.sleep(0.02)

    def stop(self, timeout: float = 30) -> None:
        """End it; its containers are not touched. May be called twice."""
        if not self._process:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
