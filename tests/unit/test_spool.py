# SPDX-License-Identifier: Apache-2.0
"""The spool: every record once, whatever ended the last writer; bounds that drop the oldest and count."""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from exporter import check_state
from exporter.config import Config
from exporter.config import Spool as Settings
from exporter.label import NOBODY, Label
from exporter.ring import STRIDE, Ring
from exporter.spool import durable, ledger, recovery, segment
from exporter.spool.spool import BATCH_RECORDS, Spool
from tests.rig.ring_file import RingFile, RingWriter, records

BOOT = "0123456789abcdef0123456789abcdef"
MINUTE = segment.MINUTE
OFFSET = 1_800_000_000 * 10**9  # a full minute, and the hour too


@pytest.fixture
def ring_path(tmp_path: Path) -> Path:
    path = tmp_path / "ring"
    RingFile.create(path, 1 << 21)
    return path


@pytest.fixture
def ring(ring_path: Path) -> Iterator[Ring]:
    with RingFile(ring_path) as opened:
        yield opened


@pytest.fixture
def writer(ring_path: Path) -> Iterator[RingWriter]:
    with RingWriter(ring_path) as opened:
        yield opened


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(directory=str(tmp_path / "spool"), min_free_bytes=0, keep_seconds=0)


def open_spool(settings: Settings, ring: Ring, *sinks: str) -> Spool:
    return Spool(settings, ring, BOOT, sinks)


def drain(spool: Spool, ring: Ring, offset: int = OFFSET) -> None:
    batch = ring.take()
    ring.release(spool.append(batch, offset))


def fill(spool: Spool, ring: Ring, writer: RingWriter, count: int, first: int, at: int = 0) -> None:
    """One segment of `count` records that closed at boottime `at`."""
    assert writer.write(records(count, first, time_end=at)) == count
    drain(spool, ring)


def close(spool: Spool) -> None:
    spool.close_batches(0, OFFSET, lambda owner: NOBODY, everything=True)


def files(settings: Settings, suffix: str = ".arrow") -> list[Path]:
    """In the directory itself, in the order of their positions."""
    found = Path(settings.directory).glob(f"*{suffix}")
    return sorted(found, key=lambda p: int(p.name.split("_")[2]) if "_" in p.name else 0)


def cookies(settings: Settings) -> list[int]:
    """Of every record in the directory, by the files alone."""
    found: list[int] = []
    for path in files(settings):
        known = segment.parse(path.name)
        assert known
        found += segment.load(settings.directory, known)[0]["cookie"].tolist()
    return sorted(found)


def assert_balanced(spool: Spool) -> None:
    for row in spool.ledger():
        assert row.unaccounted == 0, row
    assert ledger.read(spool.directory) == spool.ledger()


def test_append_puts_records_on_disk_for_root_alone(
    settings: Settings, ring: Ring, writer: RingWriter
) -> None:
    spool = open_spool(settings, ring)
    fill(spool, ring, writer, 5, 10)
    assert cookies(settings) == [10, 11, 12, 13, 14]
    assert ring.consumer == ring.producer == 5 * STRIDE
    (path,) = files(settings)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Path(settings.directory).stat().st_mode & 0o777 == 0o700
    assert not files(settings, durable.TEMPORARY)


def test_killed_before_the_position_moved_nothing_is_doubled(
    settings: Settings, ring: Ring, writer: RingWriter
) -> None:
    writer.write(records(5))
    open_spool(settings, ring).append(ring.take(), OFFSET)  # and dies before it releases
    assert ring.consumer == 0
    writer.write(records(3, 5))

    spool = open_spool(settings, ring)
    assert ring.consumer == 5 * STRIDE
    drain(spool, ring)
    assert cookies(settings) == list(range(8))


