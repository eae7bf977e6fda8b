# SPDX-License-Identifier: Apache-2.0
"""The lines of RUN_DIRECTORY/hook-runs: one for each run of the hook, `EVENT OUTCOME NUMBER`.

By the hook itself, at its end, with the number of microseconds:

    createRuntime, prestart   claimed: in the maps; pending: the maps could not be written, it waits for the
                              exporter; lost: it could not be left there either; ignored: the state named no
                              container that has processes on this host
    poststop                  ended; pending; nothing: nobody was remembered, or the container lives; ignored
    inject                    added to a bundle by the wrapper; present: it was there already

By the stub and the wrapper, `EVENT failed STATUS`, when Python did not get to its end: see KINDS. Runs while
the kill switch is set, and those whose application is gone, leave no line.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import BinaryIO

FILE = "hook-runs"
"""Also hooks/run_line.py's, which writes it and imports as little as it can."""
KINDS = {
    1: "error",  # an exception: a state that is no JSON, a run directory that cannot be written
    2: "no script",  # Python could not open it
    124: "killed",
    125: "timeout failed",  # timeout(1) itself
    126: "not executable",
    127: "no interpreter",  # or no timeout(1)
    137: "killed",  # after half a second, or for want of memory
}
EVENTS = ("createRuntime", "prestart", "poststop", "inject")
OUTCOMES = ("claimed", "pending", "lost", "ignored", "ended", "nothing", "added", "present")
FAILED = "failed"
_LINE = re.compile(rf"({'|'.join(EVENTS)}) ([a-z]{{1,10}}) ([0-9]{{1,12}})".encode())


def open_file(path: str) -> BinaryIO | None:
    """One of the two files; None if it is not there, or no regular file. OSError if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    file = open(fd, "rb")  # noqa: SIM115 - it is the caller's
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return file
    file.close()
    return None


def parse(*texts: bytes) -> Iterator[tuple[str, str, int]]:
    """Event, outcome (one of OUTCOMES, or FAILED) and number of each line; damaged lines are passed over."""
    for text in texts:
        for line in text.split(b"\n"):
            match = _LINE.fullmatch(line)
            if match is None:
                continue
            event, outcome, number = match[1].decode(), match[2].decode(), int(match[3])
            if outcome in OUTCOMES or (outcome == FAILED and number < 256):
                yield event, outcome, number
