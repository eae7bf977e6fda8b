# SPDX-License-Identifier: Apache-2.0
"""kill -9 at any moment: every record that the ring had is in the spool, or with the sink, exactly once.

A process writes a ring in the kernel's place, faster than a second's rest, while the exporter's way to
the disk is killed and started again. The short form runs here; the long one, 500 kills under load:

    FLOWTAG_KILLS=500 .venv/bin/python -m pytest tests/integration/test_spool_kill.py
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exporter.spool import ledger
from tests.rig.ring_file import RingWriter, records
from tests.rig.spooler import STEPS, Spooler

KILLS = int(os.environ.get("FLOWTAG_KILLS", "8"))
_LOAD = """
import sys, time
from pathlib import Path
from tests.rig.ring_file import RingWriter, records
path, rate = Path(sys.argv[1]), int(sys.argv[2])
stop, written = Path(sys.argv[3]), 0
with RingWriter(path) as kernel:
    while not stop.exists():
        written += kernel.write(records(rate // 50, written, owner=1 << 40))
        time.sleep(0.02)
    print(written, kernel.lost)
"""


class Load:
    """A writer of the ring in a process of its own; its own count of what it wrote."""

    def __init__(self, spooler: Spooler, rate: int) -> None:
        self._stop = spooler.directory / "stop"
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOAD, str(spooler.ring), str(rate), str(self._stop)],
            stdout=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, int]:
        """Written, and lost because the ring was full."""
        self._stop.touch()
        output, _ = self._process.communicate(timeout=60)
        written, lost = map(int, output.split())
        return written, lost


def test_killed_at_random_moments_under_load_every_record_is_there_once(tmp_path: Path) -> None:
    spooler = Spooler(tmp_path)
    load = Load(spooler, 2000)
    chance = random.Random(KILLS)  # noqa: S311 - a seed
    for _ in range(KILLS):
        process = spooler.start(sinks=0)
        time.sleep(chance.uniform(0.3, 1.3))
        process.kill()
        spooler.died(process)
    written, lost = load.end()
    assert spooler.stop(spooler.start(sinks=0)) == 0
    assert lost == 0
    assert written > 0
    assert spooler.cookies() == list(range(written))
    (row,) = ledger.read(str(spooler.spool))
    assert (row.seen, row.waiting, row.unaccounted) == (written, written, 0)


def test_killed_with_a_sink_every_record_is_delivered_and_doubles_have_one_key(tmp_path: Path) -> None:
    spooler = Spooler(tmp_path)
    load = Load(spooler, 2000)
    chance = random.Random(KILLS + 1)  # noqa: S311 - a seed
    for _ in range(KILLS):
        process = spooler.start()
        time.sleep(chance.uniform(0.4, 1.5))
        process.kill()
        spooler.died(process)
    written, _ = load.end()
    assert spooler.stop(spooler.start()) == 0
    keys = dict[int, set[int]]()
    for number, cookie in spooler.delivered():
        keys.setdefault(cookie, set()).add(number)
    assert sorted(keys) == list(range(written))
    assert all(len(numbers) == 1 for numbers in keys.values()), "the batch's key removes doubles"
    (row,) = ledger.read(str(spooler.spool))
    assert (row.seen, row.delivered, row.waiting, row.unaccounted) == (written, written, 0, 0)
    assert spooler.cookies() == []


def test_killed_while_records_are_kept_for_reading_each_is_there_once(tmp_path: Path) -> None:
    """What the sink has stays; the ledger does not know it any more, and no start delivers it again."""
    spooler = Spooler(tmp_path)
    load = Load(spooler, 2000)
    chance = random.Random(KILLS + 2)  # noqa: S311 - a seed
    for _ in range(KILLS // 2):
        process = spooler.start(keep=3600)
        time.sleep(chance.uniform(0.4, 1.5))
        process.kill()
        spooler.died(process)
        if (spooler.spool / "quarantine").exists():  # the first one may have been killed before it began
            assert all(row.unaccounted == 0 for row in ledger.read(str(spooler.spool)))
    written, _ = load.end()
    assert spooler.stop(spooler.start(keep=3600)) == 0
    assert spooler.cookies() == list(range(written))
    assert {cookie for _, cookie in spooler.delivered()} == set(range(written))
    delivered = len(spooler.delivered())
    (row,) = ledger.read(str(spooler.spool))
    assert (row.seen, row.delivered, row.waiting, row.unaccounted) == (written, written, 0, 0)
    assert spooler.stop(spooler.start(keep=3600)) == 0
    assert len(spooler.delivered()) == delivered
    assert spooler.stop(spooler.start()) == 0
    assert spooler.cookies() == []


def test_killed_without_a_sink_what_had_its_time_goes_and_the_ledger_balances(tmp_path: Path) -> None:
    spooler = Spooler(tmp_path)
    load = Load(spooler, 1000)
    chance = random.Random(KILLS + 3)  # noqa: S311 - a seed
    for _ in range(KILLS // 2):
        process = spooler.start(sinks=0, keep=4)
        time.sleep(chance.uniform(1.5, 2.5))
        process.kill()
        spooler.died(process)
        if (spooler.spool / "quarantine").exists():
            (row,) = ledger.read(str(spooler.spool))
            assert (row.unaccounted, sum(row.dropped.values())) == (0, 0)
    written, _ = load.end()
    assert spooler.stop(spooler.start(sinks=0, keep=4)) == 0
    (row,) = ledger.read(str(spooler.spool))
    assert (row.seen, row.delivered + row.waiting, row.unaccounted) == (written, written, 0)
    assert 0 < row.waiting < written
    assert spooler.cookies() == list(range(row.delivered, written))


@pytest.mark.parametrize(("step", "count"), [*itertools.product(STEPS, (1, 2, 4))])
def test_killed_before_each_step_nothing_is_lost_or_doubled(tmp_path: Path, step: str, count: int) -> None:
    """Before the segment's write, fsync, rename, the directory's fsync, the ring's release, and so on."""
    spooler = Spooler(tmp_path)
    with spooler.writer() as kernel:
        written = _until_it_dies(spooler, kernel, spooler.start((step, count)))
        written += kernel.write(records(7, written))
        assert spooler.stop(spooler.start()) == 0
    cookies = {cookie for _, cookie in spooler.delivered()} | set(spooler.cookies())
    assert cookies == set(range(written))
    assert len(set(spooler.delivered())) == written, "one key for each record"
    (row,) = ledger.read(str(spooler.spool))
    assert (row.seen, row.delivered, row.unaccounted) == (written, written, 0)


def _until_it_dies(spooler: Spooler, kernel: RingWriter, process: subprocess.Popen[bytes]) -> int:
    written, deadline = 0, time.monotonic() + 20
    while process.poll() is None:
        assert time.monotonic() < deadline, "the step was never reached"
        written += kernel.write(records(5, written, owner=1 << 40))
        time.sleep(0.03)
    spooler.died(process)
    return written


def test_stopped_for_a_while_the_ring_holds_and_the_rest_is_counted(tmp_path: Path) -> None:
    spooler = Spooler(tmp_path, ring_bytes=1 << 18)
    process = spooler.start(sinks=0)
    with spooler.writer() as kernel:
        written = kernel.write(records(100))
        deadline = time.monotonic() + 20
        while len(spooler.cookies()) < written:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)
        for _ in range(4):
            written += kernel.write(records(500, written))
        process.send_signal(signal.SIGCONT)
        assert spooler.stop(process) == 0
    assert kernel.lost == 2100 - written > 0
    assert spooler.cookies() == list(range(written))
