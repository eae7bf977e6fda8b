# SPDX-License-Identifier: Apache-2.0
"""What a spool directory holds at the start, whatever its last writer died of.

Only names and lengths are looked at: contents are checked when they are read. Nothing here needs room
on the disk, but for one case that cannot come about by a crash (two files that overlap in part).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from dataclasses import dataclass, field

import structlog

from bpf.error import FlowtagError
from exporter.ring import STRIDE
from exporter.spool import columns, durable, mark, names, segment
from exporter.spool.mark import Mark
from exporter.spool.names import NamesFile
from exporter.spool.segment import BatchKey, RingId, Segment

QUARANTINE = "quarantine"
QUARANTINED_FILES = 16  # of a disk that spoils everything, these are enough to look at


@dataclass(slots=True)
class Contents:
    """Segments by ring, older rings first and each in order, without overlaps; their batches' names; marks.

    truncated: segments whose file is shorter or longer than it was; spoilt: those that were set aside
    before. Both are also in their place among the segments.
    """

    segments: dict[RingId, list[Segment]] = field(default_factory=dict)
    names: dict[BatchKey, NamesFile] = field(default_factory=dict)
    marks: dict[tuple[str, RingId], Mark] = field(default_factory=dict)
    truncated: list[Segment] = field(default_factory=list)
    spoilt: set[Segment] = field(default_factory=set)


def prepare(directory: str) -> None:
    """Make the directory and those in it, for root alone; FlowtagError if that cannot be."""
    try:
        for path in (directory, os.path.join(directory, QUARANTINE)):
            if not os.path.isdir(path):
                os.makedirs(path, mode=0o700)
            if os.stat(path).st_mode & 0o777 != 0o700:
                os.chmod(path, 0o700)
    except OSError as error:
        raise FlowtagError(
            f"making the spool {directory}: {error.filename}: {error.strerror}",
            "name another place in [spool] directory, or make room",
        ) from None


def set_aside(directory: str, name: str, *, nobodys: bool = False) -> None:
    """Move a spoilt file to quarantine/, where the newest few are kept; remove it if that fails.

    nobodys: it has no place among the segments, so its records are not counted.
    """
    shelf = os.path.join(directory, QUARANTINE)
    path = os.path.join(directory, name)
    try:
        aside = os.path.join(shelf, f"{name}.nobodys" if nobodys else name)
        os.rename(path, aside)
        os.utime(aside, follow_symlinks=False)
        kept = sorted(os.scandir(shelf), key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns)
        for entry in kept[:-QUARANTINED_FILES]:
            os.unlink(entry.path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)


def recover(directory: str) -> Contents:
    """Read the names, remove what is torn or doubled, set aside what is nobody's."""
    found = Contents()
    log = structlog.get_logger()
    segments: list[Segment] = []
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            continue
        known = segment.parse(entry.name)
        joined = names.parse(entry.name)
        marked = mark.parse(entry.name)
        size = entry.stat(follow_symlinks=False).st_size
        if entry.name.endswith(durable.TEMPORARY):
            _remove(entry.path)  # it never came to be: its records are still in the ring
        elif known is not None:
            segments.append(known)
            if size != known.size:
                found.truncated.append(known)
        elif joined is not None and size == joined.size and joined.key not in found.names:
            found.names[joined.key] = joined
        elif marked is not None:
            _keep_mark(directory, found, marked)
        else:
            log.warning("spool: set aside", file=entry.name)
            set_aside(directory, entry.name)
    _order(directory, found, segments)
    _remember_spoilt(directory, found)
    keys = {s.key for group in found.segments.values() for s in group}
    for key in [key for key in found.names if key not in keys]:
        _remove(os.path.join(directory, found.names.pop(key).name))
    return found


def _remove(path: str) -> None:
    """What cannot be removed now (a read-only disk) is found again at the next start."""
    with contextlib.suppress(OSError):
        durable.remove(path)


def _keep_mark(directory: str, found: Contents, marked: Mark) -> None:
    """Of two marks, which no crash leaves, the one that has come further."""
    other = found.marks.get((marked.sink, marked.ring_id), marked)
    first, last = sorted((other, marked), key=lambda m: m.position)
    if first is not last:
        _remove(os.path.join(directory, first.name))
    found.marks[marked.sink, marked.ring_id] = last


def _order(directory: str, found: Contents, segments: list[Segment]) -> None:
    rings: dict[RingId, list[Segment]] = {}
    for item in segments:
        rings.setdefault(item.ring_id, []).append(item)
    for ring_id, group in sorted(rings.items(), key=lambda i: min(s.at + s.offset for s in i[1])):
        kept: list[Segment] = []
        # Of two that begin together the longer one: the other is contained in it.
        for item in sorted(group, key=lambda s: (s.begin, -s.end)):
            end = kept[-1].end if kept else 0
            if item.end <= end:
                structlog.get_logger().warning("spool: removed a double", file=item.name)
                _remove(os.path.join(directory, item.name))
            elif item.begin < end:
                kept += _cut(directory, item, end)
            else:
                kept.append(item)
        if kept:
            found.segments[ring_id] = kept
    still = {s for group in found.segments.values() for s in group}
    found.truncated = [s for s in found.truncated if s in still]


def _remember_spoilt(directory: str, found: Contents) -> None:
    """Put what was set aside before into its place: sinks that have not come past it will count it."""
    rings = {*found.segments, *(ring_id for _, ring_id in found.marks)}
    for name in os.listdir(os.path.join(directory, QUARANTINE)):
        item = segment.parse(name)
        if item is None or item.ring_id not in rings:
            continue
        group = found.segments.setdefault(item.ring_id, [])
        if all(item.end <= other.begin or other.end <= item.begin for other in group):
            group.append(item)
            group.sort(key=lambda s: s.begin)
            found.spoilt.add(item)


def _cut(directory: str, item: Segment, end: int) -> list[Segment]:
    """What of `item` lies behind position `end`, as a file of its own; set aside if that cannot be."""
    log = structlog.get_logger()
    try:
        records, sequence = segment.load(directory, item)
        rest = sequence >= end // STRIDE
        if not rest.any():
            _remove(os.path.join(directory, item.name))
            return []
        data = columns.encode(records[rest], sequence[rest])
        made = segment.sized(dataclasses.replace(item, begin=end, records=int(rest.sum())), data)
        durable.put(directory, made.name, memoryview(data))
        durable.sync_directory(directory)
        _remove(os.path.join(directory, item.name))
    except (segment.DamagedError, OSError) as error:
        log.warning("spool: set aside what overlaps another", file=item.name, error=str(error))
        set_aside(directory, item.name, nobodys=True)
        return []
    log.warning("spool: cut what overlapped another", file=item.name)
    return [made]
