# SPDX-License-Identifier: Apache-2.0
"""A disk that is full or read-only: records wait in the ring, losses are counted, and it recovers by itself.

The spool lies on a small tmpfs in a mount namespace of the spooler's own, seen from here by /proc/PID/root.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.spool import ledger
from exporter.spool.ledger import Row
from tests.rig.ring_file import RingWriter, records
from tests.rig.spooler import Spooler

SIZE = 1 << 20


class SmallDisk:
    """A spooler whose spool has a disk of its own."""

    def __init__(self, directory: Path, options: str = "") -> None:
        self.spooler = Spooler(directory, ring_bytes=1 << 18)
        spool = self.spooler.spool
        spool.mkdir()
        mount = f'mount -t tmpfs -o mode=700,size={SIZE} tmpfs "$0" && mkdir -m 700 "$0/quarantine"'
        ready = f'{mount} {options} && exec "$@"'
        self.process = self.spooler.start(sinks=0, around=("unshare", "-m", "sh", "-c", ready, str(spool)))
        self.path = Path(f"/proc/{self.process.pid}/root{spool}")
        self.written = 0

    def remount(self, how: str) -> None:
        inside = ("nsenter", "-t", str(self.process.pid), "-m", "mount", "-o", f"remount,{how}")
        for _ in range(200):  # busy, as long as a file is open for writing
            if (
                subprocess.run(
                    [*inside, str(self.spooler.spool)], capture_output=True, check=False
                ).returncode
                == 0
            ):
                return
            time.sleep(0.005)
        raise AssertionError(f"cannot remount {how}")

    def write(self, kernel: RingWriter, count: int) -> None:
        """So many records, or as many as the ring has room for."""
        self.written += kernel.write(records(count, self.written + kernel.lost))

    def row(self) -> Row:
        (row,) = ledger.read(str(self.path))
        return row

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.log()
            assert self.process.poll() is None, self.log()
            time.sleep(0.02)

    def log(self) -> str:
        return (self.spooler.directory / "log").read_text(encoding="utf-8")


@pytest.fixture
def disk(kernel: None, tmp_path: Path) -> Iterator[SmallDisk]:
    made = SmallDisk(tmp_path)
    yield made
    assert made.process.poll() is None, "it went on through everything"
    assert made.spooler.stop(made.process) == 0, made.log()


def test_full_disk_drops_the_oldest_and_counts(disk: SmallDisk) -> None:
    disk.until(lambda: any(disk.path.glob("*.mark")))
    with disk.spooler.writer() as kernel:
        while disk.written < 40_000 or disk.row().dropped["min_free"] == 0:
            disk.write(kernel, 200)
            disk.until(lambda: disk.row().seen == disk.written)
            assert disk.written < 500_000
        assert kernel.lost == 0
    row = disk.row()
    assert row.unaccounted == 0
    assert row.seen == row.waiting + row.dropped["min_free"]
    assert row.waiting > 0


def test_disk_filled_by_others_the_ring_holds_and_then_counts(disk: SmallDisk) -> None:
    disk.until(lambda: any(disk.path.glob("*.mark")))
    with disk.spooler.writer() as kernel:
        disk.write(kernel, 100)
        disk.until(lambda: disk.row().seen == disk.written)
        hog = disk.path / "quarantine" / "hog"
        with hog.open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            before = disk.written
            disk.write(kernel, 100)
            disk.until(lambda: "cannot write" in disk.log())
            while kernel.lost == 0:
                disk.write(kernel, 1000)
                # What our own oldest records give back is soon taken by the hog again.
                with contextlib.suppress(OSError):
                    file.write(bytes(4096))
                time.sleep(0.02)
        hog.unlink()
        disk.until(lambda: "writes again" in disk.log())
        disk.until(lambda: disk.row().seen == disk.written)
    row = disk.row()
    assert disk.written > before
    assert row.unaccounted == 0
    assert row.waiting + sum(row.dropped.values()) == disk.written


def test_read_only_disk_the_ring_holds_and_nothing_is_lost(disk: SmallDisk) -> None:
    disk.until(lambda: any(disk.path.glob("*.mark")))
    with disk.spooler.writer() as kernel:
        disk.write(kernel, 100)
        disk.until(lambda: disk.row().seen == disk.written)
        disk.remount("ro")
        for _ in range(4):
            disk.write(kernel, 100)
            time.sleep(0.1)
        disk.until(lambda: "Read-only file system" in disk.log())
        assert disk.row().seen == 100
        disk.remount("rw")
        disk.until(lambda: disk.row().seen == disk.written)
        assert kernel.lost == 0
    assert disk.row().unaccounted == 0
    assert disk.row().waiting == 500


def test_read_only_disk_at_the_start_is_waited_for(kernel: None, tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path, '&& mount -o remount,ro "$0"')
    with disk.spooler.writer() as writer:
        disk.write(writer, 50)
        disk.until(lambda: "Read-only file system" in disk.log())
        disk.remount("rw")
        disk.until(lambda: any(disk.path.glob("*.mark")) and disk.row().waiting == 50)
        assert disk.row().unaccounted == 0
    assert disk.spooler.stop(disk.process) == 0
