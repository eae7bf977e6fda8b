# SPDX-License-Identifier: Apache-2.0
"""Garbage collection: ends claims whose key is gone, and removes what has been ended long enough.

A claim is removed only when its cgroup or namespace is gone, and after a grace: a socket may outlive
both. A socket that is looked up later still finds its dead cgroup and is `expired`, never the host's.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from bpf import abi, syscall
from bpf.error import FlowtagError
from bpf.syscall import Map
from exporter import namespaces
from exporter.config import Config
from exporter.containers import RECONCILED
from identity import cgroup, incarnation, netns, translation
from identity.claim import Claim, Stripe, release
from identity.incarnation import Incarnation
from identity.pinned import open_map
from identity.workload import KIND_HOST, Workload

SECOND = 1_000_000_000
KEY_GRACE = 60 * SECOND
# Records of a workload's last sockets may come long after it; its names stay until room is needed.
WORKLOAD_GRACE = 3600 * SECOND
CROWDED = 0.75
# A flow of the host's may stay open for days, while its certificate is renewed every hour.
HOSTS_KEPT = 1024
# A connect that nobody answers is looked up when it ends, up to 127 s later (tcp_syn_retries 6).
SHARED_GRACE = 300 * SECOND


class Collector:
    """One collection; `now` is CLOCK_BOOTTIME ns.

    removed counts entries by map; entries are those that each map had before; contested are cgroups that two
    claim, so that they are nobody's.
    """

    def __init__(self, config: Config, now: int) -> None:
        self.removed = dict.fromkeys(("ft_cgroup", "ft_netns", "ft_addr", "ft_port", "ft_workload"), 0)
        self.entries: dict[str, int] = {}
        self.contested = 0
        self._config = config
        self._now = now
        self._locks = os.path.join(config.host.run_directory, "lock")

    def run(self) -> None:
        incarnations = self._incarnations()
        referenced = {found.workload.id for found in incarnations}
        shared = {found.cgroup_shared for found in incarnations}
        mount = cgroup.mount_point()
        # Keys are read before the living are listed: what is made in between is not taken for dead.
        with open_map("ft_cgroup", self._config.host.pin_directory) as cgroups:
            entries = list(cgroups.items())
            self.entries["ft_cgroup"] = len(entries)
            self.contested = sum(Claim.unpack(value).workload == abi.OWNER_CONTESTED for _, value in entries)
            if mount is not None:
                with _directory(mount) as fd:
                    self._keys("ft_cgroup", cgroups, entries, lambda n: syscall.cgroup_exists(fd, n))
            self._unshare(cgroups, shared)
            self._end_reconciled([Claim.unpack(value) for _, value in cgroups.items()])
            referenced |= _owners(cgroups)
        with open_map("ft_netns", self._config.host.pin_directory) as spaces:
            entries = list(spaces.items())
            self.entries["ft_netns"] = len(entries)
            self._keys("ft_netns", spaces, entries, living_namespaces().__contains__)
            referenced |= _owners(spaces)
        with (
            open_map("ft_addr", self._config.host.pin_directory) as addresses,
            open_map("ft_port", self._config.host.pin_directory) as ports,
            open_map("ft_socket", self._config.host.pin_directory) as sockets,
        ):
            seconds = self._config.translation.publication_seconds
            self.removed["publications"] = translation.age_out(sockets, ports, self._now, seconds)
            for keys in (addresses, ports):
                self._ended(keys)
            for keys in (addresses, ports, sockets):
                referenced |= _owners(keys)
        self._workloads(referenced)

    def _incarnations(self) -> list[Incarnation]:
        """What the files in live/ and pending/ speak of."""
        run = self._config.host.run_directory
        return [
            found
            for directory in ("live", "pending")
            for _, found in incarnation.every(os.path.join(run, directory))
        ]

    def _unshare(self, cgroups: Map, shared: set[int]) -> None:
        """Give cgroups back to the host in which no container on its network runs any more."""
        for key, value in list(cgroups.items()):
            number, claim = int.from_bytes(key, "little"), Claim.unpack(value)
            if not claim.flags & abi.FLAG_NO_CGROUP or number in shared:
                continue
            if claim.until and self._now - claim.until < SHARED_GRACE:
                continue
            self._end_or_remove("ft_cgroup", cgroups, key, value)

    def _keys(
        self, name: str, keys: Map, entries: list[tuple[bytes, bytes]], lives: Callable[[int], bool]
    ) -> None:
        for key, value in entries:
            number = int.from_bytes(key, "little")
            claim = Claim.unpack(value)
            if lives(number) or claim.kind in (
                abi.NETNS_KINDS.index("translator"),
                abi.NETNS_KINDS.index("host"),
            ):
                continue
            if claim.until and self._now - claim.until < KEY_GRACE:
                continue
            self._end_or_remove(name, keys, key, value)

    def _end_or_remove(self, name: str, keys: Map, key: bytes, value: bytes) -> None:
        """End a claim that stands, remove one that has ended; unless somebody was quicker."""
        claim = Claim.unpack(value)
        try:
            with Stripe(self._locks, int.from_bytes(key, "little")):
                if keys.get(key) != value:
                    return
                if claim.until:
                    self.removed[name] += keys.delete(key)
                else:
                    claim.until = self._now
                    keys.update(key, claim.pack(), syscall.EXIST)
        except FlowtagError:  # locked by a hook that hangs: the next collection's
            return

    def _end_reconciled(self, claims: list[Claim]) -> None:
        """End the containers that the exporter found itself and whose cgroups are all gone.

        No file tells of them, and one whose hook came after all has lost its cgroup to that.
        """
        living = {claim.workload for claim in claims if not claim.until}
        ended = {claim.workload: claim.until for claim in sorted(claims, key=_until)}
        pins = self._config.host.pin_directory
        with open_map("ft_workload", pins) as workloads, open_map("ft_netns", pins) as spaces:
            for key, value in list(workloads.items()):
                workload = Workload.unpack(value)
                if workload.source != RECONCILED or workload.end or workload.id in living:
                    continue
                end = ended.get(workload.id, self._now)
                try:
                    for space, claim in list(spaces.items()):
                        if Claim.unpack(claim).workload == workload.id:
                            release(spaces, int.from_bytes(space, "little"), workload.id, end, self._locks)
                except FlowtagError:
                    continue
                workloads.update(key, workload.replace(end=end).pack(), syscall.EXIST)

    def _ended(self, keys: Map) -> None:
        """Remove claims on ports that ended long enough ago, as far as nobody has claimed them anew."""
        for key, value in list(keys.items()):
            claim = Claim.unpack(value)
            if claim.until and self._now - claim.until > KEY_GRACE and keys.get(key) == value:
                self.removed[keys.name.rpartition("/")[2]] += keys.delete(key)

    def _workloads(self, referenced: set[int]) -> None:
        with open_map("ft_workload", self._config.host.pin_directory) as workloads:
            slot = workloads.get(abi.ID.pack(abi.OWNER_HOST_SLOT))
            if slot is not None:
                referenced.add(Workload.unpack(slot).id)
            entries = list(workloads.items())
            self.entries["ft_workload"] = len(entries)
            crowded = len(entries) > CROWDED * workloads.max_entries
            grace = KEY_GRACE if crowded else WORKLOAD_GRACE
            known = [(key, Workload.unpack(value)) for key, value in entries]
            if not crowded:
                referenced |= _last_hosts(workload for _, workload in known)
            for key, workload in known:
                if key == abi.ID.pack(abi.OWNER_HOST_SLOT) or workload.id in referenced:
                    continue
                if workload.end:
                    if self._now - workload.end > grace:
                        self.removed["ft_workload"] += workloads.delete(key)
                elif self._now - workload.start > KEY_GRACE:  # a younger one's keys are on their way
                    workloads.update(key, workload.replace(end=self._now).pack(), syscall.EXIST)


@contextmanager
def _directory(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _until(claim: Claim) -> int:
    return claim.until


def _last_hosts(workloads: Iterable[Workload]) -> set[int]:
    """The incarnations of the host that ended last: no claim names them, but open flows may."""
    ended = (workload for workload in workloads if workload.kind == KIND_HOST and workload.end)
    return {workload.id for workload in heapq.nlargest(HOSTS_KEPT, ended, key=lambda w: w.end)}


def _owners(keys: Map) -> set[int]:
    """The workloads that a map's claims name. Every claim's value begins with its workload."""
    return {int.from_bytes(value[:8], "little") for _, value in keys.items()}


def living_namespaces() -> set[int]:
    """The cookie of every network namespace that a process is in or a mount keeps."""
    living = set()
    for fd in namespaces.every():
        number = syscall.namespace_id(fd)
        living.add(netns.cookie_inside(fd) if number is None else number)
    return living


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
