# SPDX-License-Identifier: Apache-2.0
"""The real exporter as a process, with private pins, run directory and configuration.

    with Exporter(tmp_path, pin_directory, engine_roots=["flowtag-test-7"]) as exporter:
        ...traffic...
        record = exporter.await_record(lambda r: r["local_port"] == 8080)
        some = exporter.await_records(lambda r: r["pid"] == 17, 2)
        exporter.records                       # all so far, parsed JSON lines, in order
        exporter.log                           # its standard error so far; await_log("text") waits
        exporter.stop()                        # SIGINT; exit status; the records are complete then
        exporter.run_directory, exporter.pin_directory, exporter.config    # paths

    flowtag("maps", "dump", "--json", config=exporter.config)   # any other command; stdout, as text

`tables` is more TOML for the configuration file; `view` is where it runs, see view.py. Entering returns when
the exporter says that its programs are attached: after a restart the pins alone say nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.rig.view import View

ROOT = Path(__file__).resolve().parents[2]
COMMAND = str(ROOT / ".venv/bin/flowtag")

Record = dict[str, Any]


def flowtag(*arguments: str, config: Path | None = None, timeout: float = 30) -> str:
    """Run a flowtag command to its end; RuntimeError with what it said if it fails."""
    tail = ["--config", str(config)] if config else []
    done = subprocess.run(
        [COMMAND, *arguments, *tail], capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise RuntimeError(f"flowtag {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def is_up(pin_directory: Path, run_directory: Path) -> bool:
    """An exporter has attached its programs and holds its lock.

    The lock is looked up in /proc/locks: trying to take it could turn the exporter away.
    """
    try:
        (pin_directory / "link_state").stat()
        lock = (run_directory / "exporter.lock").stat()
    except FileNotFoundError:
        return False
    key = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
    return key in Path("/proc/locks").read_text(encoding="ascii").split()


def _with_interim(tables: str, seconds: int) -> str:
    """TOML has a table once only."""
    head, found, tail = tables.partition("[exporter]\n")
    return f"{head}\n[exporter]\ninterim_seconds = {seconds}\n{tail if found else ''}\n"


class Exporter:
    """`flowtag run --output json` in the background."""

    def __init__(
        self,
        directory: Path,
        pin_directory: Path,
        *,
        engine_roots: Sequence[str] = (),
        tables: str = "",
        arguments: Sequence[str] = (),
        view: View | None = None,
        interim_seconds: int = 0,
    ) -> None:
        """interim_seconds: 0, since most tests expect one record a flow."""
        directory.mkdir(parents=True, exist_ok=True)
        self.pin_directory = pin_directory
        self.run_directory = directory / "run"
        self.config = directory / "flowtag.toml"
        self.config.write_text(
            "[host]\n"
            f"pin_directory = {json.dumps(str(pin_directory))}\n"
            f"run_directory = {json.dumps(str(self.run_directory))}\n"
            f"engine_roots = {json.dumps(list(engine_roots))}\n" + _with_interim(tables, interim_seconds),
            encoding="utf-8",
        )
        self._arguments = list(arguments)
        self._view = view or View()
        self._records: list[Record] = []
        self._log: list[str] = []
        self._news = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        self._log_ended = False

    def __enter__(self) -> Exporter:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def records(self) -> list[Record]:
        with self._news:
            return list(self._records)

    @property
    def log(self) -> str:
        with self._news:
            return "".join(self._log)

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def start(self, timeout: float = 30) -> None:
        """Start it, also after stop(); AssertionError with its log if it does not come up."""
        argv = [COMMAND, "run", "--config", str(self.config), "--output", "json", *self._arguments]
        argv = self._view.command(*argv)
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        before, self._log_ended = len(self._log), False
        self._readers = [
            threading.Thread(target=reader, args=(self._process,), daemon=True)
            for reader in (self._read_records, self._read_log)
        ]
        for thread in self._readers:
            thread.start()
        with self._news:
            up = self._news.wait_for(
                lambda: any("attached" in line for line in self._log[before:]) or self._log_ended,
                timeout,
            )
        if not up or self._process.poll() is not None:
            self.stop()
            raise AssertionError(f"the exporter does not come up: {self.log}")

    def stop(self, number: signal.Signals = signal.SIGINT, timeout: float = 20) -> int:
        """End it by a signal; its exit status. Its records and its log are complete then."""
        assert self._process
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        for thread in self._readers:
            thread.join(timeout)
        return status

    def await_log(self, text: str, timeout: float = 10) -> None:
        """Wait until its log contains `text`."""
        with self._news:
            if not self._news.wait_for(lambda: text in "".join(self._log), timeout):
                raise AssertionError(f"the exporter does not say {text!r}: {''.join(self._log)}")

    def await_record(self, wanted: Callable[[Record], bool], timeout: float = 10) -> Record:
        """The first record that is `wanted`, as soon as it is there."""
        return self.await_records(wanted, 1, timeout)[0]

    def await_records(
        self, wanted: Callable[[Record], bool], count: int, timeout: float = 10
    ) -> list[Record]:
        """All that are `wanted`, as soon as there are `count`; AssertionError if too few come."""
        with self._news:
            self._news.wait_for(lambda: sum(map(wanted, self._records)) >= count, timeout)
            found = [record for record in self._records if wanted(record)]
            if len(found) < count:
                last = json.dumps(self._records[-20:], indent=1)
                raise AssertionError(
                    f"{len(found)} records of {count}; {len(self._records)} in all, the last: "
                    f"{last}\n{''.join(self._log)}"
                )
        return found

    def _read_records(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        with process.stdout as lines:
            for line in lines:
                record = json.loads(line)
                with self._news:
                    self._records.append(record)
                    self._news.notify_all()

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr
        with process.stderr as lines:
            for line in lines:
                with self._news:
                    self._log.append(line)
                    self._news.notify_all()
        with self._news:
            self._log_ended = True
            self._news.notify_all()
