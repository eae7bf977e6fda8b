# SPDX-License-Identifier: Apache-2.0
"""Who lives in a cgroup and since when, for people who ask; what is gone meanwhile is nobody, no error."""

from __future__ import annotations

import os
import time
from collections import deque

from identity import cgroup

PROCESSES = 16
"""Looked at for the oldest: a container's first process joins its cgroup first."""
PLACES = 100
"""Cgroups that are searched for a process: whoever owns a cgroup may make any number in it."""


def populated(directory: str) -> bool:
    """Whether a process lives in the cgroup or below it."""
    try:
        return cgroup.populated(directory)
    except OSError:
        return False


def named_by_root(directory: str) -> bool:
    """Whether only root could give a cgroup its name, as the exporter wants it."""
    try:
        return os.stat(os.path.dirname(directory)).st_uid == 0
    except OSError:
        return False


def oldest(directory: str) -> tuple[int, int]:
    """The oldest process of a cgroup, or of the first one below it that has some, and when it started."""
    todo = deque([directory])
    for _ in range(PLACES):
        if not todo:
            break
        place = todo.popleft()
        try:
            with open(f"{place}/cgroup.procs", encoding="ascii") as file:
                pids = [int(line) for line, _ in zip(file, range(PROCESSES), strict=False)]
            if not pids:
                with os.scandir(place) as entries:
                    todo += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except (OSError, ValueError):
            continue
        starts = [(began, pid) for pid in pids if (began := started(pid))]
        if starts:
            began, pid = min(starts)
            return pid, began
    return 0, 0


def started(pid: int) -> int:
    """When a process started, boottime ns; 0 for a dead one."""
    ticks = cgroup.start_time(pid)
    return 0 if ticks is None else ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def wall(boottime: int) -> float:
    """A boottime in ns as seconds of the wall clock."""
    return time.time() - (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - boottime) / 1e9
