# SPDX-License-Identifier: Apache-2.0
"""Containers whose poststop never came: their engine was killed, or the host's state outlived them.

Also those whose poststop could not write: their file says when they ended.
"""

from __future__ import annotations

import os
import time

import structlog

from bpf.error import FlowtagError
from exporter.config import Config
from identity import incarnation, lifetime

CHECK_SECONDS = 3


class Orphans:
    """Called often; looks at live/ when it is time to, and first at the exporter's start."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._live = os.path.join(config.host.run_directory, "live")
        self._next = 0.0
        self._log = structlog.get_logger()

    def tick(self) -> int:
        """How many were ended."""
        if time.monotonic() < self._next:
            return 0
        self._next = time.monotonic() + CHECK_SECONDS
        return self.end_dead()

    def end_dead(self) -> int:
        """End every remembered container that does not live, as its poststop would; returns how many."""
        ended = 0
        for name, found in incarnation.every(self._live):
            if not found.workload.end and found.lives():
                continue
            path = os.path.join(self._live, name)
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            host = self._config.host
            try:
                done = lifetime.settle(found, path, host.run_directory, host.pin_directory, now)
            except (OSError, FlowtagError) as error:
                self._log.warning("ending a container", file=path, error=str(error))
                continue
            if done:
                ended += 1
                self._log.info("a container ended without its poststop", workload=found.workload.name)
            else:
                self._log.warning("ending a container", file=path, error=found.reason)
        return ended
