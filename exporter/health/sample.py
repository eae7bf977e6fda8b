# SPDX-License-Identifier: Apache-2.0
"""What is looked at to tell whether the exporter works, all of one moment, and cheap to ask."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from bpf import abi, loaded
from bpf.error import FlowtagError
from bpf.syscall import Map
from exporter import counters
from exporter.programs import CGROUP_PROGRAMS, FLOW_PROGRAMS, link_path
from identity import gap

if TYPE_CHECKING:
    from exporter.spool.spooling import Spooling

LOSSES = ("lost_ring", "lost_storage")
# Of the host's network namespace, which is process 1's.
SNMP = "/proc/1/net/snmp"


@dataclass(frozen=True, slots=True)
class Sample:
    """at, beat: monotonic seconds; beat: when the main loop last turned.

    changed: pins that are gone or another's. opened: the programs' count before and after host_opens was
    read, the kernel's own count of opens in the host's namespace (None: not to be had). lost: flows and
    records. missing_since: boottime ns since when a claim is missing, 0: none is. unclaimed, owned:
    containers' flows.
    failing: since when and why, by sink. stale: the host's identity.
    """

    at: float
    beat: float
    changed: tuple[str, ...] = ()
    opened: tuple[int, int] = (0, 0)
    host_opens: int | None = None
    lost: int = 0
    ring: float = 0.0
    incomplete: bool = False
    missing_since: int = 0
    unclaimed: int = 0
    owned: int = 0
    trouble: str = ""
    dead: tuple[str, ...] = ()
    failing: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    stale: bool = False


class Pins:
    """The links and maps that this exporter has pinned, so that it notices when they are no longer there."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._ids = {name: self._id(name) for name in self._names()}

    def _names(self) -> tuple[str, ...]:
        links = (os.path.basename(link_path("", name)) for name in CGROUP_PROGRAMS + FLOW_PROGRAMS)
        return (*abi.MAPS, *links)

    def _id(self, name: str) -> int | None:
        """Of the map or the link; None if there is none."""
        path = os.path.join(self._directory, name)
        try:
            if name not in abi.MAPS:
                return loaded.link(path).id
            with Map.open(path) as pinned:
                number: int = pinned.id
            return number
        except OSError:
            return None

    def changed(self) -> tuple[str, ...]:
        """Names of those that are gone, or others than at the start."""
        return tuple(name for name, id_ in self._ids.items() if id_ is None or self._id(name) != id_)


def host_opens() -> int | None:
    """TCP connections that the kernel opened or accepted in the host's namespace; None: not to be had."""
    try:
        with open(SNMP, encoding="ascii") as file:
            names, values = (line.split() for line in file if line.startswith("Tcp:"))
        found = dict(zip(names, values, strict=True))
        return int(found["ActiveOpens"]) + int(found["PassiveOpens"])
    except (OSError, KeyError, ValueError):
        return None


class Kernel(Protocol):
    """What is asked of exporter/programs.py."""

    def degraded(self) -> bool: ...


@dataclass(slots=True)
class Probe:
    """Takes samples. fill: of the ring, 0 to 1; flows: containers' unclaimed and owned."""

    pins: Pins
    directory: str
    count_map: Map
    kernel: Kernel
    fill: Callable[[], float]
    beat: Callable[[], float]
    flows: Callable[[], tuple[int, int]]
    stale: Callable[[], bool]
    way: Spooling | None = None

    def sample(self) -> Sample:
        """1.3 ms: nothing here depends on how many flows or containers there are."""
        before = counters.one(self.count_map, "opened")
        opens = host_opens()
        after = counters.one(self.count_map, "opened")
        unclaimed, owned = self.flows()
        way = self.way
        return Sample(
            at=time.monotonic(),
            beat=self.beat(),
            changed=self.pins.changed(),
            opened=(before, after),
            host_opens=opens,
            lost=sum(counters.one(self.count_map, name) for name in LOSSES),
            ring=self.fill(),
            incomplete=self.kernel.degraded(),
            missing_since=self._missing(),
            unclaimed=unclaimed,
            owned=owned,
            trouble=way.trouble if way else "",
            dead=way.dead() if way else (),
            failing=way.failing() if way else {},
            stale=self.stale(),
        )

    def _missing(self) -> int:
        try:
            return gap.read(self.directory).since
        except FlowtagError:
            return 0  # its pin is gone: that is said as such
