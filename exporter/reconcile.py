# SPDX-License-Identifier: Apache-2.0
"""What the hook missed: unhooked containers, and identities that it had to leave in pending/.

The mkdir program counts cgroups made below an engine's root, so an idle host costs one look at a
counter. Flows from before an identity is known stay nobody's, never the host's.
"""

from __future__ import annotations

import os

import structlog

from bpf import abi
from bpf.error import FlowtagError
from bpf.syscall import Map
from exporter import counters
from exporter.config import Config
from exporter.containers import Walk
from exporter.programs import Programs
from identity import cgroup, claim, incarnation
from identity.incarnation import Incarnation
from identity.pinned import open_map


class Reconciler:
    """Called often; does nothing where nothing happened."""

    def __init__(self, config: Config, loaded: Programs, count_map: Map) -> None:
        self._config = config
        self._loaded = loaded
        self._count_map = count_map
        self._pending = os.path.join(config.host.run_directory, "pending")
        self._live = os.path.join(config.host.run_directory, "live")
        self._locks = os.path.join(config.host.run_directory, "lock")
        self._marked = -1
        self._pending_changed = 0
        self._log = structlog.get_logger()

    def tick(self) -> None:
        """Look for containers if cgroups were made, were left to the hook, or did not fit."""
        self._replay()
        marked = counters.read(self._count_map)["cgroup_unclaimed"]
        if marked == self._marked and not self._loaded.degraded():
            return
        mount = cgroup.mount_point()
        if mount is None:
            return
        gaps = self._loaded.gaps.get()
        walk = Walk(self._config, mount)
        if walk.run():
            self._loaded.close_gaps(gaps)
        if walk.found:
            self._log.info("containers found that no hook announced", containers=walk.found)
        self._marked = -1 if walk.waiting else marked

    def _replay(self) -> None:
        """Write what the hook left, with its time, for containers that still live."""
        try:
            changed = os.stat(self._pending).st_mtime_ns
        except FileNotFoundError:
            return
        if changed == self._pending_changed:
            return
        self._pending_changed = changed
        for name, left in incarnation.every(self._pending):
            path = os.path.join(self._pending, name)
            try:
                if left.lives():
                    self._write(left)
                    incarnation.write(os.path.join(self._live, name), left)
                    self._log.info("replayed an identity", workload=left.workload.name)
                else:
                    self._log.warning("an identity came too late", workload=left.workload.name)
            except (OSError, FlowtagError) as error:
                self._log.warning("replaying an identity", file=path, error=str(error))
                self._pending_changed = 0
                continue
            incarnation.remove(path)

    def _write(self, left: Incarnation) -> None:
        pins = self._config.host.pin_directory
        with (
            open_map("ft_workload", pins) as workloads,
            open_map("ft_cgroup", pins) as cgroups,
            open_map("ft_netns", pins) as spaces,
        ):
            owner = left.workload.id, left.workload.start
            workloads.update(abi.ID.pack(left.workload.id), left.workload.pack())
            for key in filter(None, (left.cgroup, left.cgroup_parent)):
                before = claim.found(workloads, cgroups, key, left.workload.container_id)
                claim.claim_cgroup(cgroups, key, claim.Claim(*owner), self._locks, before)
            if left.netns:
                mine = claim.Claim(*owner, flags=left.netns_flags)
                claim.claim_netns(spaces, left.netns, mine, self._locks)
