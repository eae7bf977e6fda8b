# SPDX-License-Identifier: Apache-2.0
"""Where a new container runs: the cgroup and the network namespace that are its own to claim.

Own means not also the engine's: a claim on what the engine runs in would make the engine's sockets,
and those of all its later containers, this container's.
"""

from __future__ import annotations

import posix

from bpf import abi
from bpf.error import FlowtagError
from identity import cgroup, netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from identity.incarnation import Incarnation

# Runtimes whose process on the host is not the container's: gVisor, Kata Containers.
SANDBOXES = ("runsc", "kata")


def sandboxed(runtime_pid: str) -> bool:
    """Whether the runtime that called the hook keeps its containers in a sandbox or guest.

    Told by its executable's name; unknown ones count as runc's kind: the process is the container's.
    """
    try:
        program = posix.readlink(f"/proc/{runtime_pid}/exe").rpartition("/")[2]
    except OSError:
        return False
    return any(word in program for word in SANDBOXES)


def find(new: Incarnation, settings: dict[str, str], runtime_pid: str) -> None:
    """Fill in the incarnation's start time and keys; 0 where there is no key of its own."""
    started = cgroup.start_time(new.pid)
    if started is None:
        raise FlowtagError(f"finding the container's process {new.pid}: it does not run")
    new.start_time = started
    mount = settings.get("cgroup_mount") or cgroup.mount_point()
    path = cgroup.path_of(new.pid)
    if mount and path and not holds(path, "self") and not holds(path, runtime_pid):
        new.cgroup_directory = mount + path
        new.cgroup = cgroup.id_of(new.cgroup_directory)
        parent, _, leaf = new.cgroup_directory.rpartition("/")
        # crun with the systemd driver runs the container in a leaf below the one that has its name.
        if leaf == "container" and names(parent, new.workload.container_id):
            new.cgroup_parent = cgroup.id_of(parent)
    else:
        new.netns_flags = abi.FLAG_NO_CGROUP
    number = netns.cookie(new.pid)
    if number not in (host_netns(settings), netns.cookie("/proc/self/ns/net")):
        new.netns = number
    elif new.netns_flags and mount and path:
        new.cgroup_shared = cgroup.id_of(mount + path)


def holds(path: str, pid: str) -> bool:
    """Whether a process is in the cgroup or below it; the root holds all."""
    other = cgroup.path_of(pid)
    return path == "/" or (other is not None and f"{other}/".startswith(f"{path}/"))


def names(directory: str, container_id: str) -> bool:
    """Whether a cgroup is named after the container: ID, PREFIX-ID or PREFIX-ID.scope."""
    stem = directory.rpartition("/")[2].removesuffix(".scope")
    return container_id != "" and (stem == container_id or stem.endswith(f"-{container_id}"))


def host_netns(settings: dict[str, str]) -> int:
    """The cookie of the host's network namespace: as it was set, else found."""
    known = settings.get("host_netns", "")
    return int(known) if known.isdecimal() else netns.host_cookie()
