# SPDX-License-Identifier: Apache-2.0
"""Hundreds of short containers, many alive at once; addresses and ports go to the next at once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from tests.rig.network import Namespace
from tests.truth.stage import HUB, Evidence, Stage
from tests.truth.succession import successor, without_time_wait

SLOTS = 24
LEAST = 20  # alive at once while there are others to come
LIVES = 13
PATIENCE = 60
STARTS = 3  # at once: two cores have no more to give
ENDS = ("client", "server", "reset")


class Slot:
    """A place with an address, where one container follows another."""

    def __init__(self, number: int, place: Namespace) -> None:
        self.number = number
        self.place = without_time_wait(place)
        self._alive = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """While somebody talks to it it does not leave, and while nobody lives there nobody talks."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def acquire(self) -> None:
        if not self._alive.acquire(timeout=PATIENCE):
            raise TimeoutError(f"nobody lives in slot {self.number}, or it cannot leave")

    def release(self) -> None:
        self._alive.release()


class Crowd:
    """How many are alive, and how many are still to come."""

    def __init__(self, coming: int) -> None:
        self._alive, self._coming = 0, coming
        self._news = threading.Condition()

    def another(self) -> bool:
        """Whether one more is to come; who asks has to bring it."""
        with self._news:
            self._coming -= 1
            self._news.notify_all()
            return self._coming >= 0

    def arrive(self) -> None:
        with self._news:
            self._alive += 1
            self._news.notify_all()

    def await_turn(self) -> None:
        """Wait until one may leave, and count it out."""
        with self._news:
            if not self._news.wait_for(lambda: self._alive > LEAST or self._coming <= 0, PATIENCE):
                raise TimeoutError(f"no more than {self._alive} were ever alive")
            self._alive -= 1


def churn(directory: Path, size: float) -> Evidence:
    lives = max(2, round(LIVES * size))
    with Stage("churn", directory) as stage:
        hub = without_time_wait(stage.hub())
        starts = threading.Semaphore(STARTS)
        crowd = Crowd(SLOTS * lives)
        slots = [Slot(n, stage.network.namespace(f"slot{n}")) for n in range(SLOTS)]

        def one_life(slot: Slot, life: int) -> None:
            """In odd slots every container has a namespace of its own, in even ones the same."""
            with starts:
                if life and slot.number % 2:
                    slot.place = without_time_wait(
                        successor(stage.network, slot.place, f"slot{slot.number}-{life}")
                    )
                me = stage.container(f"c{slot.number}-{life}", slot.place)
            crowd.arrive()
            me.do("listen :: 8080")
            slot.release()
            end = ENDS[(slot.number + life) % len(ENDS)]
            me.do(f"connect {hub.ipv4} {HUB} 10 port=40000 end={end}")
            me.do(f"connect {hub.ipv6} {HUB} 4 port=41000 end={end}")
            me.do(f"connect {hub.ipv4} {HUB} 2 mapped=1 port=42000 end={end}")
            other = slots[(slot.number * 7 + life) % SLOTS]
            with other.held():  # maybe ourselves
                me.do(f"connect {other.place.ipv4} 8080 8 from={slot.place.ipv4} port=43000 end={end}")
            crowd.await_turn()
            slot.acquire()
            stage.leave(me)

        def play(slot: Slot) -> None:
            slot.acquire()
            for life in itertools.count():
                if not crowd.another():
                    break
                one_life(slot, life)
            slot.release()

        with ThreadPoolExecutor(SLOTS) as pool:
            for played in as_completed([pool.submit(play, slot) for slot in slots]):
                played.result()  # the first that failed, not those that waited for it
    return stage.evidence
