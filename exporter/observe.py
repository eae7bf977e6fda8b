# SPDX-License-Identifier: Apache-2.0
"""The exporter seen from outside: metrics and health of all its parts, where [metrics] asks for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpf.syscall import Map
from exporter.collecting import Collecting
from exporter.config import Config, endpoint
from exporter.health.health import Health
from exporter.health.sample import Pins, Probe
from exporter.host_life import HostLife
from exporter.programs import Programs
from exporter.reconcile import Numbers
from exporter.ring import Ring
from exporter.tally import Tally
from identity.names import Source

if TYPE_CHECKING:
    from exporter.spool.spooling import Spooling

Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Parts:
    """What an exporter is made of, each keeping plain numbers."""

    config: Config
    programs: Programs
    count_map: Map
    ring: Ring
    life: HostLife
    sources: Sequence[Source]
    reconciled: Numbers
    collecting: Collecting
    tally: Tally


@contextmanager
def serve(of: Parts, way: Spooling | None = None) -> Iterator[Callable[[Tick], Tick]]:
    """Answer at metrics.listen until the end of the `with`; nothing if it is empty.

    way: the spool, where there is one. What is yielded makes the main loop's tick one that is noticed.
    """
    if not of.config.metrics.listen:
        yield lambda tick: tick
        return
    from exporter.metrics import families, probes  # prometheus_client, for those who are asked
    from exporter.metrics.endpoint import listening
    from exporter.metrics.exposition import Exposition

    beat = _Beat()
    health = _health(of, beat, way)
    pages = {
        "/metrics": Exposition(families.every(of, health, beat, way)).page,
        "/healthz": probes.page(health, ready=False),
        "/readyz": probes.page(health, ready=True),
    }
    with listening(endpoint(of.config.metrics.listen), pages):
        yield lambda tick: beat.noticed(tick, health)


class _Beat:
    """Called: when the main loop last turned, monotonic seconds."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def __call__(self) -> float:
        return self._at

    def noticed(self, tick: Tick, health: Health) -> Tick:
        def turn() -> None:
            tick()
            self._at = time.monotonic()
            health.tick()

        return turn


def _health(of: Parts, beat: Callable[[], float], way: Spooling | None) -> Health:
    def flows() -> tuple[int, int]:
        totals = of.tally.totals()
        return totals.unclaimed, totals.owned

    def stale() -> bool:
        return of.life.current is not None and of.life.current.stale

    pins = of.config.host.pin_directory
    probe = Probe(Pins(pins), pins, of.count_map, of.programs, of.ring.fill, beat, flows, stale, way)
    return Health(probe.sample, of.config.metrics.health_seconds, of.config.exporter.drain_ms / 1000)
