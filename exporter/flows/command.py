# SPDX-License-Identifier: Apache-2.0
"""`flowtag flows`: the records of the spool, and behind them those that are still in the ring's memory.

Positions in the ring join the two without a gap or a double: the ring is read on from where the newest
segment ends. So the same way serves an exporter that does not spool, and none at all.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bpf.error import FlowtagError
from exporter import host, peers, records, ring_tail
from exporter.batch import Batch, Origin
from exporter.config import Config
from exporter.flows.filters import mask
from exporter.flows.names import Names
from exporter.flows.query import Query
from exporter.flows.table import Table
from exporter.ring_tail import RingTail
from identity import nat64

if TYPE_CHECKING:
    from exporter.flows.spooled import Spooled

FOLLOW_SECONDS = 0.2
REOPEN_SECONDS = 2.0


class Reader:
    """Batches that a query asks for, ordered by time, one after the other out of the files."""

    def __init__(self, config: Config, query: Query, *, peered: bool) -> None:
        """peered: name the other ends too. FlowtagError if there is neither a spool nor a ring."""
        self._config = config
        self._query = query
        self._peered = peered or bool(query.peer_workloads)
        self._names = Names(config)
        self._host_id = host.host_id()
        self._prefixes = tuple(map(nat64.parse, config.translation.nat64_prefixes))
        self.looked_at = 0
        self.failed = ""
        self._stamp = ring_tail.stamp(config.host.pin_directory)
        self.ring: RingTail | None = None
        why = None
        try:
            self.ring = RingTail.open(config.host.pin_directory)
        except FlowtagError as error:
            why = error
        self._spooled = _spooled(config)
        if why is not None and self._spooled is None:
            spool = f"no spool in {config.spool.directory}, and " if config.spooled else ""
            raise FlowtagError(f"reading flows: {spool}{why}", "start `flowtag run`, as root") from None

    @property
    def damaged(self) -> int:
        return self._spooled.damaged if self._spooled else 0

    def past(self) -> Iterator[Batch]:
        """What is there now; with a limit the newest of it, which takes a first look at everything."""
        skip = 0
        if self._query.limit is not None:
            position = self.ring.position if self.ring else 0
            counts = [len(batch.records) for batch in self._all()]
            skip = max(0, sum(counts) - self._query.limit)
            if self.ring:
                self.ring.seek(position)
                self.ring.missed = 0
        for batch in self._all():
            count = len(batch.records)
            if skip < count:
                yield batch.chosen(np.arange(count) >= skip) if skip else batch
            skip = max(0, skip - count)

    def _all(self) -> Iterator[Batch]:
        self.looked_at = 0
        spool = self._spooled
        if spool is not None:
            groups = spool.within(self._query.since, self._query.until, whole=self._peered)
            for group in groups:
                yield self._chosen(
                    spool.load(group, self._host_id, self._prefixes, self._names, peered=self._peered)
                )
        if self.ring is not None:
            self._join(self.ring)
            yield from self.news()

    def _join(self, ring: RingTail) -> None:
        """Behind the newest segment. Before a first one, a consumer that spools nothing is no gap."""
        if self._spooled is not None:
            from exporter.spool.segment import RingId

            end = self._spooled.end(RingId(host.boot_id().replace("-", ""), ring.id))
            if end > ring.position:
                ring.seek(end)

    def news(self) -> Iterator[Batch]:
        """What the ring has had since the last call."""
        while self.ring is not None:
            taken = self.ring.take()
            if taken.count == 0:
                return
            order = np.argsort(taken.records["time_end"], kind="stable")
            rows = taken.records[order]
            count = len(rows)
            yield self._chosen(
                Batch(
                    Origin(self._host_id, host.boot_id(), self.ring.id, self._prefixes),
                    None,
                    0,
                    rows,
                    taken.sequence[order],
                    np.full(count, records.boot_to_wall(), np.int64),
                    self._names.of(np.unique(rows["owner"]).tolist()),
                    peers.find(rows) if self._peered else np.zeros(count, np.uint64),
                )
            )

    def _chosen(self, batch: Batch) -> Batch:
        self.looked_at += len(batch.records)
        return batch.chosen(mask(self._query, batch))

    def skip_past(self) -> None:
        """Only what comes from now on."""
        if self.ring is not None:
            self.ring.seek(self.ring.producer)

    def reopen(self) -> None:
        """Where another ring has been pinned, go on with that."""
        stamp = ring_tail.stamp(self._config.host.pin_directory)
        if stamp and stamp != self._stamp:
            self.ring = RingTail.open(self._config.host.pin_directory)
            self._stamp = stamp


def _spooled(config: Config) -> Spooled | None:
    if not config.spooled:
        return None
    from exporter.flows import spooled  # and pyarrow with it

    try:
        return spooled.look(config.spool.directory)
    except FileNotFoundError:
        return None


def run(config: Config, query: Query, output: str, *, follow: bool) -> int:
    """Print what is asked for; output is table or json."""
    try:
        reader = Reader(config, query, peered=output == "json")
        printer = _Printer(output)
        if not follow or query.since is not None or query.limit is not None:
            for batch in reader.past():
                printer.show(batch)
        else:
            reader.skip_past()
        _say_what_is_missing(reader)
        if follow:
            _follow(reader, printer)
        elif not printer.shown:
            print(_nothing(config, reader), file=sys.stderr)
    except KeyboardInterrupt:
        pass
    return 0


class _Printer:
    def __init__(self, output: str) -> None:
        terminal = sys.stdout.isatty()
        columns = shutil.get_terminal_size().columns if terminal else None
        self._table = Table(columns) if output == "table" else None
        self.shown = 0
        if self._table:
            sys.stdout.write(self._table.header())

    def show(self, batch: Batch) -> None:
        self.shown += len(batch.records)
        sys.stdout.write(self._table.lines(batch) if self._table else records.json_lines(batch))

    def flush(self) -> None:
        sys.stdout.flush()


def _follow(reader: Reader, printer: _Printer) -> None:
    if reader.ring is None:
        raise FlowtagError("following flows: no ring is pinned", "start `flowtag run`")
    looked = time.monotonic()
    while True:
        for batch in reader.news():
            printer.show(batch)
        printer.flush()
        _say_what_is_missing(reader)
        if time.monotonic() - looked > REOPEN_SECONDS:
            reader.reopen()
            looked = time.monotonic()
        time.sleep(FOLLOW_SECONDS)


def _say_what_is_missing(reader: Reader) -> None:
    if reader.ring is not None and reader.ring.missed:
        print(
            f"flowtag: {reader.ring.missed} records were written over before they could be shown",
            file=sys.stderr,
        )
        reader.ring.missed = 0
    if reader.damaged and not reader.failed:
        reader.failed = f"flowtag: {reader.damaged} records could not be read: their files are spoilt"
        print(reader.failed, file=sys.stderr)


def _nothing(config: Config, reader: Reader) -> str:
    if reader.looked_at:
        return f"flowtag: none of {reader.looked_at} records is asked for"
    if config.spooled:
        return "flowtag: no records yet; is `flowtag run` running? (`flowtag check`)"
    return "flowtag: no records in the ring; is `flowtag run` running? [spool] enabled keeps the last hour"
