# SPDX-License-Identifier: Apache-2.0
"""The ledger: seen = delivered + waiting + dropped{reason}, for each sink, at every moment.

Each term comes from somewhere else: seen from the totals in the segments' names, waiting from the files
that are there, delivered and dropped from the sink's marks. So a file that is gone shows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from exporter.spool import mark, segment
from exporter.spool.mark import REASONS, Mark
from exporter.spool.recovery import QUARANTINE
from exporter.spool.segment import RingId, Segment

ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Row:
    """Records, of this ring and of older ones that still have some waiting.

    unaccounted: what is missing in the ledger; 0 unless a file was removed by other hands, and then until
    the sink has come past it: it is counted as dropped, `missing`, from there on.
    """

    sink: str
    seen: int
    delivered: int
    waiting: int
    dropped: dict[str, int]

    @property
    def unaccounted(self) -> int:
        return self.seen - self.delivered - self.waiting - sum(self.dropped.values())


def rows(
    marks: Iterable[Mark],
    segments: Collection[Segment],
    spoilt: Collection[Segment],
    totals: Mapping[RingId, int],
) -> list[Row]:
    """One row for each sink, by name.

    segments: in the spool, the spoilt ones, whose file is set aside, included. totals: how many records
    each ring ever had.
    """
    found: dict[str, Row] = {}
    for one in marks:
        row = found.get(one.sink, Row(one.sink, 0, 0, 0, dict.fromkeys(REASONS, 0)))
        ahead = [s for s in segments if s.ring_id == one.ring_id and s.end > one.position]
        lost = sum(s.records for s in ahead if s in spoilt)
        dropped = dict(zip(REASONS, one.dropped, strict=True))
        dropped["damaged"] += lost
        found[one.sink] = Row(
            one.sink,
            row.seen + totals.get(one.ring_id, one.settled) - one.before,
            row.delivered + one.delivered,
            row.waiting + sum(s.records for s in ahead) - lost,
            {reason: row.dropped[reason] + dropped[reason] for reason in REASONS},
        )
    return [found[sink] for sink in sorted(found)]


def read(directory: str) -> list[Row]:
    """The same from a spool's directory alone, which may be in use; OSError if there is none.

    Names that change while they are listed may be met twice or not at all: what does not add up is
    looked at again.
    """
    for _ in range(ATTEMPTS):
        found = _read(directory)
        if not any(row.unaccounted for row in found):
            break
        time.sleep(0.1)
    return found


def _read(directory: str) -> list[Row]:
    names = os.listdir(directory)
    marks: dict[tuple[str, RingId], Mark] = {}
    for one in filter(None, map(mark.parse, names)):
        at = (one.sink, one.ring_id)
        marks[at] = max(one, marks.get(at, one), key=lambda m: m.position)
    segments = {found for found in map(segment.parse, names) if found is not None}
    shelf = map(segment.parse, os.listdir(os.path.join(directory, QUARANTINE)))
    spoilt = {found for found in shelf if found is not None} - segments
    totals: dict[RingId, int] = {}
    for item in segments | spoilt:
        totals[item.ring_id] = max(item.total, totals.get(item.ring_id, 0))
    for one in marks.values():
        totals[one.ring_id] = max(one.settled, totals.get(one.ring_id, 0))
    return rows(marks.values(), segments | spoilt, spoilt, totals)
