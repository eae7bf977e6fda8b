# SPDX-License-Identifier: Apache-2.0
"""The ring ft_events seen by a bystander: read-only, whatever its consumer does.

What the consumer has given back stays in the ring's memory until the kernel writes over it, so the last
95,000 records (of 16 MiB) are there to be seen whether an exporter runs or not. Nothing is mapped
for writing, so no mistake here can move a position.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from types import TracebackType

import numpy as np

from bpf.error import FlowtagError
from exporter.ring import STRIDE, Batch, cut
from identity.pinned import open_map

EVENTS = "ft_events"


class RingTail:
    """A place in the ring that goes on with what it has seen. A context manager.

    missed counts the records that were written over before they were seen.
    """

    def __init__(self, fd: int, number: int, size: int) -> None:
        """Begins with the oldest record that is still there."""
        self.id = number
        self.missed = 0
        self._size = size
        page = mmap.PAGESIZE
        self._pages = mmap.mmap(fd, page + 2 * size, prot=mmap.PROT_READ, offset=page)
        self._producer = np.frombuffer(self._pages, np.uint64, 1)
        self._data = np.frombuffer(self._pages, np.uint8, 2 * size, page)
        self.position = self._intact()

    @classmethod
    def open(cls, pin_directory: str) -> RingTail:
        """Of the pinned ring; FlowtagError if there is none."""
        with open_map(EVENTS, pin_directory) as ring:
            try:
                return cls(ring.fd, ring.id, ring.max_entries)
            except OSError as error:
                raise FlowtagError(f"reading the ring {pin_directory}/{EVENTS}: {error.strerror}") from None

    def __enter__(self) -> RingTail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._producer, self._data
        with contextlib.suppress(BufferError):  # somebody still looks: his frame keeps the pages
            self._pages.close()

    @property
    def producer(self) -> int:
        """The position behind what the kernel has written, or is writing."""
        return int(self._producer[0])

    def _intact(self) -> int:
        """The first position that the kernel is surely not writing over.

        It writes a record's header before it moves its position (bpf_ringbuf_reserve), one at a time under
        a lock: hence one record of distance.
        """
        return max(0, -(-(self.producer + STRIDE - self._size) // STRIDE) * STRIDE)

    def seek(self, position: int) -> None:
        """Go on from there; what is not there any more will be missed."""
        self.position = position

    def take(self, limit: int = 1 << 15) -> Batch:
        """At most `limit` records from here on, as a copy; up to the first that is still being written."""
        self._skip(self._intact())
        count = max(0, min((self.producer - self.position) // STRIDE, limit))
        data = self._data[self.position % self._size :][: count * STRIDE].copy()
        begin = self.position
        over = min(count, max(0, (self._intact() - begin) // STRIDE))  # while it was copied
        self._skip(begin + over * STRIDE)
        taken = cut(data[over * STRIDE :], self.position)
        self.position = taken.end
        return taken

    def _skip(self, position: int) -> None:
        if position > self.position:
            self.missed += (position - self.position) // STRIDE
            self.position = position


def stamp(pin_directory: str) -> int:
    """Changes when another ring is pinned there; 0 if there is none."""
    try:
        return os.stat(os.path.join(pin_directory, EVENTS)).st_ino
    except OSError:
        return 0
