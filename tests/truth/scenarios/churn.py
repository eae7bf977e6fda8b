# SPDX-License-Identifier: Apache-2.0
"""Hundreds of short containers, many alive at once; addresses and ports go to the next at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.rig.network import Namespace
from tests.truth.stage import HUB, Evidence, Stage
from tests.truth.succession import successor, without_time_wait

SLOTS = 24
LIVES = 13
STARTS = 3  # at once: two cores have no more to give
ENDS = ("client", "server", "reset")


class Slot:
    """A place with an address, where one container follows another."""

    def __init__(self, number: int, place: Namespace) -> None:
        self.number = number
        self.place = without_time_wait(place)
        self.alive = threading.Lock()  # held while somebody talks to it, so that it does not leave


def churn(directory: Path, size: float) -> Evidence:
    lives = max(2, round(LIVES * size))
    with Stage("churn", directory) as stage:
        hub = without_time_wait(stage.hub())
        starts = threading.Semaphore(STARTS)
        slots = [Slot(n, stage.network.namespace(f"slot{n}")) for n in range(SLOTS)]

        def one_life(slot: Slot, life: int) -> None:
            """In odd slots every container has a namespace of its own, in even ones the same."""
            with starts:
                if life and slot.number % 2:
                    slot.place = without_time_wait(
                        successor(stage.network, slot.place, f"slot{slot.number}-{life}")
                    )
                me = stage.container(f"c{slot.number}-{life}", slot.place)
            me.do("listen :: 8080")
            slot.alive.release()
            end = ENDS[(slot.number + life) % len(ENDS)]
            me.do(f"connect {hub.ipv4} {HUB} 10 port=40000 end={end}")
            me.do(f"connect {hub.ipv6} {HUB} 4 port=41000 end={end}")
            me.do(f"connect {hub.ipv4} {HUB} 2 mapped=1 port=42000 end={end}")
            other = slots[(slot.number * 7 + life) % SLOTS]
            with other.alive:  # maybe ourselves
                me.do(f"connect {other.place.ipv4} 8080 8 from={slot.place.ipv4} port=43000 end={end}")
            slot.alive.acquire()
            stage.leave(me)

        def play(slot: Slot) -> None:
            slot.alive.acquire()
            for life in range(lives):
                one_life(slot, life)
            slot.alive.release()

        with ThreadPoolExecutor(SLOTS) as pool:
            list(pool.map(play, slots))
    return stage.evidence
