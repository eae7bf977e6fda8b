# SPDX-License-Identifier: Apache-2.0
"""The ring buffer ft_events, mapped into the process and read as columns.

Every record has one size, so what lies between the consumer and the producer position is one array;
the kernel maps the data pages twice in a row, so it never wraps. Source: kernel/bpf/ringbuf.c.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpf import abi
from bpf.error import FlowtagError
from bpf.syscall import Map

BUSY = 1 << 31
DISCARDED = 1 << 30
HEADER = 8
STRIDE = HEADER + abi.EVENT.size

Columns = NDArray[Any]
"""A structured array, one element a record, with the fields of struct ft_event."""


def _dtype() -> np.dtype[Any]:
    """struct ft_event behind its ring header, with the kernel's offsets."""
    names, formats, offsets = ["header"], ["u4"], [0]
    offset = HEADER
    for name, code in abi.EVENT.fields:
        layout = abi.Layout("", ("field", code))
        if name != "pad":
            names.append(name)
            formats.append(f"V{layout.size}" if code.endswith("s") else f"u{layout.size}")
            offsets.append(offset)
        offset += layout.size
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": STRIDE})


DTYPE = _dtype()


@dataclass(frozen=True, slots=True)
class Batch:
    """Records taken from the ring: `records` in ring order, `sequence` counting each in its ring.

    count is how many were looked at, discarded ones included; end is the consumer position after
    them: Ring.release(end) gives their room back to the kernel.
    """

    records: Columns
    sequence: NDArray[np.uint64]
    count: int
    end: int


def cut(data: NDArray[np.uint8], begin: int) -> Batch:
    """The records in `data`, whole strides that begin at ring position `begin`.

    Ends before the first record that is still being written; passes discarded ones over. Without
    discarded ones the records are not copied: they lie in `data`.
    """
    view = data.view(DTYPE)
    header = view["header"]
    busy = np.flatnonzero(header & BUSY)
    count = int(busy[0]) if len(busy) else len(view)
    kept = np.flatnonzero((header[:count] & DISCARDED) == 0)
    sequence = (begin // STRIDE + kept).astype(np.uint64)
    records = view[:count] if len(kept) == count else view[kept]
    return Batch(records, sequence, count, begin + count * STRIDE)


class Ring:
    """The consumer's side. A context manager; only one consumer may exist at a time."""

    _heard: set[int] | None = None

    def __init__(self, fd: int) -> None:
        with Map(os.dup(fd), "ft_events") as info:
            self._map(fd, info.id, info.max_entries)
        self._poll = select.epoll()
        self._poll.register(fd, select.EPOLLIN)

    def _map(self, fd: int, number: int, size: int) -> None:
        self.id = number
        self.size = size
        page = mmap.PAGESIZE
        self._consumer_page = mmap.mmap(fd, page)
        self._producer_page = mmap.mmap(fd, page + 2 * self.size, prot=mmap.PROT_READ, offset=page)
        self._consumer = np.frombuffer(self._consumer_page, np.uint64, 1)
        self._producer = np.frombuffer(self._producer_page, np.uint64, 1)
        self._data = np.frombuffer(self._producer_page, np.uint8, 2 * self.size, page)
        self._check(self.consumer)

    @property
    def consumer(self) -> int:
        """The position up to which the kernel has its room back."""
        return int(self._consumer[0])

    @property
    def producer(self) -> int:
        """The position behind what the kernel has written, or is writing."""
        return int(self._producer[0])

    def _check(self, position: int) -> None:
        """A consumer ahead of the producer, or off a record's beginning, would stop the ring for ever."""
        producer = self.producer
        fits = position <= producer and producer - position <= self.size and position % STRIDE == 0
        if fits and position < producer:
            header = self._data[position % self.size :][:STRIDE].view(DTYPE)["header"][0]
            fits = int(header) & ~(BUSY | DISCARDED) == abi.EVENT.size
        if not fits:
            raise FlowtagError(
                f"reading the ring ft_events: consumer position {position} does not fit the producer's"
                f" {producer} (ring of {self.size} bytes, records of {STRIDE})",
                "remove the pin of ft_events and the links, then start the exporter again",
            )

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self._poll.close()
        self.unmap()

    def unmap(self) -> None:
        """Let go of the pages; the positions stay with the map."""
        del self._data, self._consumer, self._producer
        self._consumer_page.close()
        with contextlib.suppress(BufferError):  # somebody still looks: his frame keeps the pages
            self._producer_page.close()

    def wait(self, seconds: float) -> None:
        """Sleep; shorter only if the ring is more than half full."""
        self._poll.poll(seconds)

    def resume(self, position: int) -> None:
        """Pass over what a predecessor has taken, but died before it gave the room back."""
        if position > self.consumer:
            self._check(position)
            self.release(position)

    def note_owners(self) -> None:
        """From now on remember whose records were looked at, for heard()."""
        self._heard = set()

    def heard(self) -> set[int]:
        """The owners of what was looked at since the last call. May be asked by another thread."""
        heard, self._heard = self._heard or set(), set()
        return heard

    def fill(self) -> float:
        """How full the ring is, 0 to 1."""
        return (self.producer - self.consumer) / self.size

    def look(self, limit: int = 1 << 16) -> Batch:
        """At most `limit` records, up to the first that is still being written.

        They may lie in the ring itself, and are then sound until release() only: a copy costs as much
        as half of the way to the disk.
        """
        begin = self.consumer
        count = min((self.producer - begin) // STRIDE, limit)
        seen = cut(self._data[begin % self.size :][: count * STRIDE], begin)
        if self._heard is not None:
            self._heard.update(np.unique(seen.records["owner"]).tolist())
        return seen

    def take(self, limit: int = 1 << 16) -> Batch:
        """The same as a copy, which outlives release()."""
        seen = self.look(limit)
        return Batch(seen.records.copy(), seen.sequence, seen.count, seen.end)

    def release(self, end: int) -> None:
        """Give the room up to position `end` back to the kernel."""
        self._consumer[0] = end
