# SPDX-License-Identifier: Apache-2.0
"""Seccomp user notifications: the descriptor that a runtime hands over, and one call at a time on it.

    notifications = Notifications(fd)
    call = notifications.receive()              # None: it went away again (a signal, a kill)
    with opened(call.tid, 3) as there:          # a process's descriptor, as one of our own
        notifications.replace(call, ours, 3, close_on_exec=True)
    notifications.go_on(call)                   # let the kernel run the call after all

Whoever waits in a notified call may be interrupted at any moment, and then calls again: each method
that acts on a call says whether it was still there. Source: seccomp_unotify(2), linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
from struct import Struct
from typing import Any, NamedTuple

_NOTIF = Struct("=QIIiIQ6Q")  # id, pid, flags, then seccomp_data: nr, arch, ip, args
_RESPONSE = Struct("=QqiI")  # id, val, error, flags
_ADDFD = Struct("=QIIII")  # id, flags, srcfd, newfd, newfd_flags
_RECV, _SEND, _VALID, _ADD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_SETFD = 1  # SECCOMP_ADDFD_FLAG_SETFD

_SYS_PIDFD_GETFD = 438  # the same number everywhere
_libc = ctypes.CDLL(None, use_errno=True)


class Call(NamedTuple):
    """One notified system call; tid is the thread's id in our pid namespace."""

    id: int
    tid: int
    args: tuple[int, ...]


class Notifications:
    """The listener of one filter: an owned descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def receive(self) -> Call | None:
        """The next call; None if its caller was interrupted meanwhile. Poll first: it waits."""
        buffer = bytearray(_NOTIF.size)
        if not self._ioctl(_RECV, buffer):
            return None
        id_, tid, _, _, _, _, *args = _NOTIF.unpack(buffer)
        return Call(id_, tid, tuple(args))

    def waits(self, call: Call) -> bool:
        """Whether the caller still waits: only then is what was opened by its tid really its own."""
        return self._ioctl(_VALID, bytearray(call.id.to_bytes(8, "little")))

    def replace(self, call: Call, ours: int, theirs: int, *, close_on_exec: bool) -> bool:
        """Put our descriptor in the place of one of the caller's; False if it no longer waits."""
        flags = os.O_CLOEXEC if close_on_exec else 0
        return self._ioctl(_ADD, bytearray(_ADDFD.pack(call.id, _SETFD, ours, theirs, flags)))

    def go_on(self, call: Call) -> bool:
        """Let the caller's own call run; False if it no longer waits."""
        return self._ioctl(_SEND, bytearray(_RESPONSE.pack(call.id, 0, 0, _CONTINUE)))

    def _ioctl(self, request: int, buffer: bytearray) -> bool:
        try:
            fcntl.ioctl(self.fd, request, buffer)
        except (FileNotFoundError, ProcessLookupError):  # gone before, or while, we acted on it
            return False
        return True


def opened(tid: int, fd: int) -> socket.socket:
    """The socket behind a thread's descriptor, the very same; OSError if it is none."""
    pidfd = os.pidfd_open(_process_of(tid))
    try:
        ours = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)
        if ours < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), f"descriptor {fd} of thread {tid}")
    finally:
        os.close(pidfd)
    try:
        return socket.socket(fileno=ours)
    except OSError:
        os.close(ours)
        raise


def close_on_exec(tid: int, fd: int) -> bool:
    """Whether a thread's descriptor is closed by exec: a flag of the descriptor, not of the file."""
    with open(f"/proc/{tid}/fdinfo/{fd}", encoding="ascii") as file:
        flags = next(line for line in file if line.startswith("flags:"))
    return int(flags.split()[1], 8) & os.O_CLOEXEC != 0


def memory(tid: int, address: int, size: int) -> bytes:
    """`size` bytes of a thread's memory, fewer at the end of a mapping."""
    fd = os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, size, address)
    finally:
        os.close(fd)


def _process_of(tid: int) -> int:
    """The process of a thread; pidfds before Linux 6.9 are for processes only."""
    with open(f"/proc/{tid}/status", encoding="utf-8", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Tgid:"))


def notify(listener: str, *calls: str) -> dict[str, Any]:
    """OCI's linux.seccomp that announces these calls on the unix socket at `listener`, and allows all."""
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": listener,
        "syscalls": [{"names": list(calls), "action": "SCMP_ACT_NOTIFY"}],
    }
