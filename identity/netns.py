# SPDX-License-Identifier: Apache-2.0
"""Network namespaces by their cookie, the key of ft_netns.

A cookie is never used twice; the inode number is, soon after its namespace is gone.
"""

from __future__ import annotations

import posix

from bpf import syscall

_SOL_SOCKET, _SO_NETNS_COOKIE = 1, 71  # SO_NETNS_COOKIE: Linux 5.14


def cookie(target: int | str) -> int:
    """The cookie of a process's network namespace (a pid), or of a namespace file (a path)."""
    path = f"/proc/{target}/ns/net" if isinstance(target, int) else target
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        number = syscall.namespace_id(fd)  # Linux 6.18; it is the cookie for network namespaces
        return cookie_inside(fd) if number is None else number
    finally:
        posix.close(fd)


def host_cookie() -> int:
    """The cookie of the host's network namespace: process 1's.

    A security module may hide process 1 even from root; what runs outside containers shares its
    namespace then.
    """
    try:
        return cookie(1)
    except PermissionError:
        return cookie("/proc/self/ns/net")


def cookie_inside(fd: int) -> int:
    """The cookie that a socket inside the namespace behind `fd` reports.

    A thread of its own enters the namespace and ends there, so the caller never leaves its own.
    """
    import _socket
    import _thread

    result: list[int | OSError] = []
    done = _thread.allocate_lock()
    done.acquire()

    def enter() -> None:
        try:
            syscall.setns(fd)
            # Any family will do, and AF_UNIX is always there.
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
            value = sock.getsockopt(_SOL_SOCKET, _SO_NETNS_COOKIE, 8)
            sock.close()
            result.append(int.from_bytes(value, "little"))
        except OSError as error:
            result.append(error)
        finally:
            done.release()

    _thread.start_new_thread(enter, ())
    done.acquire()
    answer = result[0]
    if isinstance(answer, OSError):
        raise answer
    return answer
