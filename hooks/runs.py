# SPDX-License-Identifier: Apache-2.0
"""What RUN_DIRECTORY/hook-runs tells: how often the hook ran, what came of it, and how long it took.

One line a run, `EVENT OUTCOME NUMBER`. By the hook itself, at its end, with the number of microseconds:

    createRuntime, prestart   claimed: in the maps; pending: the maps could not be written, it waits for the
                              exporter; lost: it could not be left there either; ignored: the state named no
                              container that has processes on this host
    poststop                  ended; pending; nothing: nobody was remembered, or the container lives; ignored
    inject                    added to a bundle by the wrapper; present: it was there already

By the stub and the wrapper, `EVENT failed STATUS`, when Python did not get to its end: see KINDS. Runs while
the kill switch is set, and those whose application is gone, leave no line.

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
import re
import stat
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hooks.run_line import FILE, LIMIT

KINDS = {
    1: "error",  # an exception: a state that is no JSON, a run directory that cannot be written
    2: "no script",  # Python could not open it
    124: "killed",
    125: "timeout failed",  # timeout(1) itself
    126: "not executable",
    127: "no interpreter",  # or no timeout(1)
    137: "killed",  # after half a second, or for want of memory
}
OUTCOMES = ("claimed", "pending", "lost", "ignored", "ended", "nothing", "added", "present")
KILLED_MS = 500.0
LATELY = 100
_LINE = re.compile(rb"(createRuntime|prestart|poststop|inject) ([a-z]{1,10}) ([0-9]{1,12})")


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
    path = os.path.join(run_directory, FILE)
    before = _tail(f"{path}.old")
    last: deque[bool] = deque(maxlen=LATELY)
    for event, outcome, number in _parsed(before or b"", _tail(path) or b""):
        last.append(outcome == "failed")
        if outcome == "failed":
            kind = KINDS.get(number) or (f"signal {number - 128}" if number > 128 else f"status {number}")
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


def _parsed(*texts: bytes) -> Iterator[tuple[str, str, int]]:
    for text in texts:
        for line in text.split(b"\n"):
            match = _LINE.fullmatch(line)
            if match is None:
                continue
            event, outcome, number = match[1].decode(), match[2].decode(), int(match[3])
            if outcome in OUTCOMES or (outcome == "failed" and number < 256):
                yield event, outcome, number


def _quantile(values: list[float], q: float) -> float | None:
    """The nearest-rank quantile of sorted values."""
    return values[max(0, -int(-q * len(values) // 1) - 1)] if values else None


def _tail(path: str) -> bytes | None:
    """The last 2 * LIMIT bytes of a regular file, None where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            return None
        file.seek(max(0, about.st_size - 2 * LIMIT))
        return file.read(2 * LIMIT)
