# SPDX-License-Identifier: Apache-2.0
"""A ring buffer in a file: laid out as the kernel maps ft_events, with a writer in the kernel's place.

    RingFile.create(path, size=1 << 20)
    with RingFile(path) as ring, RingWriter(path) as writer:
        writer.write(records(100))        # how many found room; the rest is lost and counted
        ring.take(), ring.release(...)    # the exporter's own code

Both may be in processes of their own. The file outlives them as a pinned map does.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path
from types import TracebackType

import numpy as np

from bpf import abi
from exporter.ring import DTYPE, STRIDE, Columns, Ring
from identity import address

PAGE = mmap.PAGESIZE


def records(count: int, first: int = 0, **values: object) -> Columns:
    """Closed flows with the cookies first, first + 1, ...; that end now, in boottime."""
    rows = np.zeros(count, DTYPE)
    rows["header"] = abi.EVENT.size
    rows["cookie"] = np.arange(first, first + count)
    rows["kind"] = abi.EVENTS.index("close")
    rows["time_end"] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    rows["time_open"] = rows["time_start"] = rows["time_end"] - 1000
    rows["local_address"] = np.void(address.from_text("192.0.2.1"))
    rows["peer_address"] = np.void(address.from_text("192.0.2.2"))
    for name, value in values.items():
        rows[name] = value
    return rows


class RingFile(Ring):
    """The consumer's side of the file."""

    def __init__(self, path: Path, number: int = 7) -> None:
        size = (path.stat().st_size - 2 * PAGE) // 2
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._map(fd, number, size)
        finally:
            os.close(fd)

    @staticmethod
    def create(path: Path, size: int = 1 << 20) -> None:
        with path.open("wb") as file:
            file.truncate(2 * PAGE + 2 * size)

    def __exit__(self, *_: object) -> None:
        self.unmap()

    def wait(self, seconds: float) -> None:
        """Sleep, or not, if the ring is more than half full."""
        end = time.monotonic() + seconds
        while self.fill() < 0.5 and time.monotonic() < end:
            time.sleep(0.002)


class RingWriter:
    """The kernel's side of the file; one at a time."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.size = (len(self._map) - 2 * PAGE) // 2
        self._consumer = np.frombuffer(self._map, np.uint64, 1)
        self._producer = np.frombuffer(self._map, np.uint64, 1, PAGE)
        self._data = np.frombuffer(self._map, np.uint8, 2 * self.size, 2 * PAGE)
        self.lost = 0

    def __enter__(self) -> RingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._consumer, self._producer, self._data
        self._map.close()

    def write(self, rows: Columns) -> int:
        """As many as find room; the others are lost, as the kernel loses them. How many were written."""
        begin = int(self._producer[0])
        room = (self.size - 1 - (begin - int(self._consumer[0]))) // STRIDE
        fitting = min(room, len(rows))
        data = np.ascontiguousarray(rows[:fitting]).view(np.uint8).reshape(-1)
        places = (begin + np.arange(len(data))) % self.size
        self._data[places] = data
        self._data[places + self.size] = data
        self._producer[0] = begin + len(data)
        self.lost += len(rows) - fitting
        return fitting