def test_killed_before_the_rename_the_torn_file_is_removed(
    settings: Settings, ring: Ring, writer: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(settings, ring)
    writer.write(records(5))

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", die)
        with pytest.raises(Killed):
            drain(spool, ring)
    assert files(settings, durable.TEMPORARY)

    spool = open_spool(settings, ring)
    assert not files(settings, durable.TEMPORARY)
    drain(spool, ring)
    assert cookies(settings) == list(range(5))


def test_directory_not_synced_the_segment_is_not_written_again(
    settings: Settings, ring: Ring, writer: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(settings, ring)
    writer.write(records(5))

    def fail(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "sync_directory", fail)
        with pytest.raises(OSError, match="Input"):
            drain(spool, ring)
    assert ring.consumer == 0
    writer.write(records(2, 5))
    drain(spool, ring)
    drain(spool, ring)
    assert ring.consumer == ring.producer
    assert cookies(settings) == list(range(7))


def test_segments_of_a_minute_are_one_batch(settings: Settings, ring: Ring, writer: RingWriter) -> None:
    spool = open_spool(settings, ring, "a")
    for second in (1, 30, 59, 61):
        fill(spool, ring, writer, 2, second, at=second * 10**9)
    spool.close_batches(62 * 10**9 + 1, OFFSET, lambda owner: NOBODY)
    found = spool.next_batch("a", 0)
    assert found
    key, items = found
    assert key.number == 0
    assert [s.minute for s in items] == [OFFSET // MINUTE] * 3
    spool.settle("a", items, "delivered")
    assert spool.next_batch("a", 0) is None, "the minute that runs is open"
    spool.close_batches(122 * 10**9 + 1, OFFSET, lambda owner: NOBODY)
    found = spool.next_batch("a", 0)
    assert found
    assert found[0].number == 6
    assert_balanced(spool)


def test_batch_waits_for_late_names(settings: Settings, ring: Ring, writer: RingWriter) -> None:
    spool = open_spool(settings, ring, "a")
    fill(spool, ring, writer, 1, 0, at=1)
    for now, there in ((MINUTE - 1, False), (MINUTE + 10**9, False), (MINUTE + 2 * 10**9, True)):
        spool.close_batches(now, OFFSET, lambda owner: NOBODY)
        assert (spool.next_batch("a", 0) is not None) == there


@pytest.mark.parametrize("step", [3600, -3600])
def test_clock_steps_end_the_batch_and_numbers_go_on(
    settings: Settings, ring: Ring, writer: RingWriter, step: int
) -> None:
    spool = open_spool(settings, ring, "a")
    fill(spool, ring, writer, 2, 0, at=10**9)
    writer.write(records(2, 2, time_end=2 * 10**9))
    drain(spool, ring, OFFSET + step * 10**9)
    spool.close_batches(3 * 10**9, OFFSET + step * 10**9, lambda owner: NOBODY)
    found = spool.next_batch("a", 0)
    assert found
    assert found[0].number == 0
    spool.settle("a", found[1], "delivered")
    assert spool.next_batch("a", 0) is None
    close(spool)
    found = spool.next_batch("a", 0)
    assert found
    assert found[0].number == 2
    assert found[1][0].minute == OFFSET // MINUTE + step // 60


def test_batch_closed_and_gone_its_number_is_not_used_again(
    settings: Settings, ring: Ring, writer: RingWriter
) -> None:
    spool = open_spool(settings, ring, "a")
    fill(spool, ring, writer, 2, 0, at=1)
    close(spool)
    found = spool.next_batch("a", 0)
    assert found
    spool.settle("a", found[1], "delivered")
    assert files(settings) == []
    fill(spool, ring, writer, 2, 2, at=2)
    close(spool)
    found = spool.next_batch("a", 0)
    assert found
    assert found[0].number == 2


def test_batch_has_bounded_records(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "large"
    RingFile.create(path, 1 << 24)
    with RingFile(path) as ring, RingWriter(path) as writer:
        spool = open_spool(settings, ring, "a")
        for number in range(5):
            fill(spool, ring, writer, BATCH_RECORDS // 2, number, at=1)
        close(spool)
        keys = {segment.parse(path.name).key for path in files(settings)}  # type: ignore[union-attr]
        assert len(keys) == 3


def test_restart_goes_on_with_batches_and_marks(settings: Settings, ring: Ring, writer: RingWriter) -> None:
    spool = open_spool(settings, ring, "a", "b")
    for number in range(3):
        fill(spool, ring, writer, 4, 4 * number, at=number * MINUTE)
    spool.close_batches(10 * MINUTE, OFFSET, lambda owner: Label(workload="web"))
    first = spool.next_batch("a", 0)
    assert first
    spool.settle("a", first[1], "delivered")

    spool = open_spool(settings, ring, "a", "b")
    a, b = spool.next_batch("a", 0), spool.next_batch("b", 0)
    assert a
    assert b
    assert (a[0].number, b[0].number) == (4, 0)
    assert b == first
    assert_balanced(spool)
    spool.settle("b", b[1], "delivered")
    assert len(files(settings)) == 2, "what both have is removed"
    assert len(files(settings, ".names")) == 2


def test_names_joined_once_are_kept(settings: Settings, ring: Ring, writer: RingWriter) -> None:
    spool = open_spool(settings, ring, "a")
    writer.write(records(3, owner=[1 << 20, 0, 1 << 63]))
    drain(spool, ring)
    before = Label(workload="before", labels={"k": "v"})
    spool.close_batches(0, 0, lambda owner: before, everything=True)

    spool = open_spool(settings, ring, "a")
    spool.close_batches(0, 0, lambda owner: Label(workload="after"), everything=True)
    found = spool.next_batch("a", 0)
    assert found
    assert spool.labels(found[0]) == {1 << 20: before, 1 << 63: before}


def test_segments_of_another_boot_are_older_data(
    settings: Settings, ring: Ring, writer: RingWriter, tmp_path: Path
) -> None:
    spool = open_spool(settings, ring, "a")
    fill(spool, ring, writer, 3, 0)
    path = tmp_path / "next"
    RingFile.create(path)
    with RingFile(path) as other, RingWriter(path) as kernel:
        spool = Spool(settings, other, "f" * 32, ["a"])
        assert other.consumer == 0
        kernel.write(records(2, 3))
        drain(spool, other)
        close(spool)
        for boot, count in ((BOOT, 3), ("f" * 32, 2)):
            found = spool.next_batch("a", 0)
            assert found
            assert (found[0].ring_id.boot, sum(s.records for s in found[1])) == (boot, count)
            assert_balanced(spool)
            spool.settle("a", found[1], "delivered")
        assert_balanced(spool)
        assert files(settings) == []


def test_flipped_bit_is_found(settings: Settings, ring: Ring, writer: RingWriter) -> None:
    spool = open_spool(settings, ring, "a")
    fill(spool, ring, writer, 20, 0)
    (path,) = files(settings)
    known = segment.parse(path.name)
    assert known
    data = path.read_bytes()
    for place in range(0, len(data), 5):
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << place % 8
        path.write_bytes(spoilt)
        with pytest.raises(segment.DamagedError):
            segment.load(settings.directory, known)
    path.write_bytes(data)
    segment.load(settings.directory, known)


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_damaged_segment_is_set_aside_and_counted(
    settings: Settings, ring: Ring, writer: RingWriter, when: str
) -> None:
    spool = open_spool(settings, ring, "a")
    for number in range(3):
        fill(spool, ring, writer, 4, 4 * number)
    path = files(settings)[1]
    data = path.read_bytes()
    path.write_bytes(data[:-9] if when == "at the start" else data[:-9] + b"X" + data[-8:])
    spool = open_spool(settings, ring, "a")
    close(spool)
    assert [p.name for p in (Path(settings.directory) / "quarantine").iterdir()] == [path.name]
    for _ in range(2):
        (row,) = spool.ledger()
        assert (row.seen, row.waiting, row.dropped["damaged"], row.unaccounted) == (12, 8, 4, 0)
        spool = open_spool(settings, ring, "a")
    close(spool)
    found = spool.next_batch("a", 0)
    assert found
    assert [spool.spoilt(s) for s in found[1]] == [False, True, False]
    spool.settle("a", found[1], "delivered")
    for _ in range(2):
        (row,) = spool.ledger()
        assert (row.delivered, row.waiting, row.dropped["damaged"], row.unaccounted) == (8, 0, 4, 0)
        spool = open_spool(settings, ring, "a")
    assert files(settings) == []


def test_damaged_names_are_joined_anew(settings: Settings, ring: Ring, writer: RingWriter) -> None:
    spool = open_spool(settings, ring, "a")
    fill(spool, ring, writer, 4, 0)
    close(spool)
    found = spool.next_batch("a", 0)
    assert found
    (path,) = files(settings, ".names")
    path.write_bytes(b"x" * path.stat().st_size)
    assert spool.labels(found[0]) is None
    assert spool.next_batch("a", 0) is None
    close(spool)
    assert spool.next_batch("a", 0) == found
    assert spool.labels(found[0]) == {}


def test_overlapping_segments_are_cut_and_doubles_removed(
    settings: Settings, ring: Ring, writer: RingWriter
) -> None:
    spool = open_spool(settings, ring)
    writer.write(records(6))
    batch = ring.take()
    ring.release(spool.append(batch, OFFSET))
    (path,) = files(settings)
    kept = path.read_bytes()
    for name in files(settings, ""):
        if name.is_file():
            name.unlink()
    ring.release(0)
    spool = open_spool(settings, ring)
    first = ring.take(4)
    spool.append(first, OFFSET)
    path.write_bytes(kept)  # 0-6 beside 0-4: the longer contains the other
    open_spool(settings, ring)
    assert cookies(settings) == list(range(6))

    (path,) = files(settings)
    kept = path.read_bytes()
    path.unlink()
    ring.release(0)
    for mark in files(settings, ".mark"):
        mark.unlink()
    spool = open_spool(settings, ring)
    ring.release(spool.append(ring.take(2), OFFSET))
    writer.write(records(4, 6))
    later = ring.take(6)
    ring.release(spool.append(later, OFFSET))
    path.write_bytes(kept)  # 0-6, beside 0-2 and 2-8
    open_spool(settings, ring)
    assert cookies(settings) == list(range(8))


def test_segment_ahead_of_the_ring_is_set_aside(
    settings: Settings, ring: Ring, writer: RingWriter, tmp_path: Path
) -> None:
    spool = open_spool(settings, ring, "a")
    fill(spool, ring, writer, 6, 0)
    path = tmp_path / "younger"
    RingFile.create(path)
    with RingFile(path) as other, RingWriter(path) as kernel:
        kernel.write(records(3, 50))
        spool = open_spool(settings, other, "a")
        assert other.consumer == 0
        drain(spool, other)
        assert cookies(settings) == [50, 51, 52]
        assert_balanced(spool)


def test_foreign_files_are_set_aside_few_are_kept(settings: Settings, ring: Ring) -> None:
    open_spool(settings, ring)
    for number in range(40):
        Path(settings.directory, f"what-{number}").write_text("x")
    Path(settings.directory, "name.arrow").symlink_to("/etc/passwd")
    open_spool(settings, ring)
    kept = list((Path(settings.directory) / "quarantine").iterdir())
    assert len(kept) == recovery.QUARANTINED_FILES
    assert [p.name for p in Path(settings.directory).iterdir() if p.is_file() and p.suffix != ".mark"] == []


def test_max_bytes_drops_the_oldest_and_counts(settings: Settings, ring: Ring, writer: RingWriter) -> None:
    count = (1 << 20) // 8192  # what a file of one record takes of a disk
    small = dataclasses.replace(settings, max_bytes=1 << 20)
    spool = open_spool(small, ring, "a")
    for number in range(count + 10):
        fill(spool, ring, writer, 1, number, at=number)
        spool.enforce()
    assert cookies(settings) == list(range(10, count + 10))
    (row,) = open_spool(small, ring, "a").ledger()
    assert row.dropped["max_bytes"] == 10
    assert (row.waiting, row.seen, row.unaccounted) == (count, count + 10, 0)


def test_file_that_somebody_removed_is_missing_in_the_ledger(
    settings: Settings, ring: Ring, writer: RingWriter
) -> None:
    spool = open_spool(settings, ring, "a")
    for number in range(3):
        fill(spool, ring, writer, 4, 4 * number)
    close(spool)
    files(settings)[0].unlink()
    spool = open_spool(settings, ring, "a")
    (row,) = spool.ledger()
    assert row.unaccounted == 4, "the ledger says so at once"
    found = spool.next_batch("a", 0)
    assert found
    spool.settle("a", found[1], "delivered")
    (row,) = spool.ledger()
    assert (row.dropped["missing"], row.delivered, row.unaccounted) == (4, 8, 0)


def test_check_prints_the_ledger_and_warns_of_what_is_lost(
    settings: Settings, ring: Ring, writer: RingWriter
) -> None:
    config = Config(spool=dataclasses.replace(settings, enabled=True))
    (found,) = check_state.spool(config)
    assert (found.state, found.text) == ("warn", f"{settings.directory} is not there yet")
    spool = open_spool(settings, ring, "a")
    fill(spool, ring, writer, 4, 0)
    fill(spool, ring, writer, 4, 4)
    (found,) = check_state.spool(config)
    assert (found.state, found.text) == ("ok", "a: 8 seen, 0 delivered, 8 waiting")
    spool.drop_oldest("max_bytes")
    (found,) = check_state.spool(config)
    assert (found.state, found.text) == ("warn", "a: 8 seen, 0 delivered, 4 waiting, dropped 4 max_bytes")
    assert list(check_state.spool(Config())) == []


def test_new_sink_begins_with_what_waits(settings: Settings, ring: Ring, writer: RingWriter) -> None:
    spool = open_spool(settings, ring, "a")
    fill(spool, ring, writer, 4, 0, at=0)
    close(spool)
    found = spool.next_batch("a", 0)
    assert found
    spool.settle("a", found[1], "delivered")
    fill(spool, ring, writer, 3, 4, at=1)

    spool = open_spool(settings, ring, "a", "new")
    close(spool)
    found = spool.next_batch("new", 0)
    assert found
    spool.settle("new", found[1], "delivered")
    by_sink = {row.sink: row for row in spool.ledger()}
    assert (by_sink["new"].seen, by_sink["new"].delivered) == (3, 3)
    assert (by_sink["a"].seen, by_sink["a"].waiting) == (7, 3)
    assert_balanced(spool)


def test_large_spool_starts_and_hands_out_quickly(settings: Settings, ring: Ring, writer: RingWriter) -> None:
    spool = open_spool(settings, ring, "a")
    fill(spool, ring, writer, 1, 0)
    (path,) = files(settings)
    known = segment.parse(path.name)
    assert known
    template = path.read_bytes()
    path.unlink()
    writer.write(records(1000, 1))
    for number in range(1000):
        one = dataclasses.replace(
            known, begin=number * STRIDE, end=(number + 1) * STRIDE, total=number + 1, batch=number // 60 * 60
        )
        (path.parent / one.name).write_bytes(template)
    began = time.monotonic()
    spool = open_spool(settings, ring, "a")
    close(spool)
    assert spool.next_batch("a", 0)
    assert time.monotonic() - began < 20
    assert np.all([s.records == 1 for s in spool._stock.segments()])


def boottime() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def take(spool: Spool, sink: str) -> None:
    """A sink has the next batch."""
    found = spool.next_batch(sink, 0)
    assert found
    spool.settle(sink, found[1], "delivered")


@pytest.fixture
def keeping(settings: Settings) -> Settings:
    return dataclasses.replace(settings, keep_seconds=100)


def test_settled_stays_for_its_time_and_the_ledger_does_not_know_it(
    keeping: Settings, ring: Ring, writer: RingWriter
) -> None:
    spool = open_spool(keeping, ring, "a")
    fill(spool, ring, writer, 4, 0, at=boottime() - 200 * 10**9)
    fill(spool, ring, writer, 4, 4, at=boottime())
    close(spool)
    take(spool, "a")
    take(spool, "a")
    for _ in range(2):
        assert cookies(keeping) == [4, 5, 6, 7]
        assert len(files(keeping, ".names")) == 1
        (row,) = spool.ledger()
        assert (row.seen, row.delivered, row.waiting) == (8, 8, 0)
        assert_balanced(spool)
        assert spool.next_batch("a", 0) is None
        spool = open_spool(keeping, ring, "a")
    open_spool(dataclasses.replace(keeping, keep_seconds=0), ring, "a")
    assert files(keeping) == files(keeping, ".names") == []


def test_settled_of_another_boot_has_its_time_by_the_wall_clock(
    keeping: Settings, ring: Ring, writer: RingWriter, tmp_path: Path
) -> None:
    spool = open_spool(keeping, ring, "a")
    offset = time.time_ns() - boottime()
    for first, at in ((0, boottime() - 200 * 10**9), (2, boottime())):
        writer.write(records(2, first, time_end=at))
        drain(spool, ring, offset)
    close(spool)
    take(spool, "a")
    take(spool, "a")
    RingFile.create(tmp_path / "next")
    with RingFile(tmp_path / "next") as other:
        spool = Spool(keeping, other, "f" * 32, ["a"])
        assert cookies(keeping) == [2, 3]
        assert_balanced(spool)


def test_what_is_kept_is_the_first_to_make_room_and_no_drop(
    keeping: Settings, ring: Ring, writer: RingWriter
) -> None:
    small = dataclasses.replace(keeping, max_bytes=1 << 20)
    count = (1 << 20) // 8192  # what a file of one record takes of a disk
    spool = open_spool(small, ring, "a")
    for number in range(20):
        fill(spool, ring, writer, 1, number, at=boottime())
    close(spool)
    take(spool, "a")
    for number in range(20, count + 10):
        fill(spool, ring, writer, 1, number, at=boottime())
        spool.enforce()
    assert cookies(keeping)[-1] == count + 9
    assert 0 < cookies(keeping)[0] < 20
    (row,) = spool.ledger()
    assert (row.waiting, sum(row.dropped.values())) == (count - 10, 0)
    for number in range(count + 10, count + 40):
        fill(spool, ring, writer, 1, number, at=boottime())
        spool.enforce()
    (row,) = open_spool(small, ring, "a").ledger()
    assert row.delivered == 20
    assert row.dropped["max_bytes"] == row.seen - 20 - row.waiting > 0
    assert_balanced(spool)


def test_one_sink_behind_keeps_what_the_other_has(keeping: Settings, ring: Ring, writer: RingWriter) -> None:
    spool = open_spool(keeping, ring, "a", "b")
    fill(spool, ring, writer, 4, 0, at=1)
    close(spool)
    take(spool, "a")
    assert cookies(keeping) == [0, 1, 2, 3]
    take(spool, "b")
    assert cookies(keeping) == []


def test_without_a_sink_what_had_its_time_is_delivered_and_what_had_not_is_dropped(
    keeping: Settings, ring: Ring, writer: RingWriter
) -> None:
    spool = open_spool(keeping, ring)
    fill(spool, ring, writer, 4, 0, at=boottime() - 200 * 10**9)
    fill(spool, ring, writer, 3, 4, at=boottime())
    fill(spool, ring, writer, 2, 7, at=boottime())
    spool.collect()
    spool.drop_oldest("max_bytes")
    for _ in range(2):
        (row,) = spool.ledger()
        assert (row.seen, row.delivered, row.waiting, row.dropped["max_bytes"]) == (9, 4, 2, 3)
        assert cookies(keeping) == [7, 8]
        assert_balanced(spool)
        spool = open_spool(keeping, ring)


def test_without_a_sink_and_time_everything_waits_for_one(
    settings: Settings, ring: Ring, writer: RingWriter
) -> None:
    spool = open_spool(settings, ring)
    fill(spool, ring, writer, 4, 0, at=1)
    spool.collect()
    (row,) = spool.ledger()
    assert (row.waiting, row.delivered) == (4, 0)


def test_new_sink_begins_with_what_is_kept(keeping: Settings, ring: Ring, writer: RingWriter) -> None:
    spool = open_spool(keeping, ring, "a")
    fill(spool, ring, writer, 4, 0, at=boottime())
    close(spool)
    take(spool, "a")
    spool = open_spool(keeping, ring, "a", "new")
    by_sink = {row.sink: row for row in spool.ledger()}
    assert (by_sink["a"].waiting, by_sink["new"].waiting) == (0, 4)
    spool.drop_oldest("max_bytes")
    by_sink = {row.sink: row for row in spool.ledger()}
    assert (by_sink["a"].delivered, by_sink["new"].dropped["max_bytes"]) == (4, 4)
    assert_balanced(spool)
