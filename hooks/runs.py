# SPDX-License-Identifier: Apache-2.0
"""What RUN_DIRECTORY/hook-runs tells: how often the hook ran, what came of it, and how long it took.

identity/hook_runs.py has the lines and their words.

The time is the processor time of the interpreter's process up to main.py's first line, plus the time on the
clock from there to the line in the file. It leaves out sh and timeout (1-2 ms), what the start of the
interpreter waited for (disk, processor), and the process's end. A killed run counts as the half second that
it was given.

The directory is a tmpfs, so the counts are since boot. They are whole up to some 150,000 lines (4 MiB); then
the file becomes hook-runs.old in the place of an earlier one, and the counts are those of the last 150,000 to
300,000 runs: `old` says that this may be so. Where Python never runs nobody renames the file, and it ends at
8 MiB.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from hooks.run_line import LIMIT
from identity import hook_runs

KILLED_MS = 500.0
LATELY = 100


@dataclass(frozen=True, slots=True)
class Event:
    """The runs of one event: counts by outcome and by kind of failure, times in ms (None without a run)."""

    outcomes: Mapping[str, int]
    failures: Mapping[str, int]
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs, by event: createRuntime, prestart, poststop, inject; absent: none. old: see above.

    lately: how many of the last LATELY runs failed.
    """

    events: Mapping[str, Event]
    old: bool
    lately: int = 0

    @property
    def failed(self) -> int:
        return sum(sum(event.failures.values()) for event in self.events.values())

    @property
    def total(self) -> int:
        return self.failed + sum(sum(event.outcomes.values()) for event in self.events.values())


def read(run_directory: str) -> Runs:
    """Count the lines of both files; none where there is no file. Damaged lines are passed over.

    Raises OSError if a file is there but cannot be read.
    """
    outcomes: dict[str, Counter[str]] = {}
    failures: dict[str, Counter[str]] = {}
    times: dict[str, list[float]] = {}
    path = os.path.join(run_directory, hook_runs.FILE)
    before = _tail(f"{path}.old")
    last: deque[bool] = deque(maxlen=LATELY)
    for event, outcome, number in hook_runs.parse(before or b"", _tail(path) or b""):
        last.append(outcome == hook_runs.FAILED)
        if outcome == hook_runs.FAILED:
            kind = hook_runs.KINDS.get(number) or (
                f"signal {number - 128}" if number > 128 else f"status {number}"
            )
            failures.setdefault(event, Counter())[kind] += 1
            if kind == "killed":
                times.setdefault(event, []).append(KILLED_MS)
        else:
            outcomes.setdefault(event, Counter())[outcome] += 1
            times.setdefault(event, []).append(number / 1000)
    events = {}
    for event in sorted(outcomes.keys() | failures.keys()):
        took = sorted(times.get(event, ()))
        events[event] = Event(
            outcomes.get(event, {}), failures.get(event, {}), _quantile(took, 0.5), _quantile(took, 0.99)
        )
    return Runs(events, before is not None, sum(last))


def _quantile(values: list[float], q: float) -> float | None:
    """The nearest-rank quantile of sorted values."""
    return values[max(0, -int(-q * len(values) // 1) - 1)] if values else None


def _tail(path: str) -> bytes | None:
    """The last 2 * LIMIT bytes of a regular file, None where there is none."""
    file = hook_runs.open_file(path)
    if file is None:
        return None
    with file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2 * LIMIT))
        return file.read(2 * LIMIT)
