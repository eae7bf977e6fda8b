# SPDX-License-Identifier: Apache-2.0
"""Batches as JSON lines: to a file that rotates, or to standard output.

A batch that is delivered again is written again: readers tell it by (boot_id, ring, sequence). A batch
that could not be written whole is taken back, where that can be: from a file, not from a pipe.
"""

from __future__ import annotations

import contextlib
import os
import sys

from exporter import records
from exporter.batch import Batch
from exporter.sinks.config import Json
from exporter.spool import durable

PART = 512  # records that are text in memory at a time: 0.5 MB, and some more as columns


class JsonFile:
    """Owns the open file."""

    def __init__(self, config: Json) -> None:
        self._config = config
        self._fd = -1

    def deliver(self, batch: Batch) -> None:
        """Written and synced, or not there at all."""
        fd = self._open()
        begin = os.fstat(fd).st_size
        try:
            _write(fd, batch)
            os.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, begin)
            self.close()
            raise
        if os.fstat(fd).st_size >= self._config.rotate_bytes:
            self.close()
            self._rotate()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        """The file, which may have been moved away meanwhile; without a line torn by a crash."""
        path = self._config.path
        if self._fd >= 0:
            try:
                if os.path.samestat(os.fstat(self._fd), os.stat(path)):
                    return self._fd
            except FileNotFoundError:
                pass
            self.close()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        _cut_torn_line(self._fd)
        return self._fd

    def _rotate(self) -> None:
        path = self._config.path
        for number in range(self._config.keep, 0, -1):
            older = f"{path}.{number}"
            newer = f"{path}.{number - 1}" if number > 1 else path
            with contextlib.suppress(FileNotFoundError):
                os.replace(newer, older)
        durable.sync_directory(os.path.dirname(path))


class JsonOutput:
    """Standard output."""

    def deliver(self, batch: Batch) -> None:
        _write(sys.stdout.fileno(), batch)

    def close(self) -> None:
        """It is not ours."""


def _write(fd: int, batch: Batch) -> None:
    for begin in range(0, len(batch.records), PART):
        left = memoryview(records.json_lines(batch.part(slice(begin, begin + PART))).encode())
        while left:
            left = left[os.write(fd, left) :]


def _cut_torn_line(fd: int) -> None:
    """A line without an end is of a batch that comes again."""
    end = os.fstat(fd).st_size
    while end:
        begin = max(0, end - 65536)
        found = os.pread(fd, end - begin, begin).rfind(b"\n")
        if found >= 0:
            end = begin + found + 1
            break
        end = begin
    if end != os.fstat(fd).st_size:
        os.ftruncate(fd, end)
