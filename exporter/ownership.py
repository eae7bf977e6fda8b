# SPDX-License-Identifier: Apache-2.0
"""Ownership heartbeats: (address, workload, from, to) for owners of which no record tells.

Of addresses that one living workload has alone: ft_addr's entries by exporter/addresses.py. Not of port
blocks, whose address is many workloads', nor of the host's addresses, which containers on its network have
too: by address alone a reader would take one for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Container

from bpf import abi
from bpf.syscall import Map
from identity.claim import Claim
from identity.workload import Workload

Tell = Callable[[int, bytes, int, int], bool]
"""Programs.tell_owner."""


class Ownership:
    """Remembers up to when each claim has been told, so that intervals meet. For one thread."""

    def __init__(self, addresses: Map, workloads: Map, tell: Tell) -> None:
        self._addresses = addresses
        self._workloads = workloads
        self._tell = tell
        self._told: dict[tuple[bytes, int, int], int] = {}

    def tell(self, heard: Container[int], now: int) -> int:
        """A heartbeat for each claim whose workload is not among `heard`; how many. now: boottime ns.

        What the ring has no room for is left to the next one, whose interval begins as early.
        """
        told: dict[tuple[bytes, int, int], int] = {}
        made = 0
        for address, owner, since in self._claims():
            key = address, owner, since
            start = self._told.get(key, since)
            if owner not in heard and start < now and self._tell(owner, address, start, now):
                made += 1
                start = now
            told[key] = start
        self._told = told
        return made

    def _claims(self) -> list[tuple[bytes, int, int]]:
        """Address, workload and beginning of each claim that stands."""
        found = []
        for raw, value in list(self._addresses.items()):
            prefix, address, _ = abi.ADDR_KEY.unpack(raw)
            claim = Claim.unpack(value)
            alone = prefix == 128 and claim.flags & abi.FLAG_ADDRESS
            if alone and not claim.until and claim.workload > abi.OWNER_SPECIAL:
                found.append((address, claim.workload, claim.since))
        living = {owner for owner in {owner for _, owner, _ in found} if self._lives(owner)}
        return [claim for claim in found if claim[1] in living]

    def _lives(self, owner: int) -> bool:
        """Its namespace is asked every 30 seconds only; the hook says at once that it has ended."""
        value = self._workloads.get(abi.ID.pack(owner))
        return value is not None and not Workload.unpack(value).end
