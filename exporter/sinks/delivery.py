# SPDX-License-Identifier: Apache-2.0
"""A thread for each sink: takes one batch after the other out of the spool, and waits for nobody else.

The queue between is the spool itself, on the disk: a sink that is down costs its bounded room there,
and one batch in memory.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import structlog

from exporter import peers
from exporter.batch import Batch, Origin
from exporter.ring import DTYPE
from exporter.sinks.sink import RefusedError, Sink
from exporter.spool import segment
from exporter.spool.mark import DELIVERED
from exporter.spool.segment import BatchKey, Segment
from exporter.spool.spool import Spool
from identity import nat64

IDLE_SECONDS = 1.0
BACKOFF_SECONDS = (1.0, 60.0)


@dataclass(slots=True)
class State:
    """How a sink is, for those who look: since when (monotonic) it fails, and with what."""

    failing_since: float | None = None
    error: str = ""
    attempts: int = 0
    delivered_at: float | None = field(default=None)


class Delivery(threading.Thread):
    """stop() and join() end it between two attempts; what is not delivered stays in the spool.

    failures counts failed attempts of its whole life.
    """

    def __init__(
        self, name: str, sink: Sink, spool: Spool, host_id: str, prefixes: tuple[nat64.Prefix, ...]
    ) -> None:
        super().__init__(name=f"sink-{name}", daemon=True)
        self.sink_name = name
        self.state = State()
        self.failures = 0
        self._sink = sink
        self._spool = spool
        self._host_id = host_id
        self._prefixes = prefixes
        self._stop_now = threading.Event()

    def stop(self) -> None:
        self._stop_now.set()

    def run(self) -> None:
        while not self._stop_now.is_set():
            found = self._spool.next_batch(self.sink_name, IDLE_SECONDS)
            if found is not None:
                self._one(*found)
        self._sink.close()

    def _one(self, key: BatchKey, items: list[Segment]) -> None:
        try:
            batch = self.load(key, items)
        except (OSError, MemoryError) as error:
            self._failed(error)
            return
        if batch is None:
            return
        outcome = self._deliver(batch, items[-1]) if len(batch.records) else DELIVERED
        if outcome is not None:
            self._spool.settle(self.sink_name, items, outcome)

    def _deliver(self, batch: Batch, last: Segment) -> str | None:
        """Until it is there; None if it was stopped, or the spool dropped the batch meanwhile."""
        while not self._stop_now.is_set() and not self._spool.settled(self.sink_name, last):
            try:
                self._sink.deliver(batch)
            except RefusedError as error:
                structlog.get_logger().error(
                    "sink refused a batch",
                    sink=self.sink_name,
                    batch=batch.key,
                    records=len(batch.records),
                    error=str(error),
                )
                return "refused"
            except Exception as error:  # whatever a library raises: the other sinks go on, and so does this
                self._failed(error)
            else:
                self._worked()
                return DELIVERED
        return None

    def _failed(self, error: Exception) -> None:
        """Say so once, and wait: twice as long each time, of which a random half is left out."""
        if self.state.failing_since is None:
            self.state.failing_since = time.monotonic()
            structlog.get_logger().warning("sink fails", sink=self.sink_name, error=repr(error))
        self.state.error = repr(error)
        self.failures += 1
        self.state.attempts += 1
        least, most = BACKOFF_SECONDS
        seconds = min(most, least * 2 ** min(self.state.attempts - 1, 16))
        self._stop_now.wait(seconds * random.uniform(0.5, 1))  # noqa: S311 - spreads load, keeps no secret

    def _worked(self) -> None:
        now = time.monotonic()
        if self.state.failing_since is not None:
            seconds = round(now - self.state.failing_since, 1)
            structlog.get_logger().info("sink works again", sink=self.sink_name, after_seconds=seconds)
        self.state = State(delivered_at=now)

    def load(self, key: BatchKey, items: list[Segment]) -> Batch | None:
        """The batch, of what of it is sound; None if it must be asked for again: it has changed."""
        labels = self._spool.labels(key)
        if labels is None:
            return None
        sound = [item for item in items if not self._spool.spoilt(item)]
        count = sum(item.records for item in sound)
        records, sequence = np.empty(count, DTYPE), np.empty(count, np.uint64)
        offset = np.empty(count, np.int64)
        place = 0
        for item in sound:
            rows = slice(place, place + item.records)
            try:
                records[rows], sequence[rows] = segment.load(self._spool.directory, item)
            except (segment.DamagedError, FileNotFoundError) as error:
                if not self._spool.settled(self.sink_name, item):
                    self._spool.damaged(item, str(error))
                return None
            offset[rows] = item.offset
            place += item.records
        boot = key.ring_id.boot
        boot_id = f"{boot[:8]}-{boot[8:12]}-{boot[12:16]}-{boot[16:20]}-{boot[20:]}"
        origin = Origin(self._host_id, boot_id, key.ring_id.ring, self._prefixes)
        return Batch(
            origin, key.number, items[0].minute, records, sequence, offset, labels, peers.find(records)
        )
