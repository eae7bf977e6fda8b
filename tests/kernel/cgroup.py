# SPDX-License-Identifier: Apache-2.0
"""Cgroups of a test's own, and sockets that were created in them.

A child process enters the cgroup and the network namespace, makes the socket and passes it back: a
socket belongs to its creator, whoever uses it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.rig.network import Namespace


def mount() -> Path:
    """Where cgroup v2 is mounted."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        if line.split()[2] == "cgroup2":
            return Path(line.split()[1])
    raise RuntimeError("no cgroup2 is mounted")


@contextmanager
def cgroup(name: str) -> Iterator[Path]:
    """A new first-level cgroup, removed at the end with what is below it."""
    path = mount() / name
    path.mkdir()
    try:
        yield path
    finally:
        for directory, _, _ in os.walk(path, topdown=False):
            os.rmdir(directory)


def cgroup_id(path: Path) -> int:
    return path.stat().st_ino


def own_cgroup_id() -> int:
    """Of the cgroup that this process is in."""
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    (path,) = (line.removeprefix("0::/") for line in lines if line.startswith("0::"))
    return cgroup_id(mount() / path)


def make_socket(
    namespace: Namespace,
    path: Path | None = None,
    *,
    comm: str = "",
    prepare: Callable[[socket.socket], None] | None = None,
    family: socket.AddressFamily = socket.AF_INET,
) -> socket.socket:
    """A socket made by a child named `comm` in the cgroup `path`, which also did `prepare` with it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = os.fork()
        if child == 0:
            try:
                if comm:
                    Path("/proc/self/comm").write_text(comm, encoding="ascii")
                if path:
                    (path / "cgroup.procs").write_text("0", encoding="ascii")
                with namespace.entered():
                    made = socket.socket(family)
                if prepare:
                    prepare(made)
                socket.send_fds(theirs, [b"1"], [made.fileno()])
            finally:
                os._exit(0)
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        os.waitpid(child, 0)
    assert descriptors, f"no socket was made in {path} and {namespace.name}"
    made = socket.socket(fileno=descriptors[0])
    made.settimeout(20)
    return made
