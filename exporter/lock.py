# SPDX-License-Identifier: Apache-2.0
"""One exporter at a time: a lock that the kernel drops with the process."""

from __future__ import annotations

import fcntl
import os

from bpf.error import FlowtagError

NAME = "exporter.lock"


class Lock:
    """Held while the `with` lasts; FlowtagError if another exporter has it."""

    def __init__(self, run_directory: str) -> None:
        self.path = os.path.join(run_directory, NAME)
        self._fd = -1

    def __enter__(self) -> Lock:
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FlowtagError(
                f"locking {self.path}: another exporter runs", "stop it first; one ring, one reader"
            ) from None
        except OSError as error:
            raise FlowtagError(f"locking {self.path}: {error.strerror}", "run as root") from None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def held(run_directory: str) -> bool:
    """Whether an exporter runs: by /proc/locks, since trying the lock could turn one away."""
    try:
        found = os.stat(os.path.join(run_directory, NAME))
        with open("/proc/locks", encoding="ascii") as file:
            fields = file.read().split()
    except OSError:
        return False
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}" in fields
