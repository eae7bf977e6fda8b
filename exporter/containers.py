# SPDX-License-Identifier: Apache-2.0
"""The walk of the cgroup tree: marks what lies below engines' roots, and finds unclaimed containers.

The kernel program on mkdir goes on from there: whatever is made below a marked cgroup inherits its
mark. So a parent is marked before its children are listed; a child made meanwhile is either listed or
has inherited.
"""

from __future__ import annotations

import errno
import os
import time

import structlog

from bpf import abi, syscall
from exporter.config import Config
from identity import cgroup, engines, netns
from identity.claim import Claim, Stripe, claim_netns, inherit
from identity.pinned import open_map
from identity.workload import KIND_CONTAINER, Workload, new_id

RECONCILED = abi.SOURCES.index("reconciled")
# The hook has half a second; a container whose cgroup is younger may yet be claimed by it.
HOOK_NS = 600_000_000
FULL = (errno.E2BIG, errno.ENOMEM)
VANISHED = (errno.ENOENT, errno.ENODEV)


class Walk:
    """One walk over the tree mounted at `mount`.

    found counts the containers that it claimed, waiting those that are still the hook's to claim.
    """

    def __init__(self, config: Config, mount: str) -> None:
        self.found = 0
        self.waiting = 0
        self._mount = mount
        self._extra = config.host.engine_roots
        self._locks = os.path.join(config.host.run_directory, "lock")
        self._pins = config.host.pin_directory
        self._host_netns = netns.host_cookie()
        self._log = structlog.get_logger()

    def run(self) -> bool:
        """Walk everything; False if a map had no room or a cgroup could not be reached: still degraded."""
        self._whole = True
        with (
            open_map("ft_workload", self._pins) as self._workloads,
            open_map("ft_cgroup", self._pins) as self._cgroups,
            open_map("ft_netns", self._pins) as self._netns,
        ):
            try:
                self._walk()
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self._log.warning("a map is full: host flows are nobody's", map=error.filename)
                return False
        return self._whole

    def _walk(self) -> None:
        """Without recursion: whoever owns a cgroup may nest a thousand in it.

        A parent is marked before its children are listed.
        """
        todo: list[tuple[str, str, int, Claim | None]] = [(self._mount, "", 0, None)]
        while todo:
            directory, path, level, above = todo.pop()
            try:
                claim = above and self._mark(directory, path, above)
                with os.scandir(directory) as entries:
                    names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError as error:
                if error.errno in FULL:
                    raise
                if error.errno not in VANISHED and above:
                    self._whole = False  # a path too long to follow
                continue
            for name in reversed(names):  # popped in the order of the listing
                below = claim
                if below is None and engines.is_root(name, level + 1, self._extra):
                    below = Claim(abi.OWNER_UNCLAIMED, _now())
                todo.append((f"{directory}/{name}", f"{path}/{name}", level + 1, below))

    def _mark(self, directory: str, path: str, parent: Claim) -> Claim:
        """Give a cgroup its owner, a container its own; returns the claim that stands."""
        number = cgroup.id_of(directory)
        if parent.workload == abi.OWNER_UNCLAIMED:
            return self._identify(directory, path, number)
        return inherit(self._cgroups, number, parent, self._locks)

    def _identify(self, directory: str, path: str, number: int) -> Claim:
        """The claim on a cgroup below a root: what is there, a container found, or UNCLAIMED."""
        key = abi.ID.pack(number)
        marked = Claim(abi.OWNER_UNCLAIMED, _now())
        try:
            self._cgroups.update(key, marked.pack(), syscall.NOEXIST)
            age = HOOK_NS  # there before us, so no hook is at work on it
        except FileExistsError:
            value = self._cgroups.get(key)
            if value is not None:
                marked = Claim.unpack(value)
            age = _now() - marked.since
        container = engines.container(path)
        if marked.workload != abi.OWNER_UNCLAIMED or container is None:
            return marked
        if age < HOOK_NS:  # also an empty one: its first process may be on its way
            self.waiting += 1
            return marked
        if not cgroup.populated(directory) or not _named_by_root(directory):
            return marked
        if not container.certain and not cgroup.holds_processes(directory):
            return marked
        return self._adopt(directory, number, container)

    def _adopt(self, directory: str, number: int, container: engines.Found) -> Claim:
        """Write the identity of a container that was there before us: entry first, keys last."""
        workload = Workload(
            id=new_id(),
            start=_now(),
            kind=KIND_CONTAINER,
            source=RECONCILED,
            state=abi.STATES.index("unverified"),
            container_id=container.container_id,
            runtime=container.runtime,
        )
        self._workloads.update(abi.ID.pack(workload.id), workload.pack())
        mine = Claim(workload.id, workload.start, 0, abi.FLAG_RECONCILED)
        stands = self._replace_unclaimed(number, mine)
        if stands.workload != workload.id:  # the hook was quicker
            self._workloads.delete(abi.ID.pack(workload.id))
            return stands
        self.found += 1
        space = self._namespace(directory)
        if space is not None and space != self._host_netns:
            shared = Claim(workload.id, workload.start, 0, abi.FLAG_RECONCILED)
            claim_netns(self._netns, space, shared, self._locks)
        return mine

    def _replace_unclaimed(self, number: int, mine: Claim) -> Claim:
        """Claim a cgroup unless somebody was quicker; returns the claim that stands then."""
        key = abi.ID.pack(number)
        with Stripe(self._locks, number):
            value = self._cgroups.get(key)
            if value is not None:
                old = Claim.unpack(value)
                if old.workload != abi.OWNER_UNCLAIMED or old.until:
                    return old
            self._cgroups.update(key, mine.pack())
        return mine

    def _namespace(self, directory: str) -> int | None:
        """The network namespace of a cgroup's first process, itself or below; None if all have gone."""
        todo = [directory]
        while todo:
            place = todo.pop()
            try:
                with open(f"{place}/cgroup.procs", encoding="ascii") as file:
                    for pid in file:
                        return netns.cookie(int(pid))
                with os.scandir(place) as entries:
                    todo += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:
                continue
        return None


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _named_by_root(directory: str) -> bool:
    """Whether only root could give a cgroup its name: who owns a cgroup may name those in it at will."""
    return os.stat(os.path.dirname(directory)).st_uid == 0
