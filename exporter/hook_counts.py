# SPDX-License-Identifier: Apache-2.0
"""How often the hook ran and what came of it: read on from where the last look ended."""

from __future__ import annotations

import os
from collections import Counter

from identity import hook_runs

MOST = 16 << 20
"""Bytes that are read at once; both files together have 12 MiB at most (hooks/run_line.py)."""
OTHER = "other"
FAILURES = (*dict.fromkeys(hook_runs.KINDS.values()), OTHER)


class HookCounts:
    """read() by one thread. What the files have at the exporter's start counts too."""

    def __init__(self, run_directory: str) -> None:
        self._path = os.path.join(run_directory, hook_runs.FILE)
        self._inode, self._read = 0, 0  # of the file that was read last, and how far
        self._begun = False
        self.runs: Counter[tuple[str, str]] = Counter()
        self.failures: Counter[str] = Counter()

    def read(self) -> None:
        """Count what was added: runs by (event, outcome), failures by kind. OSError if it cannot be read."""
        old = f"{self._path}.old"
        if not self._begun:
            self._begun = True
            self._follow(old, anew=True)
            self._follow(self._path, anew=True)
            return
        if not self._follow(self._path, anew=False):
            self._follow(old, anew=False)  # it was renamed since: first its rest
            self._follow(self._path, anew=True)

    def _follow(self, path: str, *, anew: bool) -> bool:
        """Read a file on, or from its beginning; False if it is another one, or not there."""
        file = hook_runs.open_file(path)
        if file is None:
            return False
        with file:
            about = os.fstat(file.fileno())
            if not anew and about.st_ino != self._inode:
                return False
            begin = 0 if anew or about.st_size < self._read else self._read
            file.seek(begin)
            text = file.read(MOST)
        whole = text.rfind(b"\n") + 1  # the last line may still be written
        self._count(text[:whole])
        self._inode, self._read = about.st_ino, begin + whole
        return True

    def _count(self, text: bytes) -> None:
        for event, outcome, number in hook_runs.parse(text):
            if outcome == hook_runs.FAILED:
                self.failures[hook_runs.KINDS.get(number, OTHER)] += 1
            self.runs[event, outcome] += 1
