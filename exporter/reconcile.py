# SPDX-License-Identifier: Apache-2.0
"""What the hook missed: unhooked containers, identities that it had to leave in pending/, lost ends.

The mkdir program counts cgroups made below an engine's root, so an idle host costs one look at a
counter. Flows from before an identity is known stay nobody's, never the host's.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import structlog

from bpf.error import FlowtagError
from bpf.syscall import Map
from exporter import counters
from exporter.addresses import Addresses
from exporter.config import Config
from exporter.containers import HOOK_NS, Walk
from exporter.orphans import Orphans
from exporter.programs import Programs
from identity import cgroup, gap, incarnation, lifetime
from identity.incarnation import Incarnation

AGAIN_SECONDS = 1.0
"""After a walk that found no room, or an identity that could not be replayed."""


@dataclass(slots=True)
class Numbers:
    """What was done since the exporter's start.

    walks_failed: those that found no room or did not reach a cgroup. too_late: identities whose container had
    ended when they could be written. orphans: containers that ended without their poststop.
    """

    walks: int = 0
    walks_failed: int = 0
    found: int = 0
    replayed: int = 0
    too_late: int = 0
    orphans: int = 0


class Reconciler:
    """Called often; does nothing where nothing happened."""

    def __init__(self, config: Config, loaded: Programs, count_map: Map) -> None:
        self.numbers = Numbers()
        self._config = config
        self._loaded = loaded
        self._count_map = count_map
        self._run = config.host.run_directory
        self._pending = os.path.join(self._run, "pending")
        self._orphans = Orphans(config)
        self._addresses = Addresses(config)
        self._marked = -1
        self._next_walk = 0.0
        self._pending_changed = 0
        self._next_replay = 0.0
        self._log = structlog.get_logger()

    def tick(self) -> None:
        """Replay what is pending, end the dead, look for containers and for what addresses they have."""
        self._replay()
        self._close_gap()
        self.numbers.orphans += self._orphans.tick()
        self._walk()
        self._addresses.tick()

    def _walk(self) -> None:
        """Look for containers if cgroups were made, were left to the hook, or did not fit."""
        marked = counters.one(self._count_map, "cgroup_unclaimed")
        if marked == self._marked and not self._loaded.degraded():
            return
        mount = cgroup.mount_point()
        if mount is None or time.monotonic() < self._next_walk:
            return
        gaps = self._loaded.gaps.get()
        walk = Walk(self._config, mount)
        try:
            whole = walk.run()
        except (OSError, FlowtagError) as error:
            self._log.warning("looking for containers", error=str(error))
            whole = False
        self.numbers.walks += 1
        self.numbers.walks_failed += not whole
        self.numbers.found += walk.found
        if whole:
            self._loaded.close_gaps(gaps)
        else:
            self._next_walk = time.monotonic() + AGAIN_SECONDS
        if walk.found:
            self._log.info("containers found that no hook announced", containers=walk.found)
        self._marked = marked if whole and not walk.waiting else -1

    def _replay(self) -> None:
        """Write what the hook left, with its time, for containers that still live; end the others."""
        try:
            changed = os.stat(self._pending).st_mtime_ns
        except FileNotFoundError:
            return
        if changed == self._pending_changed or time.monotonic() < self._next_replay:
            return
        self._pending_changed = changed
        for name, left in incarnation.every(self._pending):
            path = os.path.join(self._pending, name)
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            if not left.reason and now - left.workload.start < HOOK_NS:
                self._pending_changed = 0  # its hook is at work
                continue
            try:
                self._settle(name, path, left)
            except (OSError, FlowtagError) as error:
                self._log.warning("replaying an identity", file=path, error=str(error))
                self._pending_changed = 0
                self._next_replay = time.monotonic() + AGAIN_SECONDS

    def _close_gap(self) -> None:
        """Where a claim was missing and no identity waits any more, what has no claim is the host's again.

        The gap is read before pending/ is: the hook writes there first and opens the gap then.
        """
        pins = self._config.host.pin_directory
        try:
            missing = gap.read(pins)
            if not missing.since or any(incarnation.every(self._pending)):
                return
            if gap.close_gap(pins, missing, os.path.join(self._run, "lock")):
                self._log.info("no claim is missing: the host's flows are the host's again")
        except FlowtagError as error:
            self._log.warning("closing the gap in the claims", error=str(error))

    def _settle(self, name: str, path: str, left: Incarnation) -> None:
        host = self._config.host
        with lifetime.Maps(host.pin_directory) as maps:
            if left.workload.end or not left.lives():
                # It may have written some of its keys.
                now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                lifetime.end(left, maps, self._run, left.workload.end or now)
                self.numbers.too_late += 1
                self._log.warning("an identity came too late", workload=left.workload.name)
            else:
                left.reason = ""
                lifetime.succeed(left, name, maps, self._run)
                lifetime.begin(left, maps, self._run)
                incarnation.write(os.path.join(self._run, "live", name), left)
                self._marked = -1  # what was made below it meanwhile is unclaimed yet
                self.numbers.replayed += 1
                self._log.info("replayed an identity", workload=left.workload.name)
        incarnation.forget(path, left)
