# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, whatever ends the process or the machine in between."""

from __future__ import annotations

import contextlib
import os

TEMPORARY = ".tmp"


def sync_directory(path: str) -> None:
    """Wait until the names in a directory are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def put(directory: str, name: str, data: bytes | memoryview) -> None:
    """Write, fsync, rename. OSError: nothing of that name came to be. The directory is left to sync.

    After a failed fsync the kernel may have dropped the pages and call the next one a success
    (fsync(2), wiki.postgresql.org/wiki/Fsync_Errors), so what failed is written anew from the start.
    """
    temporary = os.path.join(directory, name[:200] + TEMPORARY)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(temporary, flags, 0o600)
        try:
            left = memoryview(data).cast("B")
            while left:
                left = left[os.write(fd, left) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, os.path.join(directory, name))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def remove(path: str) -> None:
    """Unlink what may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
