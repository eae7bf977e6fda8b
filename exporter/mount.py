# SPDX-License-Identifier: Apache-2.0
"""What is mounted where, in this process's mount namespace (proc(5), mountinfo)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: its place, the file system's kind, and its options."""

    place: str
    kind: str
    options: str


def mounts() -> list[Mount]:
    """All mounts, in the order in which they were made."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            kind, _, options = rest.split(" ", 2)
            place = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields.split(" ")[4])
            found.append(Mount(place, kind, options.strip()))
    return found


def holding(path: str) -> Mount:
    """The mount that `path` lies on, or would lie on if it were made."""
    real = os.path.realpath(path)
    best = Mount("/", "unknown", "")
    for mount in mounts():
        inside = real == mount.place or real.startswith(mount.place.rstrip("/") + "/")
        if inside and len(mount.place) >= len(best.place):  # the later one covers the earlier
            best = mount
    return best
