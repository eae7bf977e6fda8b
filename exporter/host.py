# SPDX-License-Identifier: Apache-2.0
"""The host itself: its ids, and the incarnation of its own workload that is current.

Everything outside containers belongs to it. An incarnation is one certificate, or one document, name or
configured identity; the same one keeps its id over restarts of the exporter. ft_workload holds what the
kernel's side needs, /run/flowtag/host.json the rest: both go when the host reboots.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, replace
from typing import Any

import structlog

from bpf import abi
from bpf.syscall import Map
from identity.instance import STALE, UNVERIFIED, Identity, Outcome
from identity.workload import Workload

SLOT = abi.ID.pack(abi.OWNER_HOST_SLOT)
FILE = "host.json"


def _line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def host_id() -> str:
    """The machine id (machine-id(5)), or the host's name where there is none."""
    return _line("/etc/machine-id") or os.uname().nodename


def boot_id() -> str:
    """The kernel's id of this boot."""
    return _line("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Incarnation:
    """The host under one identity, from `start` (CLOCK_BOOTTIME ns).

    provisional: a better source was still waited for when it began; it takes on what that one says.
    stale: its source has not confirmed it for too long.
    """

    id: int
    start: int
    identity: Identity
    provisional: bool = False
    stale: bool = False

    def workload(self, end: int = 0) -> Workload:
        """What ft_workload holds of it."""
        return Workload(
            id=self.id,
            start=self.start,
            end=end,
            kind=abi.WORKLOAD_KINDS.index("host"),
            source=abi.SOURCES.index(self.identity.source),
            state=abi.STATES.index(STALE if self.stale else self.identity.state),
            app=self.identity.app,
            host=self.identity.workload,
        )


KEEP, TAKE_ON, SUCCEED = "keep", "take on", "succeed"


def decide(current: Incarnation | None, outcome: Outcome, order: tuple[str, ...]) -> str:
    """What a look at the sources means for the current incarnation.

    KEEP: nothing, or that it is confirmed. TAKE_ON: it gets a better identity, its id stays. SUCCEED:
    another one follows, for sockets that open from then on.
    """
    found = outcome.identity
    if found is None:
        return KEEP
    if current is None:
        return SUCCEED
    if replace(found, not_after=None) == replace(current.identity, not_after=None):
        return KEEP
    if current.identity.source not in order:
        return SUCCEED
    rank = order.index(found.source) - order.index(current.identity.source)
    if rank > 0:
        return KEEP  # the last good one stands, whatever a lesser source says
    return TAKE_ON if rank < 0 and current.provisional else SUCCEED


def confirmed(current: Incarnation, outcome: Outcome) -> bool:
    """Whether the source of the current identity still says so."""
    found = outcome.identity
    return found is not None and (found.source, found.key) == (current.identity.source, current.identity.key)


def load(workload_map: Map, run_directory: str) -> Incarnation | None:
    """The incarnation that is current by the maps, as an earlier exporter left it."""
    value = workload_map.get(SLOT)
    if value is None:
        return None
    slot = Workload.unpack(value)
    kept = _read(run_directory)
    if kept is not None and kept.id == slot.id and kept.workload().host == slot.host:
        return replace(kept, start=slot.start)
    source, state = abi.SOURCES[slot.source], abi.STATES[slot.state]
    stale = state == STALE
    identity = Identity(source, UNVERIFIED if stale else state, slot.host, slot.app)
    return Incarnation(slot.id, slot.start, identity, stale=stale)


def store(current: Incarnation, workload_map: Map, run_directory: str) -> None:
    """Make it the current one: its entry before the slot, so that whoever reads the slot finds it."""
    value = current.workload().pack()
    workload_map.update(abi.ID.pack(current.id), value)
    workload_map.update(SLOT, value)
    try:
        _write(os.path.join(run_directory, FILE), json.dumps(asdict(current)))
    except OSError as error:  # the maps have it; a restart of the exporter will not know its labels
        structlog.get_logger().warning("keeping the host's identity", error=str(error))


def _write(path: str, text: str) -> None:
    """The whole file or the old one, also after a crash of the exporter."""
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="ascii") as file:
        file.write(text)
    os.rename(path + ".new", path)


def end(old: Incarnation, workload_map: Map, when: int) -> None:
    """The incarnation ended at this time; its names stay for the flows that it owns."""
    workload_map.update(abi.ID.pack(old.id), old.workload(when).pack())


def _read(run_directory: str) -> Incarnation | None:
    """host.json; None where it is not there or not ours."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        with open(os.path.join(run_directory, FILE), encoding="ascii") as file:
            data: dict[str, Any] = json.load(file)
        return Incarnation(**{**data, "identity": Identity(**data["identity"])})
    return None
