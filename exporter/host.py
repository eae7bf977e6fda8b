# SPDX-License-Identifier: Apache-2.0
"""The host itself: its ids, and its own workload, to which everything outside containers belongs."""

from __future__ import annotations

import os
import time

from bpf import abi
from bpf.syscall import Map
from identity.workload import Workload, new_id

SLOT = abi.ID.pack(abi.OWNER_HOST_SLOT)


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


def claim_host(workload_map: Map) -> int:
    """Put the host's identity into ft_workload and its slot; returns the current incarnation's id.

    The same identity keeps its id over restarts of the exporter; another one gets a new incarnation,
    and the old one ends.
    """
    wanted = Workload(
        kind=abi.WORKLOAD_KINDS.index("host"),
        source=abi.SOURCES.index("hostname"),
        state=abi.STATES.index("unverified"),
        host=os.uname().nodename,
    )
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    value = workload_map.get(SLOT)
    if value is not None:
        current = Workload.unpack(value)
        if (current.host, current.source, current.state) == (
            wanted.host,
            wanted.source,
            wanted.state,
        ):
            return current.id
        current.end = now
        workload_map.update(abi.ID.pack(current.id), current.pack())
    wanted.id = new_id()
    wanted.start = now
    # The entry before the slot: whoever reads the slot finds what it points to.
    workload_map.update(abi.ID.pack(wanted.id), wanted.pack())
    workload_map.update(SLOT, wanted.pack())
    return wanted.id
