# SPDX-License-Identifier: Apache-2.0
"""Sinks, each by itself: retries, refusals, batches that change while a sink is down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.batch import Batch
from exporter.config import Spool as Settings
from exporter.label import NOBODY, Label
from exporter.ring import Ring
from exporter.sinks import delivery
from exporter.sinks.delivery import Delivery
from exporter.sinks.sink import RefusedError, Sink
from exporter.spool import segment
from exporter.spool.spool import Spool
from tests.rig.ring_file import RingFile, RingWriter, records

BOOT = "01234567-89ab-cdef-0123-456789abcdef"


class Memory:
    """A sink that keeps cookies, and does what it is told before."""

    def __init__(self, before: Callable[[Batch], None] = lambda batch: None) -> None:
        self.before = before
        self.got: list[int] = []
        self.keys: list[str] = []
        self.names: set[str | None] = set()

    def deliver(self, batch: Batch) -> None:
        self.before(batch)
        self.keys.append(batch.key)
        self.got += batch.records["cookie"].tolist()
        self.names |= {label.workload for label in batch.labels.values()}

    def close(self) -> None:
        pass


class Bench:
    """A ring, a spool, and deliveries on demand."""

    def __init__(self, directory: Path) -> None:
        RingFile.create(directory / "ring", 1 << 21)
        self.ring: Ring = RingFile(directory / "ring")
        self.writer = RingWriter(directory / "ring")
        self.settings = Settings(directory=str(directory / "spool"), min_free_bytes=0, keep_seconds=0)
        self.next = 0

    def open(self, *sinks: str) -> Spool:
        self.spool = Spool(self.settings, self.ring, BOOT, sinks)
        return self.spool

    def batch(self, count: int = 10, segments: int = 1) -> None:
        for _ in range(segments):
            self.writer.write(records(count, self.next, owner=1 << 40))
            self.next += count
            self.ring.release(self.spool.append(self.ring.take(), 0))
        self.spool.close_batches(0, 0, lambda owner: Label(workload="web"), everything=True)

    def run(self, name: str, sink: Sink) -> Delivery:
        thread = Delivery(name, sink, self.spool, "host", ())
        thread.start()
        return thread

    def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(delivery, "BACKOFF_SECONDS", (0.01, 0.05))
    monkeypatch.setattr(delivery, "IDLE_SECONDS", 0.05)
    made = Bench(tmp_path)
    yield made
    for thread in threading.enumerate():
        if isinstance(thread, Delivery):
            thread.stop()
            thread.join(5)
            assert not thread.is_alive()


def test_one_that_is_down_never_holds_the_other(bench: Bench) -> None:
    spool = bench.open("down", "up")

    def fail(batch: Batch) -> None:
        raise ConnectionRefusedError

    up, down = Memory(), Memory(fail)
    bench.run("up", up)
    bench.run("down", down)
    for _ in range(3):
        bench.batch()
    bench.until(lambda: len(up.got) == 30)
    bench.until(lambda: spool.ledger()[1].delivered == 30)
    by_sink = {row.sink: row for row in spool.ledger()}
    assert (by_sink["down"].waiting, by_sink["down"].delivered) == (30, 0)
    down.before = lambda batch: None
    bench.until(lambda: len(down.got) == 30)
    assert down.got == up.got == list(range(30))
    bench.until(lambda: not list(Path(spool.directory).glob("*.arrow")))
    assert all(row.unaccounted == 0 for row in spool.ledger())
    assert up.names == {"web"}


def test_hung_sink_holds_nobody_and_its_batch_may_be_dropped(bench: Bench) -> None:
    spool = bench.open("hung", "up")
    hanging, gate = threading.Event(), threading.Event()

    def hang(batch: Batch) -> None:
        hanging.set()
        gate.wait(10)

    hung, up = Memory(hang), Memory()
    bench.run("hung", hung)
    bench.run("up", up)
    bench.batch()
    bench.until(lambda: len(up.got) == 10)
    assert hanging.wait(10)  # else there is nothing left for it to hang at
    while spool.drop_oldest("max_bytes"):
        pass
    bench.batch()
    bench.until(lambda: len(up.got) == 20)
    gate.set()
    bench.until(lambda: len(hung.got) == 20)
    bench.until(lambda: spool.ledger()[0].delivered == 10)
    row = spool.ledger()[0]
    assert (row.sink, row.dropped["max_bytes"], row.unaccounted) == ("hung", 10, 0)


def test_dropped_while_it_is_retried_the_next_has_its_turn(bench: Bench) -> None:
    spool = bench.open("a")

    def fail_first(batch: Batch) -> None:
        if batch.number == 0:
            raise TimeoutError

    sink = Memory(fail_first)
    thread = bench.run("a", sink)
    bench.batch()
    bench.until(lambda: thread.state.attempts > 2)
    spool.drop_oldest("max_bytes")
    bench.batch()
    bench.until(lambda: sink.got == list(range(10, 20)))
    bench.until(lambda: spool.ledger()[0].delivered == 10)
    assert spool.ledger()[0].unaccounted == 0


def test_refused_batch_is_counted_and_passed(bench: Bench) -> None:
    spool = bench.open("a")

    def refuse(batch: Batch) -> None:
        if batch.number == 0:
            raise RefusedError("too old")

    sink = Memory(refuse)
    bench.run("a", sink)
    bench.batch()
    bench.batch()
    bench.until(lambda: spool.ledger()[0].delivered == 10)
    assert sink.got == list(range(10, 20))
    assert spool.ledger()[0].dropped["refused"] == 10


def test_restart_continues_where_the_sink_was(bench: Bench) -> None:
    bench.open("a")
    sink = Memory()
    thread = bench.run("a", sink)
    bench.batch()
    bench.until(lambda: bench.spool.ledger()[0].delivered == 10)
    thread.stop()
    thread.join()
    bench.batch()
    spool = bench.open("a")
    bench.batch()
    bench.run("a", sink)
    bench.until(lambda: spool.ledger()[0].delivered == 30)
    assert sink.got == list(range(30))
    assert len(set(sink.keys)) == 3


def test_damage_found_at_delivery_costs_that_segment_only(bench: Bench) -> None:
    spool = bench.open("a")
    bench.batch(segments=3)
    paths = sorted(
        Path(spool.directory).glob("*.arrow"),
        key=lambda p: segment.parse(p.name).begin,  # type: ignore[union-attr]
    )
    data = bytearray(paths[1].read_bytes())
    data[len(data) // 2] ^= 1
    paths[1].write_bytes(data)
    sink = Memory()
    bench.run("a", sink)
    bench.until(lambda: spool.ledger()[0].delivered == 20)
    assert sink.got == [*range(10), *range(20, 30)]
    row = spool.ledger()[0]
    assert (row.dropped["damaged"], row.unaccounted) == (10, 0)
    assert len(list((Path(spool.directory) / "quarantine").iterdir())) == 1


def test_damaged_names_do_not_stop_delivery(bench: Bench) -> None:
    spool = bench.open("a")
    bench.batch()
    (names,) = Path(spool.directory).glob("*.names")
    names.write_bytes(b"")
    sink = Memory()
    bench.run("a", sink)
    bench.until(lambda: not list(Path(spool.directory).glob("*.names")))
    spool.close_batches(0, 0, lambda owner: NOBODY, everything=True)
    bench.until(lambda: sink.got == list(range(10)))


def test_sink_that_breaks_in_any_way_goes_on(bench: Bench) -> None:
    spool = bench.open("a")
    faults: list[Exception] = [ValueError("x"), KeyError("y"), MemoryError(), OSError(5, "z")]

    def fail(batch: Batch) -> None:
        if faults:
            raise faults.pop()

    sink = Memory(fail)
    thread = bench.run("a", sink)
    bench.batch()
    bench.until(lambda: spool.ledger()[0].delivered == 10)
    assert thread.state.failing_since is None
    assert thread.state.delivered_at is not None
