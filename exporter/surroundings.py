# SPDX-License-Identifier: Apache-2.0
"""What explains numbers in the maps: workloads' names, cgroups' paths, namespaces' processes, the clock."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from bpf import abi
from bpf.error import FlowtagError
from exporter import tcp_table
from identity import cgroup, netns
from identity.pinned import open_map
from identity.workload import Workload


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What explains numbers: workloads by id, living cgroups' paths by id, network namespaces by cookie.

    now is CLOCK_BOOTTIME and wall the wall clock at the same moment, both in ns.
    """

    now: int = 0
    wall: int = 0
    workloads: Mapping[int, Workload] = field(default_factory=dict)
    cgroups: Mapping[int, str] = field(default_factory=dict)
    namespaces: Mapping[int, str] = field(default_factory=dict)


def look_around(pin_directory: str) -> Surroundings:
    """Read what is there now; what cannot be read explains nothing, and is no error."""
    workloads: dict[int, Workload] = {}
    try:
        with open_map("ft_workload", pin_directory) as pinned:
            workloads = {abi.ID.unpack(key)[0]: Workload.unpack(value) for key, value in pinned.items()}
    except (FlowtagError, OSError):
        pass  # whoever dumps ft_workload says so
    return Surroundings(
        now=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        wall=time.time_ns(),
        workloads=workloads,
        cgroups=_cgroup_paths(),
        namespaces=_namespace_processes(),
    )


def _cgroup_paths() -> dict[int, str]:
    mount = cgroup.mount_point()
    found: dict[int, str] = {}
    for directory, _, _ in os.walk(mount) if mount else ():
        try:
            found[cgroup.id_of(directory)] = directory.removeprefix(mount or "") or "/"
        except OSError:
            continue
    return found


def _namespace_processes() -> dict[int, str]:
    """A process in each network namespace, by the namespace's cookie."""
    found: dict[int, str] = {}
    for pid in tcp_table.namespaces().values():
        try:
            found[netns.cookie(pid)] = f"pid {pid} {comm(pid)}"
        except OSError:
            continue
    return found


def comm(pid: int) -> str:
    """A process's name, or nothing if it has gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""
