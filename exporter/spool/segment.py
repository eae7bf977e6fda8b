# SPDX-License-Identifier: Apache-2.0
"""A segment of the spool: one file with the records between two positions of a ring.

Its name tells everything that must be known before, or without, reading it:

    BOOT_RING_BEGIN_END_RECORDS_TOTAL_BATCH_AT_OFFSET_SIZE_CRC.arrow

Arrow has no checksum of its own, so a flipped bit would come out as another number: the name carries
the file's length and CRC-32, which finds every single flip and every burst up to 32 bits.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from exporter.ring import STRIDE, Columns
from exporter.spool import columns

MINUTE = 60 * 10**9
_NAME = re.compile(r"([0-9a-f]{32})((?:_\d{1,20}){7})_(-?\d{1,20})_(\d{1,20})_([0-9a-f]{8})\.arrow")
_ROOM = 1 << 64


class DamagedError(Exception):
    """A file's bytes are not those that were written."""


class RingId(NamedTuple):
    """One ring: positions and sequences count in it. boot is the boot id without dashes."""

    boot: str
    ring: int


class BatchKey(NamedTuple):
    """One batch of a ring; number is the sequence with which its first segment begins."""

    ring_id: RingId
    number: int


@dataclass(frozen=True, slots=True)
class Segment:
    """What a name tells.

    begin, end: ring positions, bytes. records: how many are in it; total: how many were ever spooled of
    this ring, these included. batch: the number of its batch. at: boottime ns when its first record
    closed; offset: ns to add to boottimes for UTC. size, crc: of the file.
    """

    ring_id: RingId
    begin: int
    end: int
    records: int
    total: int
    batch: int
    at: int
    offset: int
    size: int
    crc: int

    @property
    def name(self) -> str:
        """The file's name."""
        numbers = (self.begin, self.end, self.records, self.total, self.batch, self.at, self.offset)
        text = "_".join(map(str, (*self.ring_id, *numbers, self.size)))
        return f"{text}_{self.crc:08x}.arrow"

    @property
    def key(self) -> BatchKey:
        return BatchKey(self.ring_id, self.batch)

    @property
    def minute(self) -> int:
        """The wall clock's minute of its first record, counted from 1970."""
        return (self.at + self.offset) // MINUTE

    @property
    def before(self) -> int:
        """How many records of this ring were spooled before these."""
        return self.total - self.records


def parse(name: str) -> Segment | None:
    """The segment of this name; None if it is no such name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    ring, begin, end, records, total, batch, at = map(int, match[2][1:].split("_"))
    sound = begin < end < _ROOM and begin % STRIDE == end % STRIDE == 0 and batch * STRIDE <= begin
    if not sound or not 0 < records <= min(total, (end - begin) // STRIDE):
        return None
    offset, size, crc = int(match[3]), int(match[4]), int(match[5], 16)
    return Segment(RingId(match[1], ring), begin, end, records, total, batch, at, offset, size, crc)


def sized(item: Segment, data: pa.Buffer) -> Segment:
    """`item` with what the file's bytes give."""
    return dataclasses.replace(item, size=data.size, crc=checksum(memoryview(data)))


def checksum(data: bytes | memoryview) -> int:
    """CRC-32 of a file's bytes."""
    return zlib.crc32(data)


def read(directory: str, segment: Segment) -> bytes:
    """The file, as it was written: DamagedError if not; FileNotFoundError if it has been dropped."""
    try:
        with open(os.path.join(directory, segment.name), "rb") as file:
            data = file.read(segment.size + 1)
    except OSError as error:
        if error.errno == errno.EIO:  # a bad block, today and tomorrow
            raise DamagedError(f"{segment.name}: {error.strerror}") from None
        raise
    if len(data) != segment.size or checksum(data) != segment.crc:
        raise DamagedError(f"{segment.name}: its bytes are not those that were written")
    return data


def load(directory: str, segment: Segment) -> tuple[Columns, NDArray[np.uint64]]:
    """The records and their sequence; errors as read()."""
    try:
        records, sequence = columns.decode(read(directory, segment))
    except columns.UnreadableError as error:
        raise DamagedError(f"{segment.name}: {error}") from None
    if len(records) != segment.records:
        raise DamagedError(f"{segment.name}: it holds {len(records)} records")
    return records, sequence


def owners(directory: str, segment: Segment) -> list[int]:
    """The distinct owners in it; errors as read()."""
    try:
        return columns.owners(read(directory, segment))
    except columns.UnreadableError as error:
        raise DamagedError(f"{segment.name}: {error}") from None
