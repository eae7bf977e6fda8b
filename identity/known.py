# SPDX-License-Identifier: Apache-2.0
"""Names by container id, in bounded memory: written by a source's thread, read by the exporter's."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from itertools import chain

from identity.names import Names

MOST = 4096
ROOM = 16 << 20
"""Bytes of all names and labels together, about as Python keeps them."""
TEXT = 100
"""Bytes that a text costs beside its UTF-8: its header, its share of a dictionary."""
KEEP_SECONDS = 600.0
"""How long the names of a container outlive it: its last flows may close after it."""


def _bytes(names: Names) -> int:
    own = (names.container, names.pod, names.namespace, names.app, names.image)
    return sum(
        TEXT + len(text.encode()) for texts in (own, names.labels, names.labels.values()) for text in texts
    )


class Known:
    """One writer; readers need no lock: a move puts first and removes then, so that nobody misses an entry.

    When there is no room those that ended first go first, then those that were put first.
    """

    def __init__(
        self, most: int = MOST, room: int = ROOM, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._room = room
        self._clock = clock
        self._living: dict[str, Names] = {}
        self._ended: dict[str, tuple[float, Names]] = {}
        self._sizes: dict[str, int] = {}
        self._size = 0

    def get(self, container_id: str) -> Names | None:
        """What is known of a container, living or ended."""
        living = self._living.get(container_id)
        if living is not None:
            return living
        ended = self._ended.get(container_id)
        return None if ended is None else ended[1]

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def size(self) -> int:
        """Bytes that are kept, about."""
        return self._size

    def put(self, container_id: str, names: Names, ended: bool = False) -> None:
        """Keep what is known of a container now."""
        size = _bytes(names)
        self._size += size - self._sizes.get(container_id, 0)
        self._sizes[container_id] = size
        if ended:
            since = self._ended.get(container_id, (self._clock(), names))[0]
            self._ended[container_id] = (since, names)
            self._living.pop(container_id, None)
        else:
            self._living[container_id] = names
            self._ended.pop(container_id, None)
        self._trim(container_id)

    def end(self, container_id: str) -> None:
        """The container has ended; its names stay for a while."""
        names = self._living.get(container_id)
        if names is not None:
            self.put(container_id, names, ended=True)

    def end_others(self, living: Collection[str]) -> None:
        """All but these have ended."""
        for container_id in [known for known in self._living if known not in living]:
            self.end(container_id)
        self._trim()

    def _trim(self, newest: str = "") -> None:
        old = self._clock() - KEEP_SECONDS
        while self._ended and next(iter(self._ended.values()))[0] < old:
            self._drop(next(iter(self._ended)))
        while len(self._sizes) > self._most or self._size > self._room:
            self._drop(next(one for one in chain(self._ended, self._living) if one != newest))

    def _drop(self, container_id: str) -> None:
        self._living.pop(container_id, None)
        self._ended.pop(container_id, None)
        self._size -= self._sizes.pop(container_id)
