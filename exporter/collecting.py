# SPDX-License-Identifier: Apache-2.0
"""When garbage is collected, and what came of it so far."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

import structlog

from bpf.error import FlowtagError
from exporter import garbage
from exporter.config import Config

SECONDS = 30


class Collecting:
    """tick() is called often. removed: entries by map, in all; entries, contested: at the last collection."""

    def __init__(self, config: Config) -> None:
        self.removed: Counter[str] = Counter()
        self.entries: Mapping[str, int] = {}
        self.contested = 0
        self._config = config
        self._next = time.monotonic() + SECONDS

    def tick(self) -> None:
        """What cannot be collected now is collected another time: the records go on."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SECONDS
        one = garbage.Collector(self._config, garbage.now())
        try:
            one.run()
        except (OSError, FlowtagError) as error:
            structlog.get_logger().warning("collecting garbage", error=str(error))
        self.removed.update(one.removed)
        self.entries, self.contested = one.entries, one.contested
