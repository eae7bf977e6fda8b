# SPDX-License-Identifier: Apache-2.0
"""inotify(7), which Python has not: be told when something changes in a directory."""

from __future__ import annotations

import ctypes
import os

# linux/inotify.h
CLOSE_WRITE, ATTRIB, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x8, 0x4, 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF, ONLYDIR = 0x400, 0x800, 0x0100_0000
CHANGES = CLOSE_WRITE | ATTRIB | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_init1.argtypes = (ctypes.c_int,)
_libc.inotify_init1.restype = ctypes.c_int
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_libc.inotify_add_watch.restype = ctypes.c_int
_libc.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.inotify_rm_watch.restype = ctypes.c_int


def _checked(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), what)
    return result


def init() -> int:
    """A descriptor that becomes readable when something happens; non-blocking. EMFILE at the user's limit."""
    return _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")


def add(fd: int, directory: str) -> int:
    """Watch what a directory contains; returns the watch's number, the same for the same directory."""
    path = os.fsencode(directory)
    return _checked(_libc.inotify_add_watch(fd, path, CHANGES | ONLYDIR), directory)


def remove(fd: int, watch: int) -> None:
    """Stop a watch; OSError if its directory has gone and the watch with it."""
    _checked(_libc.inotify_rm_watch(fd, watch), f"watch {watch}")
