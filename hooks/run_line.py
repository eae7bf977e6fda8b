# SPDX-License-Identifier: Apache-2.0
"""One line in RUN_DIRECTORY/hook-runs for each run of the hook: `EVENT OUTCOME MICROSECONDS`.

Import-light: it is on the hook's path. identity/hook_runs.py says what the lines mean, hooks/runs.py counts.
"""

from __future__ import annotations

import os
import stat
import time

RUN_DIRECTORY = "/run/flowtag"
FILE = "hook-runs"
LIMIT = 4 << 20
"""Bytes after which the file becomes hook-runs.old; the stub's own lines stop at twice that."""


def append(run: str, event: str, outcome: str, began: int) -> None:
    """Add a line; `began` is in ns of the monotonic clock. What cannot be written is not counted."""
    path = f"{run}/{FILE}"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o600)
    except (OSError, ValueError):
        return  # no run directory, or one that may not be written
    try:
        # One write with O_APPEND: lines of hooks that run at once do not mix.
        os.write(fd, f"{event} {outcome} {(time.monotonic_ns() - began) // 1000}\n".encode())
        about = os.fstat(fd)
        if about.st_size > LIMIT and stat.S_ISREG(about.st_mode):
            _rename(path, fd, about)
    except OSError:
        return  # a full disk
    finally:
        os.close(fd)


def _rename(path: str, fd: int, about: os.stat_result) -> None:
    """Make the file the old one, unless another hook does it or has done it: the new one is not to go."""
    import fcntl  # once in 150,000 runs

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if os.path.samestat(os.stat(path), about):
        os.rename(path, f"{path}.old")
