# SPDX-License-Identifier: Apache-2.0
"""The threads around the spool: a slow disk and a slow reader hold nobody up."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest

from bpf.error import FlowtagError
from exporter.config import Config
from exporter.config import Spool as Settings
from exporter.label import Label
from exporter.spool import spooling
from exporter.spool.spooling import Spooling
from tests.rig.ring_file import RingFile, RingWriter, records

IDENTITY = ("host", "01234567-89ab-cdef-0123-456789abcdef")


def start(directory: Path, *, tapped: bool = False) -> Spooling:
    settings = Settings(True, str(directory / "spool"), min_free_bytes=0, stop_seconds=10)
    if not (directory / "ring").exists():
        RingFile.create(directory / "ring", 1 << 20)
    ring = RingFile(directory / "ring")
    vars(ring)["wait"] = lambda seconds: RingFile.wait(ring, min(seconds, 0.02))
    return Spooling(Config(spool=settings), ring, IDENTITY, lambda owner: Label(), {}, tapped=tapped)


def test_tap_shows_what_is_on_the_disk(tmp_path: Path) -> None:
    with start(tmp_path, tapped=True) as way, RingWriter(tmp_path / "ring") as writer:
        writer.write(records(10))
        shown: list[int] = []
        deadline = time.monotonic() + 10
        while len(shown) < 10:
            assert time.monotonic() < deadline
            taken = way.live(0.1)
            if taken is not None:
                assert way.ledger()[0].seen >= len(taken.records)
                shown += taken.records["cookie"].tolist()
        assert shown == list(range(10))


def test_tap_that_nobody_reads_misses_some_and_holds_nothing(tmp_path: Path) -> None:
    with start(tmp_path, tapped=True) as way, RingWriter(tmp_path / "ring") as writer:
        for number in range(5):
            writer.write(records(10, 10 * number))
            deadline = time.monotonic() + 10
            while way.ledger()[0].seen < 10 * (number + 1):
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert way.untapped == 10 * (5 - spooling.TAPPED)


def test_slow_disk_does_not_hold_the_main_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = start(tmp_path)
    real = os.fsync

    def slow(fd: int) -> None:
        time.sleep(0.4)
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", slow)
        with way, RingWriter(tmp_path / "ring") as writer:
            longest, end = 0.0, time.monotonic() + 1.5
            while time.monotonic() < end:
                writer.write(records(1))
                began = time.monotonic()
                way.live(0.01)
                longest = max(longest, time.monotonic() - began)
        assert longest < 0.3
        (row,) = way.ledger()
        assert row.seen == row.waiting > 20


def test_mistake_of_ours_ends_the_run_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = start(tmp_path)

    def wrong(*_: object) -> int:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(way.spool, "append", wrong)
    with way, RingWriter(tmp_path / "ring") as writer:
        writer.write(records(1))
        way._writer.join(10)
        with pytest.raises(FlowtagError, match="a mistake"):
            way.live(0)


def test_end_closes_the_batch_that_runs(tmp_path: Path) -> None:
    with start(tmp_path) as way, RingWriter(tmp_path / "ring") as writer:
        writer.write(records(3, time_end=time.clock_gettime_ns(time.CLOCK_BOOTTIME)))
    assert len(list((tmp_path / "spool").glob("*.names"))) == 1
    assert way.ledger()[0].waiting == 3
    assert dataclasses.asdict(way.ledger()[0])["sink"] == "spool"
