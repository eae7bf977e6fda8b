# SPDX-License-Identifier: Apache-2.0
"""How far a sink has come in a ring: an empty file whose name is the state.

    SINK_BOOT_RING_POSITION_BEFORE_DELIVERED_DROPPED..._.mark      one number of DROPPED for each reason

Renaming moves it on: atomic, and without a byte of room on a full disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exporter.ring import Ring
from exporter.sinks import config as sink_config
from exporter.spool import durable
from exporter.spool.segment import RingId, Segment

REASONS = ("max_bytes", "min_free", "damaged", "missing", "refused")
"""Why records were dropped: the spool's two bounds, spoilt files, files that are gone, the sink's refusal."""
DELIVERED = "delivered"
_NAME = re.compile(
    rf"({sink_config.NAME.pattern})_([0-9a-f]{{32}})((?:_\d{{1,20}}){{{4 + len(REASONS)}}})\.mark"
)


@dataclass(frozen=True, slots=True)
class Mark:
    """position: everything before it is settled. before: records from before this sink was there."""

    sink: str
    ring_id: RingId
    position: int
    before: int = 0
    delivered: int = 0
    dropped: tuple[int, ...] = (0,) * len(REASONS)

    @property
    def name(self) -> str:
        numbers = (self.position, self.before, self.delivered, *self.dropped)
        return "_".join(map(str, (self.sink, *self.ring_id, *numbers))) + ".mark"

    @property
    def settled(self) -> int:
        """How many of the ring's records are accounted for."""
        return self.before + self.delivered + sum(self.dropped)

    def _drop(self, reason: str, records: int) -> Mark:
        counts = list(self.dropped)
        counts[REASONS.index(reason)] += records
        return dataclasses.replace(self, dropped=tuple(counts))

    def passed(self, segment: Segment, outcome: str) -> Mark:
        """After this segment was delivered, or dropped for a reason; itself if it lies behind already.

        Records between here and there of which no file is left are `missing`: the totals tell.
        """
        if segment.end <= self.position:
            return self
        mark = self._drop("missing", max(0, segment.before - self.settled))
        if outcome == DELIVERED:
            mark = dataclasses.replace(mark, delivered=mark.delivered + segment.records)
        else:
            mark = mark._drop(outcome, segment.records)
        return dataclasses.replace(mark, position=segment.end)


def parse(name: str) -> Mark | None:
    """The mark of this name; None if it is no such name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    ring, position, before, delivered, *dropped = map(int, match[3][1:].split("_"))
    return Mark(match[1], RingId(match[2], ring), position, before, delivered, tuple(dropped))


class Marks:
    """The marks of a spool, in memory and as files. What cannot be written now is written later.

    Not safe between threads: the spool's lock is around it.
    """

    def __init__(self, directory: str, found: dict[tuple[str, RingId], Mark]) -> None:
        self._directory = directory
        self._marks = dict(found)
        self._files = {key: mark.name for key, mark in found.items()}

    def get(self, sink: str, ring_id: RingId) -> Mark:
        return self._marks[sink, ring_id]

    def all(self) -> list[Mark]:
        return list(self._marks.values())

    def align(self, sinks: Sequence[str], own: RingId, ring: Ring, segments: Iterable[Segment]) -> None:
        """One for each sink in each ring that has segments, and in our own; none else.

        A new sink begins with the oldest that is left.
        """
        oldest: dict[RingId, Segment] = {}
        for item in segments:
            oldest.setdefault(item.ring_id, item)
        for old in self.all():
            gone = old.position > ring.producer if old.ring_id == own else old.ring_id not in oldest
            if gone or old.sink not in sinks:
                self.forget(old)
        known = set(self._marks)
        total = max([0, *(m.settled for m in self.all() if m.ring_id == own)])
        for sink in sinks:
            for ring_id in {*oldest, own}:
                if (sink, ring_id) not in known:
                    first = oldest.get(ring_id)
                    position, before = (first.begin, first.before) if first else (ring.consumer, total)
                    self.put(Mark(sink, ring_id, position, before))

    def put(self, mark: Mark) -> None:
        """In memory: save() writes it."""
        self._marks[mark.sink, mark.ring_id] = mark

    def forget(self, mark: Mark) -> None:
        """Of a sink or a ring that is no more."""
        del self._marks[mark.sink, mark.ring_id]
        name = self._files.pop((mark.sink, mark.ring_id), None)
        if name is not None:
            with contextlib.suppress(OSError):
                durable.remove(os.path.join(self._directory, name))

    def save(self) -> bool:
        """Bring the files up to date; whether any was. OSError if one could not be."""
        changed = False
        for key, mark in self._marks.items():
            name = self._files.get(key)
            if name == mark.name:
                continue
            path = os.path.join(self._directory, mark.name)
            if name is None:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            else:
                os.rename(os.path.join(self._directory, name), path)
            self._files[key] = mark.name
            changed = True
        return changed
