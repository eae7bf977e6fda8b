# SPDX-License-Identifier: Apache-2.0
"""The way of records from the ring over the spool to the sinks, in threads of its own.

A slow disk or a sink that is down holds neither the other sinks nor the exporter's main thread, which
claims containers. What cannot be written stays in the ring as long as that holds; what the kernel then
drops, it counts (lost_ring).
"""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType

import structlog

from bpf.error import FlowtagError
from exporter import host
from exporter.config import Config
from exporter.describe import Describer
from exporter.label import Label, label
from exporter.records import boot_to_wall
from exporter.ring import STRIDE, Batch, Columns, Ring
from exporter.sinks.config import Json
from exporter.sinks.delivery import Delivery
from exporter.sinks.kinds import open_sinks
from exporter.sinks.sink import Sink
from exporter.spool.ledger import Row
from exporter.spool.spool import Spool
from exporter.workloads import Workloads
from identity import nat64

TAKE = 1 << 15  # records of a segment, at most
TAPPED = 2  # takes that a live tap may be behind before it misses some
RETRIES = 3


class Spooling:
    """A context manager: threads run while the `with` lasts; its end flushes, within stop_seconds."""

    def __init__(
        self,
        config: Config,
        ring: Ring,
        identity: tuple[str, str],
        label_of: Callable[[int], Label],
        sinks: Mapping[str, Sink],
        *,
        tapped: bool,
        count: Callable[[Columns], None] = lambda records: None,
    ) -> None:
        """identity: host id and boot id. label_of: the names of an owner, asked by the writer's thread, and
        so is count: what is on the disk now.
        """
        host_id, boot_id = identity
        self._stop_seconds = config.spool.stop_seconds
        self._ring = ring
        self._label_of = label_of
        self.spool = Spool(config.spool, ring, boot_id, list(sinks))
        prefixes = tuple(map(nat64.parse, config.translation.nat64_prefixes))
        self.deliveries = [
            Delivery(name, sink, self.spool, host_id, prefixes) for name, sink in sinks.items()
        ]
        self._tap: queue.Queue[Batch] | None = queue.Queue(TAPPED) if tapped else None
        self.untapped = 0
        self._writer = threading.Thread(target=self._write, name="spool", daemon=True)
        self._stop = threading.Event()
        self._count = count
        self.trouble = ""
        """Why records cannot be written now; empty if they can."""
        self._failure: BaseException | None = None

    def __enter__(self) -> Spooling:
        self._writer.start()
        for delivery in self.deliveries:
            delivery.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        deadline = time.monotonic() + self._stop_seconds
        self._stop.set()
        self._writer.join(max(0.1, self._stop_seconds))
        while time.monotonic() < deadline and any(self._owed(d) for d in self.deliveries):
            time.sleep(0.02)
        for delivery in self.deliveries:
            delivery.stop()
        for delivery in self.deliveries:
            delivery.join(max(0.1, deadline - time.monotonic()))

    def _owed(self, delivery: Delivery) -> bool:
        """Whether a sink that works has something to come."""
        working = delivery.is_alive() and delivery.state.failing_since is None
        return working and self.spool.next_batch(delivery.sink_name, 0) is not None

    def live(self, seconds: float) -> Batch | None:
        """For the tap: what was spooled last; None if nothing was within that time, or if there is no tap.

        FlowtagError if the writer has died of a mistake of ours.
        """
        if self._failure is not None:
            raise FlowtagError(f"writing the spool: {self._failure!r}") from self._failure
        try:
            if self._tap is not None:
                return self._tap.get(timeout=seconds)
            self._stop.wait(seconds)
        except queue.Empty:
            pass
        return None

    def ledger(self) -> list[Row]:
        """Where every record is, for each sink."""
        return self.spool.ledger()

    def dead(self) -> tuple[str, ...]:
        """Threads that have ended by a mistake of ours."""
        if self._stop.is_set():
            return ()
        return tuple(one.name for one in (self._writer, *self.deliveries) if not one.is_alive())

    def failing(self) -> dict[str, tuple[float, str]]:
        """Sinks that do not work: since when (monotonic seconds), and by which kind of error."""
        states = {one.sink_name: one.state for one in self.deliveries}
        return {
            sink: (state.failing_since, state.error.partition("(")[0])
            for sink, state in states.items()
            if state.failing_since is not None
        }

    def report(self) -> None:
        """Log the ledger: what still waits is delivered by the next run."""
        log = structlog.get_logger()
        for row in self.ledger():
            dropped = {f"dropped_{reason}": count for reason, count in row.dropped.items() if count}
            log.info(
                "ledger",
                sink=row.sink,
                seen=row.seen,
                delivered=row.delivered,
                waiting=row.waiting,
                unaccounted=row.unaccounted,
                **dropped,
            )
        if self.untapped:
            log.warning("standard output was too slow", records_not_shown=self.untapped)

    def _write(self) -> None:
        try:
            while not self._stop.is_set():
                if self.trouble:
                    self._stop.wait(1)  # the ring may be half full, and would not let us wait
                else:
                    # At the full second: a minute's last segment then ends with the minute.
                    self._ring.wait(1 - time.time() % 1)
                self._turn()
            self._turn(last=True)
        except BaseException as error:
            self._failure = error
            structlog.get_logger().error("spool: writer ended", error=repr(error))

    def _turn(self, *, last: bool = False) -> None:
        """Everything that there is to do now; what the disk refuses is left to the next turn."""
        try:
            self._drain()
            self.spool.enforce()
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self.spool.close_batches(now, boot_to_wall(), self._label_of, everything=last)
            self.spool.collect()
        except OSError as error:
            self._say(f"{error.strerror}: {error.filename}")
        else:
            self._say("")

    def _say(self, trouble: str) -> None:
        if trouble and not self.trouble:
            structlog.get_logger().error("spool: cannot write, records wait in the ring", error=trouble)
        elif self.trouble and not trouble:
            structlog.get_logger().info("spool: writes again")
        self.trouble = trouble

    def _drain(self) -> None:
        while True:
            taken = self._ring.look(TAKE)
            if taken.count == 0:
                return
            end = self._append(taken)
            written = int((taken.sequence < end // STRIDE).sum())  # fewer, if the disk has just recovered
            self._count(taken.records[:written])
            if self._tap is not None:
                self._show(taken, written, self._tap)
            self._ring.release(end)
            self.spool.enforce()

    def _append(self, taken: Batch) -> int:
        """On a full disk the oldest makes room, if we have anything there."""
        for _ in range(RETRIES):
            try:
                return self.spool.append(taken, boot_to_wall())
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._make_room():
                    raise
        return self.spool.append(taken, boot_to_wall())

    def _make_room(self) -> bool:
        freed, wanted = 0, 1 << 20
        while freed < wanted:
            room = self.spool.drop_oldest("min_free")
            if not room:
                break
            freed += room
        return freed > 0

    def _show(self, taken: Batch, written: int, tap: queue.Queue[Batch]) -> None:
        records, sequence = taken.records[:written].copy(), taken.sequence[:written].copy()
        try:
            tap.put_nowait(Batch(records, sequence, taken.count, taken.end))
        except queue.Full:
            self.untapped += written


def start(
    config: Config,
    output: str,
    ring: Ring,
    workloads: Workloads,
    describer: Describer,
    count: Callable[[Columns], None],
) -> Spooling:
    """What `flowtag run` needs beside its own loop; `output` is that of the live tap, or none."""
    for name, sink in config.sinks.items():
        if output != "none" and isinstance(sink, Json) and sink.path == "-":
            raise FlowtagError(
                f"sinks.{name} writes to standard output, and so does --output {output}", "use --output none"
            )
    return Spooling(
        config,
        ring,
        (host.host_id(), host.boot_id()),
        lambda owner: label(workloads.get(owner), describer),
        open_sinks(config.sinks),
        tapped=output != "none",
        count=count,
    )
