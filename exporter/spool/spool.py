# SPDX-License-Identifier: Apache-2.0
"""The spool: records on disk between the ring and the sinks, bounded, the oldest dropped first.

What every sink has settled stays for `keep_seconds`, for people to read, and is the first to make room: it
lies behind the marks, so the ledger does not know it any more.

One thread writes (append, close_batches, enforce), each sink's thread reads (next_batch, settle). The
files' names are the state; what is in memory here can be had again from them at any moment.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from exporter import label
from exporter.config import Spool as Settings
from exporter.label import Label
from exporter.records import boot_to_wall
from exporter.ring import STRIDE, Batch, Ring
from exporter.sinks import config as sink_config
from exporter.spool import columns, durable, ledger, names, recovery, segment
from exporter.spool.ledger import Row
from exporter.spool.mark import DELIVERED, Marks
from exporter.spool.names import NamesFile
from exporter.spool.segment import MINUTE, BatchKey, RingId, Segment
from exporter.spool.stock import Stock

BATCH_RECORDS = 1 << 15  # a batch is in memory, once for each sink
GRACE = 2 * 10**9  # ns after a minute's end for names that come late
(NOBODY,) = sink_config.RESERVED
"""The sink of a spool that has none: what was there to read for keep_seconds counts as delivered to it, and
what the bounds take before that as dropped."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The spool at one moment. rows: the ledger; bytes: of its files, quarantine/ apart.

    oldest: for each sink when the oldest batch ended that waits for it, in seconds since 1970; None: none.
    """

    rows: list[Row]
    bytes: int
    oldest: dict[str, float | None]


class Spool:
    """Owned by one exporter: the lock of the run directory keeps a second one out."""

    def __init__(self, settings: Settings, ring: Ring, boot: str, sinks: Sequence[str]) -> None:
        """Recover what is there, and move the ring on behind it. FlowtagError if there can be no spool."""
        self._settings = settings
        self.directory = settings.directory
        self.ring_id = RingId(boot.replace("-", ""), ring.id)
        self.sinks = tuple(sinks) or (NOBODY,)
        self._changed = threading.Condition()
        self._unsynced: Segment | None = None
        self._doomed: list[str] = []
        recovery.prepare(self.directory)
        found = recovery.recover(self.directory)
        self._stock = Stock(self._own(found, ring), found.names, found.spoilt)
        self.totals = {item.ring_id: item.total for item in self._stock.segments()}
        # The batch that may grow. After a start always a new one: what was closed must not.
        self._open: Segment | None = None
        self._marks = Marks(self.directory, found.marks)
        self._marks_wait = False
        self._marks.align(self.sinks, self.ring_id, ring, self._stock.segments())
        self._save()
        end = max((s.end for s in self._stock.segments() if s.ring_id == self.ring_id), default=0)
        for item in found.truncated:
            self.damaged(item, "its length is another")
        own = [m for m in self._marks.all() if m.ring_id == self.ring_id]
        self.totals[self.ring_id] = max(self.totals.get(self.ring_id, 0), *(m.settled for m in own))
        ring.resume(max(end, *(m.position for m in own)))
        self.collect()

    def _own(self, found: recovery.Contents, ring: Ring) -> list[Segment]:
        """What was found, but for what cannot be of this ring; that is set aside."""
        kept = []
        for item in [s for group in found.segments.values() for s in group]:
            if item.ring_id == self.ring_id and item.end > ring.producer:
                structlog.get_logger().error("spool: ahead of the ring, set aside", file=item.name)
                recovery.set_aside(self.directory, item.name, nobodys=True)
            else:
                kept.append(item)
        return kept

    # The writer's thread.

    def append(self, batch: Batch, offset: int) -> int:
        """Put records, just taken from the ring, on the disk; the position up to which that is so.

        offset: ns to add to boottime for UTC, now. OSError: they are not there, or not surely; the ring
        keeps its room, and the next call tries again.
        """
        if self._unsynced is not None:  # it has its name already: to write it again would double it
            end = self._unsynced.end
            durable.sync_directory(self.directory)
            self._unsynced = None
            return end
        if not len(batch.records):
            return batch.end
        made = self._segment(batch, offset)
        data = columns.encode(batch.records, batch.sequence)
        made = segment.sized(made, data)
        durable.put(self.directory, made.name, memoryview(data))
        with self._changed:
            self._stock.add(made)
            self.totals[self.ring_id] = made.total
        self._open = self._unsynced = made
        durable.sync_directory(self.directory)
        self._unsynced = None
        return made.end

    def _segment(self, batch: Batch, offset: int) -> Segment:
        """In the batch of the one before, if that is of the same minute, still open and not full.

        A clock that is set forth or back makes another minute, and so a new batch; the number, a
        position, goes on.
        """
        begin = batch.end - batch.count * STRIDE
        at = int(batch.records["time_end"][0])
        last = self._open
        count = len(batch.records)
        total = self.totals[self.ring_id] + count
        made = Segment(self.ring_id, begin, batch.end, count, total, begin // STRIDE, at, offset, 0, 0)
        if last is None:
            return made
        made = dataclasses.replace(made, at=max(at, last.at))
        already = sum(s.records for s in self._stock.batches.get(last.key, ()))
        if last.minute != made.minute or already + count > BATCH_RECORDS:
            return made
        return dataclasses.replace(made, batch=last.batch)

    def close_batches(
        self, now: int, offset: int, label_of: Callable[[int], Label], *, everything: bool = False
    ) -> None:
        """Join the names to each batch whose minute is over, for good; then sinks may have it.

        now: boottime ns. OSError: the rest is left to the next call.
        """
        minutes = {(now + offset) // MINUTE, (now + offset - GRACE) // MINUTE}
        for key, group in [*self._stock.batches.items()]:
            grows = self._open is not None and key == self._open.key
            if key in self._stock.names or (grows and not everything and group[0].minute in minutes):
                continue
            if grows:
                self._open = None
            owners: set[int] = set()
            for item in [s for s in group if s not in self._stock.spoilt]:
                try:
                    owners.update(segment.owners(self.directory, item))
                except segment.DamagedError as error:
                    self.damaged(item, str(error))
                except FileNotFoundError:
                    self.damaged(item, "it is gone")
            if key in self._stock.batches:
                self._put_names(key, {owner: label_of(owner) for owner in owners if owner})

    def _put_names(self, key: BatchKey, labels: dict[int, Label]) -> None:
        data = label.pack(labels)
        file = NamesFile(key, len(data), segment.checksum(data))
        durable.put(self.directory, file.name, data)
        durable.sync_directory(self.directory)
        with self._changed:
            self._stock.name(file)
            self._changed.notify_all()

    def enforce(self) -> None:
        """Make room by the oldest until the bounds hold again."""
        while self._stock.bytes > self._settings.max_bytes and self.drop_oldest("max_bytes"):
            pass
        disk = os.statvfs(self.directory)
        missing = self._settings.min_free_bytes - disk.f_bavail * disk.f_frsize
        while missing > 0:  # what was removed may take a moment to be free
            freed = self.drop_oldest("min_free")
            if not freed:
                break
            missing -= freed

    def drop_oldest(self, reason: str) -> int:
        """Remove one segment; the bytes that this gives back, 0 if there is none.

        If it was only kept for people to read, nothing is lost; else its records are dropped for `reason`.
        What sinks have settled lies before what they have not, so that goes first.
        """
        with self._changed:
            oldest = next((s for s in self._stock.segments() if s != self._unsynced), None)
            if oldest is None:
                return 0
            before = self._stock.bytes
            self._pass(self.sinks, [oldest], reason)
            self._doom([oldest])
            freed = before - self._stock.bytes
        self._unlink()
        return freed

    # The sinks' threads.

    def next_batch(self, sink: str, seconds: float) -> tuple[BatchKey, list[Segment]] | None:
        """The oldest batch that this sink has not settled, spoilt segments included; None after so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting(sink) is not None, seconds)
            return self._waiting(sink)

    def _waiting(self, sink: str) -> tuple[BatchKey, list[Segment]] | None:
        for key, group in self._stock.batches.items():
            position = self._marks.get(sink, key.ring_id).position
            if key in self._stock.names and group[-1].end > position:
                return key, [s for s in group if s.end > position]
        return None

    def labels(self, key: BatchKey) -> dict[int, Label] | None:
        """The names joined to a batch; None if they are spoilt: the writer then joins them anew."""
        with self._changed:
            file = self._stock.names.get(key)
        if file is None:
            return None
        joined = names.read(self.directory, file)
        if joined is not None:
            return joined
        structlog.get_logger().error("spool: names lost", file=file.name)
        with self._changed:
            self._stock.unname(key)
        recovery.set_aside(self.directory, file.name)
        return None

    def settle(self, sink: str, items: Iterable[Segment], outcome: str) -> None:
        """These segments were delivered to a sink, or dropped for a reason."""
        with self._changed:
            self._pass((sink,), items, outcome)
        self.collect()

    def spoilt(self, item: Segment) -> bool:
        """Whether a segment's file has been set aside."""
        with self._changed:
            return item in self._stock.spoilt

    def settled(self, sink: str, item: Segment) -> bool:
        """Whether a segment lies behind a sink's mark: it may have been dropped meanwhile."""
        with self._changed:
            return item.end <= self._marks.get(sink, item.ring_id).position

    def damaged(self, item: Segment, why: str) -> None:
        """Set a spoilt segment's file aside. It keeps its place: sinks count it when they come past."""
        with self._changed:
            if not self._stock.spoil(item):
                return
        structlog.get_logger().error("spool: set aside", file=item.name, records=item.records, error=why)
        recovery.set_aside(self.directory, item.name)

    # Both.

    def collect(self) -> None:
        """Remove what every sink has settled and had its time, and do what could not be done before."""
        with self._changed:
            if self.sinks == (NOBODY,) and self._settings.keep_seconds:
                for _, items in itertools.groupby(self._stock.segments(), lambda s: s.ring_id):
                    self._pass(self.sinks, [*itertools.takewhile(self._over, items)], DELIVERED)
            done: list[Segment] = []
            for group in self._stock.batches.values():
                position = min(self._marks.get(sink, group[0].ring_id).position for sink in self.sinks)
                if group[0].end <= position and self._over(group[0]):
                    done += [s for s in group if s.end <= position and self._over(s)]
            self._doom(done)
            self._save()
        self._unlink()

    def _over(self, item: Segment) -> bool:
        """Whether it need not be kept any longer for people to read. Of another boot only UTC is known."""
        if item == self._unsynced:
            return False
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        age = now - item.at
        if item.ring_id.boot != self.ring_id.boot:
            age += boot_to_wall() - item.offset
        return not self._settings.keep_seconds or age >= self._settings.keep_seconds * 10**9

    def ledger(self) -> list[Row]:
        """Where every record is, for each sink."""
        return self.snapshot().rows

    def snapshot(self) -> Snapshot:
        """All that is told of it, of one moment."""
        with self._changed:
            rows = ledger.rows(self._marks.all(), [*self._stock.segments()], self._stock.spoilt, self.totals)
            waiting = {sink: self._waiting(sink) for sink in self.sinks if sink != NOBODY}
            used = self._stock.bytes
        over = {
            sink: None if one is None else (one[1][0].minute + 1) * MINUTE / 1e9
            for sink, one in waiting.items()
        }
        return Snapshot(rows, used, over)

    def _pass(self, sinks: Iterable[str], items: Iterable[Segment], outcome: str) -> None:
        """A segment that lies behind a sink's mark leaves that mark as it is."""
        for item in items:
            how = "damaged" if item in self._stock.spoilt else outcome
            for sink in sinks:
                self._marks.put(self._marks.get(sink, item.ring_id).passed(item, how))
        self._save()

    def _save(self) -> None:
        """A mark that could not be written is written another time: until then a restart repeats."""
        try:
            if self._marks.save():
                durable.sync_directory(self.directory)
        except OSError as error:
            if not self._marks_wait:
                structlog.get_logger().warning("spool: marks wait", error=str(error))
            self._marks_wait = True
        else:
            self._marks_wait = False

    def _doom(self, items: Iterable[Segment]) -> None:
        for item in items:
            self._doomed += self._stock.take_out(item)

    def _unlink(self) -> None:
        """Remove the files that are no longer ours; those that stay (a read-only disk) another time."""
        with self._changed:
            doomed, self._doomed = self._doomed, []
        for name in doomed:
            try:
                durable.remove(os.path.join(self.directory, name))
            except OSError:
                with self._changed:
                    self._doomed.append(name)
