# SPDX-License-Identifier: Apache-2.0
"""Cgroups v2 and the processes in them, as /proc and the mounted hierarchy tell.

A cgroup's path is the one that /proc/PID/cgroup shows: from the root of the reader's cgroup
namespace. Its id, the key of ft_cgroup, is the inode number of its directory.
"""

from __future__ import annotations

import posix


def mount_point() -> str | None:
    """Where cgroup2 is mounted: the mount of the whole hierarchy if there are several."""
    found = None
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields, _, rest = line.partition(b" - ")
            if rest.startswith(b"cgroup2 "):
                root, place = fields.split(b" ")[3:5]
                if found is None or root == b"/":
                    found = unescape(place)
                if root == b"/":
                    break
    return found


def unescape(place: bytes) -> str:
    """Undo mountinfo's octal escapes, see proc(5)."""
    head, *parts = place.split(b"\\")
    return _decode(head + b"".join(bytes([int(p[:3], 8)]) + p[3:] for p in parts))


def path_of(pid: int | str) -> str | None:
    """The cgroup v2 path of a process; None without one, or if it lies outside our namespace."""
    with open(f"/proc/{pid}/cgroup", "rb") as file:
        for line in file:
            if line.startswith(b"0::"):
                path = _decode(line[3:].rstrip(b"\n"))
                return None if ".." in path.split("/") else path
    return None


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")  # as os.fsdecode, without os


def id_of(directory: str) -> int:
    """The id of the cgroup whose directory (mount point and path) this is."""
    return posix.stat(directory).st_ino


def populated(directory: str) -> bool:
    """Whether a process lives in the cgroup or below it; a cgroup that is gone has none."""
    try:
        with open(f"{directory}/cgroup.events", "rb") as file:
            return b"populated 1" in file.read().splitlines()
    except OSError as error:
        if error.errno in (2, 19):  # ENOENT; ENODEV: it went after it was opened
            return False
        raise


def holds_processes(directory: str) -> bool:
    """Whether a process is in this very cgroup, not in one below."""
    try:
        with open(f"{directory}/cgroup.procs", "rb") as file:
            return file.read(1) != b""
    except OSError:
        return False


def start_time(pid: int | str) -> int | None:
    """When a living process started, in clock ticks since boot; None for a dead one or a zombie.

    With the pid it names a process for good: pids come back, their start times do not.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split(b" ")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in b"ZX" else int(fields[19])
