# SPDX-License-Identifier: Apache-2.0
"""Once a minute, shortly before it is full: interim records of open flows, heartbeats of idle owners.

In a thread of its own: one run over 100,000 sockets takes 0.1 s, and claims of containers must not wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from bpf.error import FlowtagError
from bpf.syscall import Map
from exporter import counters
from exporter.ownership import Ownership
from exporter.programs import Programs
from exporter.ring import Ring

LEAD_SECONDS = 2.0
"""Before the minute's end: what is written then is drained, and in this minute's batch."""
GLANCE_SECONDS = 5.0
"""How long at most a step of the clock goes unnoticed."""
PASSES = 8
"""A run makes at most half a ring of interim records, so 100,000 flows take three."""
DRAIN_SECONDS = 1.2


class Clock(Protocol):
    """Seconds."""

    def wall(self) -> float: ...

    def steady(self) -> float: ...


class SystemClock:
    def wall(self) -> float:
        return time.time()

    def steady(self) -> float:
        return time.monotonic()


class Schedule:
    """When to run: aligned to the wall clock, and neither storming nor starving when that is stepped."""

    def __init__(self, seconds: int, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lead = min(LEAD_SECONDS, seconds / 4)
        self._last = clock.steady()

    def remaining(self) -> float:
        """Seconds until the next run: 0 is now. After a step of the clock the answer is another one."""
        since = self._clock.steady() - self._last
        if since >= 2 * self._seconds:
            return 0.0
        phase = (self._clock.wall() + self._lead) % self._seconds
        # Just past the mark, and not because of a run: a sleep ends late.
        if phase < self._lead and since > self._lead:
            return 0.0
        until = self._seconds - phase
        return until if since + until >= self._seconds / 2 else until + self._seconds

    def ran(self) -> None:
        self._last = self._clock.steady()


class Interims:
    """A context manager: the thread runs while the `with` lasts. seconds 0: there is none."""

    def __init__(
        self, seconds: int, loaded: Programs, ring: Ring, ownership: Ownership, count: Callable[[str], int]
    ) -> None:
        """count: a counter of the kernel's by its name."""
        self._seconds = seconds
        self._loaded = loaded
        self._ring = ring
        self._ownership = ownership
        self._count = count
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="interim", daemon=True)

    def __enter__(self) -> Interims:
        if self._seconds:
            self._ring.note_owners()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        schedule = Schedule(self._seconds, SystemClock())
        while not self._stop.is_set():
            remaining = schedule.remaining()
            if remaining > 0:
                self._stop.wait(min(remaining, GLANCE_SECONDS))
                continue
            schedule.ran()
            try:
                self.run()
            except (OSError, FlowtagError) as error:
                structlog.get_logger().warning("making interim records", error=str(error))

    def run(self) -> None:
        """All open flows once, as far as the ring has room; then the owners of which nothing was heard."""
        before = _boottime()
        for _ in range(PASSES):
            made, missed = self._count("interim"), self._count("interim_deferred")
            self._loaded.interim(before)
            self._await_drain()
            if self._stop.is_set():
                return
            if self._count("interim_deferred") == missed or self._count("interim") == made:
                break
        self._ownership.tell(self._ring.heard(), _boottime())

    def _await_drain(self) -> None:
        """Until what is in the ring now has been read, as long as that takes no longer than usual."""
        written, deadline = self._ring.producer, time.monotonic() + DRAIN_SECONDS
        while self._ring.consumer < written and time.monotonic() < deadline:
            if self._stop.wait(0.05):
                return


def counter(count_map: Map) -> Callable[[str], int]:
    """One counter of ft_count by name."""
    return lambda name: counters.one(count_map, name)


def _boottime() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
