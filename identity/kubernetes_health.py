# SPDX-License-Identifier: Apache-2.0
"""How a conversation with the API server goes: counters, when to try again, and a log line a change."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

import structlog

TELLING = 2
"""Failures in a row before health has changed: one lost connection, taken up again, is no news."""
STEADY_SECONDS = 10.0
LONGEST_RETRY_AFTER = 300.0


class Failure(Exception):
    """An attempt that came to nothing. kind is short and of few values: it is counted by kind.

    retry_after: seconds that the server asks for; hint: what the reader can do.
    """

    def __init__(self, kind: str, text: str, retry_after: float = 0.0, hint: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.retry_after = retry_after
        self.hint = hint


@dataclass(slots=True)
class Health:
    """Plain counters, written by one thread and read by any.

    answered: when the last good answer came, connected: since when the watch stands (monotonic seconds; 0: it
    never did, it does not). problem: why the last attempt failed, empty once things move again.
    oversized: objects longer than is read; unknown: events of a type that no API version has;
    left_out: pods beyond the cache's room.
    """

    what: str
    first_delay: float = 1.0
    longest_delay: float = 60.0
    lists: int = 0
    watches: int = 0
    relists_gone: int = 0
    events: int = 0
    bookmarks: int = 0
    oversized: int = 0
    unknown: int = 0
    left_out: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    failures: int = 0
    answered: float = 0.0
    connected: float = 0.0
    problem: str = ""
    _told: set[str] = field(default_factory=set)

    @property
    def age(self) -> float | None:
        """Seconds since the last good answer; None before the first."""
        return time.monotonic() - self.answered if self.answered else None

    @property
    def working(self) -> bool:
        """Whether names can be believed to be up to date."""
        steady = self.connected and time.monotonic() - self.connected > STEADY_SECONDS
        return bool(self.answered) and (not self.problem or bool(steady))

    def progress(self) -> None:
        """Something true came: the next failure is the first again."""
        self.answered = time.monotonic()
        self.failures = 0
        self.problem = ""
        if self._told:
            self._told.clear()
            structlog.get_logger().info(f"{self.what}: works again")

    def failed(self, failure: Failure) -> float:
        """Count it; how many seconds to wait: full jitter, doubling, and what the server asked for."""
        ceiling = min(self.longest_delay, self.first_delay * 2 ** min(self.failures, 16))
        self.failures += 1
        self.connected = 0.0
        self.errors[failure.kind] = self.errors.get(failure.kind, 0) + 1
        self.problem = f"{failure.kind}: {failure}"
        if (self.failures >= TELLING or failure.hint) and failure.kind not in self._told:
            # One line a kind until it works again, however often it is tried.
            self._told.add(failure.kind)
            structlog.get_logger().warning(
                f"{self.what}: fails, and is tried again",
                kind=failure.kind,
                error=str(failure),
                **({"hint": failure.hint} if failure.hint else {}),
            )
        # Jitter, so that a cluster's nodes do not come all at once; it guards no secret.
        delay = random.uniform(0, ceiling)  # noqa: S311 - keeps no secret
        return max(delay, min(failure.retry_after, LONGEST_RETRY_AFTER))
