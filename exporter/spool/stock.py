# SPDX-License-Identifier: Apache-2.0
"""What a spool holds, in memory: segments by batch, the names joined to each, and how large all is.

The files' names say the same; it can be had again from them at any moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from exporter.spool.names import NamesFile
from exporter.spool.segment import BatchKey, Segment

BLOCK = 4096  # what a small file takes of most disks


def _room(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


class Stock:
    """Not safe between threads: the spool's lock is around it.

    batches: older rings first, and each in ring order; no group is empty. names: of the batches that are
    closed. spoilt: segments whose file is set aside; they keep their place until every sink has come past.
    bytes: of the files that are in the directory.
    """

    def __init__(
        self, segments: Iterable[Segment], names: dict[BatchKey, NamesFile], spoilt: set[Segment]
    ) -> None:
        self.batches: dict[BatchKey, list[Segment]] = {}
        self.names = dict(names)
        self.spoilt = set(spoilt)
        self.bytes = sum(_room(one.size) for one in self.names.values())
        for item in segments:
            self.batches.setdefault(item.key, []).append(item)
            if item not in self.spoilt:
                self.bytes += _room(item.size)

    def segments(self) -> Iterator[Segment]:
        """Every one, the oldest first, the spoilt ones included."""
        return (item for group in self.batches.values() for item in group)

    def add(self, item: Segment) -> None:
        """A segment that was just written."""
        self.batches.setdefault(item.key, []).append(item)
        self.bytes += _room(item.size)

    def name(self, names: NamesFile) -> None:
        """Names were joined to a batch: it is closed."""
        self.names[names.key] = names
        self.bytes += _room(names.size)

    def unname(self, key: BatchKey) -> None:
        """The names of a batch are lost."""
        names = self.names.pop(key, None)
        if names is not None:
            self.bytes -= _room(names.size)

    def spoil(self, item: Segment) -> bool:
        """A segment's file is set aside; False if it was, or if the segment is no more."""
        if item in self.spoilt or item not in self.batches.get(item.key, ()):
            return False
        self.spoilt.add(item)
        self.bytes -= _room(item.size)
        return True

    def take_out(self, item: Segment) -> list[str]:
        """A segment goes, and with the last one of its batch the names; the files to remove."""
        files = [item.name]
        group = self.batches[item.key]
        group.remove(item)
        if item in self.spoilt:
            self.spoilt.remove(item)
        else:
            self.bytes -= _room(item.size)
        if not group:
            del self.batches[item.key]
            names = self.names.get(item.key)
            if names is not None:
                files.append(names.name)
                self.unname(item.key)
        return files
