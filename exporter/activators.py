# SPDX-License-Identifier: Apache-2.0
"""Where those run that listen for others: process 1 and the engines, each by its cgroup.

Of a listener from before us only its creator's cgroup is left to tell who made it. The root cgroup
tells nothing: without a service manager everything is in it.
"""

from __future__ import annotations

import os

from bpf import abi
from identity import cgroup


def cgroup_ids(names: tuple[str, ...]) -> tuple[int, ...]:
    """The ids of the cgroups, but the root, of process 1 and of processes with these names; at most 32."""
    mount = cgroup.mount_point()
    found: set[int] = set()
    for pid in filter(str.isdecimal, os.listdir("/proc") if mount else ()):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                name = file.read().rstrip("\n")
            if pid != "1" and name not in names:
                continue
            path = cgroup.path_of(pid)
            if path is not None and path != "/":
                found.add(cgroup.id_of(f"{mount}{path}"))
        except OSError:  # gone meanwhile
            continue
    return tuple(sorted(found)[: abi.ROOT_MAX])
