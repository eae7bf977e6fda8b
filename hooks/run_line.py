# SPDX-License-Identifier: Apache-2.0
"""One line in RUN_DIRECTORY/hook-runs for each run of the hook: `EVENT OUTCOME MICROSECONDS`.

Import-light: it is on the hook's path. identity/hook_runs.py says what the lines mean, hooks/runs.py counts.
"""

from __future__ import annotations

import posix
import time
from _stat import S_ISREG

RUN_DIRECTORY = "/run/flowtag"
FILE = "hook-runs"
LIMIT = 4 << 20
"""Bytes after which the file becomes hook-runs.old; the stub's own lines stop at twice that."""


def append(run: str, event: str, outcome: str, began: int) -> None:
    """Add a line; `began` is in ns of the monotonic clock. What cannot be written is not counted."""
    path = f"{run}/{FILE}"
    flags = posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT
    flags |= posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK
    try:
        fd = posix.open(path, flags, 0o600)
    except (OSError, ValueError):
        return  # no run directory, or one that may not be written
    try:
        # One write with O_APPEND: lines of hooks that run at once do not mix.
        posix.write(fd, f"{event} {outcome} {(time.monotonic_ns() - began) // 1000}\n".encode())
        about = posix.fstat(fd)
        if about.st_size > LIMIT and S_ISREG(about.st_mode):
            _rename(path, fd, about)
    except OSError:
        return  # a full disk
    finally:
        posix.close(fd)


def _rename(path: str, fd: int, about: posix.stat_result) -> None:
    """Make the file the old one, unless another hook does it or has done it: the new one is not to go."""
    import fcntl  # once in 150,000 runs

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    there = posix.stat(path)
    if (there.st_dev, there.st_ino) == (about.st_dev, about.st_ino):
        posix.rename(path, f"{path}.old")
