# SPDX-License-Identifier: Apache-2.0
"""The network namespaces of this host: those that a process is in, and those that a mount keeps."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

from bpf import syscall
from identity import cgroup


def _places() -> Iterator[str]:
    """Paths under which network namespaces may be opened; many lead to the same one."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            yield f"/proc/{name}/ns/net"
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            before, _, after = line.partition(b" - ")
            fields = before.split(b" ")
            if after.startswith(b"nsfs ") and fields[3].startswith(b"net:"):
                yield cgroup.unescape(fields[4])


def every() -> Iterator[int]:
    """A descriptor of each namespace, once; closed when the next one is asked for."""
    seen: set[int] = set()
    nsfs = os.stat("/proc/self/ns/net").st_dev
    for path in _places():
        try:
            if os.stat(path).st_ino in seen:
                continue
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # gone, or hidden from us
            continue
        try:
            found = os.fstat(fd)
            # A mount may go between listing and opening: what is left there is a plain file.
            if found.st_dev == nsfs and found.st_ino not in seen:
                seen.add(found.st_ino)
                yield fd
        finally:
            os.close(fd)


def inside(fd: int, work: Callable[[], None]) -> None:
    """Do `work` in the namespace behind `fd`, in a thread that ends there; its error is raised here."""
    errors: list[Exception] = []

    def enter() -> None:
        try:
            syscall.setns(fd)
            work()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
