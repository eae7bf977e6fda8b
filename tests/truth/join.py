# SPDX-License-Identifier: Apache-2.0
"""Which record is which socket's: by namespace, both addresses with their ports, and time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tests.truth.log import Key, Socket

CLOCKS = 300_000
"""What two conversions between boottime and the wall clock may differ by, ns."""

Seen = TypeVar("Seen")


@dataclass(slots=True)
class Joined(Generic[Seen]):
    """One socket and every observation of it: one is right, none is missing, more are doubled."""

    socket: Socket
    seen: list[Seen] = field(default_factory=list)


def join(
    sockets: Iterable[Socket],
    observations: Iterable[Seen],
    key: Callable[[Seen], Key],
    time: Callable[[Seen], int],
) -> list[Joined[Seen]]:
    """Give every observation to the socket of its key that can have opened at `time`.

    Of several that can, the one that must have opened first. Where none can (the time is that of
    the end), the youngest that had begun. Observations of other sockets are nobody's here.
    """
    by_key: dict[Key, list[Joined[Seen]]] = defaultdict(list)
    joined = [Joined[Seen](socket) for socket in sorted(sockets, key=lambda s: s.since)]
    for one in joined:
        by_key[one.socket.key].append(one)
    for seen in sorted(observations, key=time):
        candidates = by_key.get(key(seen))
        if candidates:
            _choose(candidates, time(seen)).seen.append(seen)
    return joined


def _choose(candidates: list[Joined[Seen]], moment: int) -> Joined[Seen]:
    begun = [one for one in candidates if one.socket.since <= moment + CLOCKS]
    fitting = [one for one in begun if moment <= one.socket.until + CLOCKS]
    free = [one for one in fitting if not one.seen]
    if free:
        return min(free, key=lambda one: one.socket.until)
    return (fitting or begun or candidates[:1])[-1]
