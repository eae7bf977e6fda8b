# SPDX-License-Identifier: Apache-2.0
"""The exporter's way from a ring to the sinks, without the kernel: a process to be killed.

    spooler = Spooler(directory)                  # ring file, spool, one JSON sink; nothing runs yet
    with spooler.writer() as kernel: kernel.write(records(10))
    process = spooler.start(step=("rename", 3))   # dies by SIGKILL before its third rename; None: does not
    spooler.cookies()                             # of every record in the spool, by the files alone
    spooler.delivered()                           # (batch, cookie) of every line of the sink

`python -m tests.rig.spooler DIRECTORY` is what runs. It turns minutes into half seconds, so that batches
are closed, delivered and removed all the time.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.config import Config
from exporter.config import Spool as Settings
from exporter.label import Label
from exporter.sinks.config import Json
from exporter.sinks.json_lines import JsonFile
from exporter.spool import segment, spool, spooling
from tests.rig.ring_file import RingFile, RingWriter

BOOT = "01234567-89ab-cdef-0123-456789abcdef"
STEPS = ("open", "write", "fsync", "rename", "unlink", "release")
ROOT = Path(__file__).resolve().parents[2]


class Spooler:
    """A directory with a ring and a spool, and the processes that use them one after the other."""

    def __init__(self, directory: Path, ring_bytes: int = 1 << 22) -> None:
        self.directory = directory
        self.ring = directory / "ring"
        self.spool = directory / "spool"
        if not self.ring.exists():
            RingFile.create(self.ring, ring_bytes)

    def writer(self) -> RingWriter:
        return RingWriter(self.ring)

    def start(
        self, step: tuple[str, int] | None = None, sinks: int = 1, around: tuple[str, ...] = (), keep: int = 0
    ) -> subprocess.Popen[bytes]:
        """around: a command that runs the one behind it, such as unshare. keep: [spool] keep_seconds."""
        arguments = [str(self.directory), str(sinks), str(keep), *(map(str, step) if step else ())]
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [*around, sys.executable, "-m", "tests.rig.spooler", *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def died(self, process: subprocess.Popen[bytes]) -> None:
        """It was killed, and did not end by itself before that."""
        if process.stdin:
            process.stdin.close()
        assert process.wait() == -signal.SIGKILL, (self.directory / "log").read_text(encoding="utf-8")

    @staticmethod
    def stop(process: subprocess.Popen[bytes], timeout: float = 30) -> int:
        """End it in order; its status."""
        if process.stdin:
            process.stdin.close()
        return process.wait(timeout)

    def cookies(self) -> list[int]:
        found: list[int] = []
        for path in self.spool.glob("*.arrow"):
            known = segment.parse(path.name)
            assert known
            found += segment.load(str(self.spool), known)[0]["cookie"].tolist()
        return sorted(found)

    def delivered(self) -> list[tuple[int, int]]:
        found = []
        paths = self.directory.glob("flows.json*")
        for path in sorted(paths, key=lambda p: -int(p.suffix[1:]) if p.suffix != ".json" else 1):
            for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
                record = json.loads(line)
                found.append((record["batch"], int(record["flow_id"].split("/")[2])))
        return found


def _die_at(step: str, count: int) -> None:
    """SIGKILL before the count-th call of one of the calls that change something."""
    left = [count]
    lock = threading.Lock()

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with lock:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    if step == "release":
        RingFile.release = dying(RingFile.release)  # type: ignore[method-assign]
    else:
        setattr(os, step, dying(getattr(os, step)))


def main() -> None:
    directory = Path(sys.argv[1])
    sinks: dict[str, JsonFile] = {}
    if sys.argv[2] != "0":
        sinks["file"] = JsonFile(Json(str(directory / "flows.json"), rotate_bytes=1 << 30))
    if sys.argv[4:]:
        _die_at(sys.argv[4], int(sys.argv[5]))
    for module in (segment, spool):
        vars(module)["MINUTE"] = 5 * 10**8
    vars(spool)["GRACE"] = 0
    settings = Settings(True, str(directory / "spool"), min_free_bytes=0, stop_seconds=20)
    config = Config(spool=dataclasses.replace(settings, keep_seconds=int(sys.argv[3])))
    with RingFile(directory / "ring") as ring:
        # Not every second but all the time: there is more to be killed in.
        wait = ring.wait
        vars(ring)["wait"] = lambda seconds: wait(min(seconds, 0.02))
        with spooling.Spooling(
            config, ring, ("host", BOOT), lambda owner: Label(workload="w"), sinks, tapped=False
        ) as way:
            while not select.select([sys.stdin], [], [], 0.05)[0]:  # until whoever started us lets go
                way.live(0)
        for row in way.ledger():
            print(row, "unaccounted", row.unaccounted, flush=True)


if __name__ == "__main__":
    main()
