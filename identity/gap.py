# SPDX-License-Identifier: Apache-2.0
"""ft_gap: a container on the host's network whose claim could not be written.

Its cgroup may lie where nothing tells it from a service's, and there an absent claim means the host. So from
its start on the host's sockets are nobody's (`degraded`), until the exporter has written the claim.
"""

from __future__ import annotations

from bpf import abi
from bpf.error import FlowtagError
from identity.claim import Stripe
from identity.pinned import open_map

LOST = abi.OWNER_UNCLAIMED
"""In place of a workload: its identity is in no file either, so nothing will ever write the claim."""

_ONLY = abi.INDEX.pack(0)
_LOCK = 0


class Gap:
    """since: CLOCK_BOOTTIME ns, 0 where no claim is missing; by: the workload that came last, or LOST."""

    __slots__ = ("by", "since")

    def __init__(self, since: int, by: int) -> None:
        self.since = since
        self.by = by


def read(pins: str) -> Gap:
    """What ft_gap says now."""
    with open_map("ft_gap", pins) as gaps:
        return Gap(*abi.GAP.unpack(gaps.get(_ONLY) or bytes(abi.GAP.size)))


def open_gap(pins: str, since: int, by: int, locks: str) -> None:
    """Say that the claim of `by` is missing, which began at `since`; an earlier gap stays."""
    try:
        with Stripe(locks, _LOCK):
            _open(pins, since, by)
    except (FlowtagError, OSError):
        # A lock that cannot be had keeps nobody from this; at worst close_gap() sees it a moment too late.
        _open(pins, since, by)


def _open(pins: str, since: int, by: int) -> None:
    old = read(pins)
    new = Gap(min(old.since or since, since), LOST if old.by == LOST else by)
    with open_map("ft_gap", pins) as gaps:
        gaps.update(_ONLY, abi.GAP.pack(new.since, new.by))


def close_gap(pins: str, seen: Gap, locks: str) -> bool:
    """Nothing is missing any more, as of when `seen` was read; False if more came since, or it stays."""
    if seen.by == LOST:
        return False
    with Stripe(locks, _LOCK):
        now = read(pins)
        if (now.since, now.by) != (seen.since, seen.by):
            return False
        with open_map("ft_gap", pins) as gaps:
            gaps.update(_ONLY, bytes(abi.GAP.size))
    return True
