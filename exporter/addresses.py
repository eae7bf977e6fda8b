# SPDX-License-Identifier: Apache-2.0
"""Which container or pod has which address: asked of its network namespace, kept in ft_addr.

An engine may configure addresses after the hook (Docker 26.0.0 and from 28 on), or later (`docker network
connect`). These entries tell people (`flowtag maps lookup ADDRESS`) and attribute nothing: a tenant may
configure any address in a namespace of its own, and one that two namespaces have is CONTESTED.
"""

from __future__ import annotations

import os
import time

import structlog

from bpf import abi, syscall
from bpf.error import FlowtagError
from bpf.syscall import Map
from exporter import namespaces, netlink
from exporter.config import Config
from identity import address, incarnation, netns
from identity.claim import CONTAINER_NETNS, Claim
from identity.pinned import open_map
from identity.port_block import require_unique

AFTER_HOOK_SECONDS = (0.2, 1.0, 3.0)
"""When a new container's namespace is asked: engines configure it within a second of the hook."""
ALL_SECONDS = 30.0


class Addresses:
    """Called often; asks the namespaces of new containers soon, and all of them every 30 seconds."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._live = os.path.join(config.host.run_directory, "live")
        self._shared = frozenset(map(address.from_text, config.translation.shared_addresses))
        self._homes: dict[int, tuple[int, frozenset[bytes]]] = {}  # by namespace: workload, its addresses
        self._written: dict[bytes, int] = {}
        self._changed = 0
        self._due: list[float] = []
        self._next_all = 0.0
        self._log = structlog.get_logger()

    def tick(self) -> None:
        """Do what is due; what cannot be had now is had another time."""
        now = time.monotonic()
        try:
            changed = self._last_hook()
            if changed != self._changed:
                self._changed = changed
                self._due = [now + seconds for seconds in AFTER_HOOK_SECONDS]
            if now >= self._next_all:
                self._next_all = now + ALL_SECONDS
                self.ask_all()
            elif self._due and now >= self._due[0]:
                self._due = [moment for moment in self._due if moment > now]
                self.ask_new()
        except (OSError, FlowtagError) as error:
            self._log.warning("asking for containers' addresses", error=str(error))

    def _last_hook(self) -> int:
        """When live/ last changed; where it is not there, no hook has come yet."""
        try:
            return os.stat(self._live).st_mtime_ns
        except FileNotFoundError:
            return self._changed

    def ask_all(self) -> None:
        """Every claimed namespace; the entries of what is gone end."""
        before, self._homes = self._homes, {}
        with open_map("ft_netns", self._config.host.pin_directory) as spaces:
            for fd in namespaces.every():
                number = syscall.namespace_id(fd)
                self._ask(spaces, netns.cookie_inside(fd) if number is None else number, fd)
        self._write({held for _, addresses in before.values() for held in addresses} | set(self._written))

    def ask_new(self) -> None:
        """The namespaces of the containers whose hook came last, as long as they have no address."""
        since = time.time_ns() - int((AFTER_HOOK_SECONDS[-1] + 1) * 1e9)
        with open_map("ft_netns", self._config.host.pin_directory) as spaces:
            for entry in os.scandir(self._live):
                if not entry.name.endswith(".json") or entry.stat().st_mtime_ns < since:
                    continue
                try:
                    found = incarnation.read(entry.path)
                    if found is None or not found.netns or self._homes.get(found.netns, (0, ()))[1]:
                        continue
                    fd = os.open(f"/proc/{found.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                except (OSError, ValueError):
                    continue  # gone meanwhile, or damaged
                try:
                    if netns.cookie(found.pid) == found.netns:
                        self._ask(spaces, found.netns, fd)
                except OSError:
                    continue
                finally:
                    os.close(fd)
        self._write(set())

    def _ask(self, spaces: Map, number: int, fd: int) -> None:
        """Note the addresses of a namespace that a workload owns."""
        value = spaces.get(abi.ID.pack(number))
        claim = Claim.unpack(value) if value else None
        if claim is None or claim.until or claim.kind != CONTAINER_NETNS:
            return
        if claim.workload <= abi.OWNER_SPECIAL:
            return
        try:
            held = frozenset(filter(self._tells, netlink.addresses(fd)))
        except OSError:
            return
        self._homes[number] = claim.workload, held

    def _tells(self, held: bytes) -> bool:
        """Whether it can be one workload's: neither shared by configuration nor the same on every host."""
        try:
            require_unique(held)
        except FlowtagError:
            return False
        return held not in self._shared

    def _write(self, before: set[bytes]) -> None:
        owners: dict[bytes, int] = {}
        for workload, addresses in self._homes.values():
            for held in addresses:
                owners[held] = abi.OWNER_CONTESTED if owners.get(held, workload) != workload else workload
        with open_map("ft_addr", self._config.host.pin_directory) as entries:
            if not self._written:
                before |= self._adopt(entries)
            for held in before | owners.keys():
                owner = owners.get(held)
                if owner is None:
                    self._end(entries, held)
                elif owner != self._written.get(held):
                    self._begin(entries, held, owner)

    def _adopt(self, entries: Map) -> set[bytes]:
        """What an earlier exporter wrote and still stands."""
        for key, value in list(entries.items()):
            claim = Claim.unpack(value)
            if claim.flags & abi.FLAG_ADDRESS and not claim.until:
                self._written[abi.ADDR_KEY.unpack(key)[1]] = claim.workload
        return set(self._written)

    def _begin(self, entries: Map, held: bytes, owner: int) -> None:
        key = _key(held)
        value = entries.get(key)
        standing = Claim.unpack(value) if value else None
        if standing is not None and not standing.flags & abi.FLAG_ADDRESS:
            return  # a translator's, who says more
        entries.update(key, Claim(owner, _now(), 0, abi.FLAG_ADDRESS).pack())
        self._written[held] = owner

    def _end(self, entries: Map, held: bytes) -> None:
        key = _key(held)
        value = entries.get(key)
        claim = Claim.unpack(value) if value else None
        self._written.pop(held, None)
        if claim is not None and claim.flags & abi.FLAG_ADDRESS and not claim.until:
            claim.until = _now()
            entries.update(key, claim.pack(), syscall.EXIST)


def _key(held: bytes) -> bytes:
    return abi.ADDR_KEY.pack(128, held, bytes(2))


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
