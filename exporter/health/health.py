# SPDX-License-Identifier: Apache-2.0
"""Whether the exporter works: not whether its process lives, but whether flows get their owners.

Model of what not to be: an agent whose attribution was lost while its probes stayed green
(github.com/cilium/tetragon/issues/4883).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from exporter.health import rules
from exporter.health.problem import Problem
from exporter.health.sample import Sample

EVERY_SECONDS = 5.0
FRESH_SECONDS = 0.5
"""A sample that is younger than this answers again: whoever asks in a loop costs nothing more."""


class Health:
    """tick() by the main loop, problems() by whoever is asked: also when the main loop hangs."""

    def __init__(self, take: Callable[[], Sample], patience: float, beat_seconds: float) -> None:
        self._take = take
        self._patience = patience
        self._beat_seconds = beat_seconds
        self._lock = threading.Lock()
        self._samples: deque[Sample] = deque()

    def tick(self) -> None:
        """Called often: takes a sample when it is time."""
        self._look(EVERY_SECONDS)

    def problems(self) -> list[Problem]:
        """What is wrong now; the gravest first."""
        samples = self._look(FRESH_SECONDS)
        boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return rules.judge(samples, self._patience, self._beat_seconds, boottime)

    def _look(self, seconds: float) -> list[Sample]:
        """All samples, with a new one if the last is older than so long."""
        with self._lock:
            if not self._samples or time.monotonic() - self._samples[-1].at > seconds:
                self._samples.append(self._take())
                begin = self._samples[-1].at - rules.WINDOW
                while self._samples[0].at < begin:
                    self._samples.popleft()
            return list(self._samples)
