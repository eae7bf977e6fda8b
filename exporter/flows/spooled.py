# SPDX-License-Identifier: Apache-2.0
"""A spool's directory as another process reads it: read-only, and files may go at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bpf.error import FlowtagError
from exporter import peers
from exporter.batch import Batch, Origin
from exporter.flows.names import Names
from exporter.label import Label
from exporter.ring import DTYPE
from exporter.spool import names as names_files
from exporter.spool import segment
from exporter.spool.names import NamesFile
from exporter.spool.segment import BatchKey, RingId, Segment
from identity import nat64

SLACK = 10**9  # ns that records may be out of order in the ring: CPUs write beside one another


@dataclass(slots=True)
class Spooled:
    """What is in a directory: batches, older rings first and each in ring order; the names joined to them.

    damaged: records that could not be read, so far.
    """

    directory: str
    batches: dict[BatchKey, list[Segment]] = field(default_factory=dict)
    names: dict[BatchKey, NamesFile] = field(default_factory=dict)
    damaged: int = 0

    def end(self, ring_id: RingId) -> int:
        """The position up to which records of a ring are here; 0 if there are none."""
        return max(
            (group[-1].end for key, group in self.batches.items() if key.ring_id == ring_id), default=0
        )

    def within(self, since: int | None, until: int | None, *, whole: bool) -> Iterator[list[Segment]]:
        """Segments batch by batch that may have records of this time; whole: no batch in part."""
        groups = list(self.batches.values())
        for number, group in enumerate(groups):
            later = [*group[1:], *(groups[number + 1][:1] if number + 1 < len(groups) else ())]
            near = [
                item
                for place, item in enumerate(group)
                if _touches(item, later[place] if place < len(later) else None, since, until)
            ]
            if near:
                yield group if whole else near

    def load(
        self,
        items: list[Segment],
        host_id: str,
        prefixes: tuple[nat64.Prefix, ...],
        names: Names,
        *,
        peered: bool,
    ) -> Batch:
        """These segments of one batch, ordered by time; what has gone meanwhile is left out.

        peered: look for the other ends, which takes a while.
        """
        parts = []
        for item in items:
            try:
                parts.append((item.offset, *segment.load(self.directory, item)))
            except FileNotFoundError:
                continue
            except segment.DamagedError:
                self.damaged += item.records
        records = np.concatenate([part[1] for part in parts]) if parts else np.empty(0, DTYPE)
        sequence = np.concatenate([part[2] for part in parts]) if parts else np.empty(0, np.uint64)
        offset = np.repeat([part[0] for part in parts], [len(part[1]) for part in parts]).astype(np.int64)
        order = np.argsort(records["time_end"].astype(np.int64) + offset, kind="stable")
        records = records[order]
        key = items[0].key
        boot = key.ring_id.boot
        boot_id = f"{boot[:8]}-{boot[8:12]}-{boot[12:16]}-{boot[16:20]}-{boot[20:]}"
        return Batch(
            Origin(host_id, boot_id, key.ring_id.ring, prefixes),
            key.number,
            items[0].minute,
            records,
            sequence[order],
            offset[order],
            self._labels(key, names, records["owner"]),
            peers.find(records) if peered else np.zeros(len(records), np.uint64),
        )

    def _labels(self, key: BatchKey, names: Names, owners: NDArray[np.uint64]) -> dict[int, Label]:
        file = self.names.get(key)
        joined = names_files.read(self.directory, file) if file else None
        if joined is None:  # the minute that runs, or one whose names a crash has taken
            return names.of(np.unique(owners).tolist())
        names.learn(joined)
        return joined


def _touches(item: Segment, following: Segment | None, since: int | None, until: int | None) -> bool:
    """By the times of first records, which the names tell: a segment ends where the next one begins."""
    if until is not None and item.at + item.offset - SLACK > until:
        return False
    if since is None or following is None or following.ring_id != item.ring_id:
        return True
    return following.at + item.offset + SLACK >= since


def look(directory: str) -> Spooled:
    """What is there now; FlowtagError if the directory cannot be read, FileNotFoundError if there is none."""
    try:
        listed = os.listdir(directory)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FlowtagError(f"reading the spool {directory}: {error.strerror}", "run as root") from None
    found = Spooled(directory)
    rings: dict[RingId, list[Segment]] = {}
    for name in listed:
        item = segment.parse(name)
        joined = names_files.parse(name)
        if item is not None:
            rings.setdefault(item.ring_id, []).append(item)
        elif joined is not None:
            found.names[joined.key] = joined
    for group in sorted(rings.values(), key=lambda items: min(s.at + s.offset for s in items)):
        end = 0
        for item in sorted(group, key=lambda s: (s.begin, -s.end)):
            if item.begin >= end:  # two that overlap only somebody's copying leaves
                found.batches.setdefault(item.key, []).append(item)
                end = item.end
    return found
