# SPDX-License-Identifier: Apache-2.0
"""When interim records are made: by the wall clock, whatever happens to that; and who gets a heartbeat."""

from __future__ import annotations

from itertools import pairwise

import pytest

from exporter.interim import GLANCE_SECONDS, Schedule


class FakeClock:
    """Steps of the clock cannot be had of a machine that others use."""

    def __init__(self, wall: float) -> None:
        self.now = wall
        self.passed = 0.0

    def wall(self) -> float:
        return self.now

    def steady(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.passed += seconds


def runs(clock: FakeClock, schedule: Schedule, seconds: float, step: float = 0, at: float = 0) -> list[float]:
    """The steady times of all runs within `seconds`; the wall clock steps once, at steady time `at`."""
    found = []
    while clock.passed < seconds:
        if step and clock.passed >= at:
            clock.now += step
            step = 0
        remaining = schedule.remaining()
        if remaining > 0:
            clock.sleep(min(remaining, GLANCE_SECONDS))
        else:
            found.append(clock.passed)
            schedule.ran()
            clock.sleep(0.1)
    return found


def test_runs_two_seconds_before_each_full_minute() -> None:
    clock = FakeClock(1_000_000_010)  # 50 s into a minute: the first run is that of the next one
    start = clock.now
    found = runs(clock, Schedule(60, clock), 600)
    assert len(found) == 9
    assert [round((start + at) % 60, 1) for at in found] == [58.0] * 9


@pytest.mark.parametrize("step", [3600, -3600, 3617.3, -3617.3, 30, -30, 7, -7])
@pytest.mark.parametrize("at", [61, 75, 89.5, 107.9, 110])
def test_step_of_the_clock_neither_storms_nor_starves(step: float, at: float) -> None:
    clock = FakeClock(1_000_000_000)
    found = runs(clock, Schedule(60, clock), 1200, step, at)
    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert min(gaps) >= 29
    assert max(gaps) <= 121
    assert [round(gap) for gap in gaps[-10:]] == [60] * 10
    assert round(clock.now - (clock.passed - found[-1])) % 60 == 58
