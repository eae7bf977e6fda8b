# SPDX-License-Identifier: Apache-2.0
"""Families of metrics as one text, made at most twice a second however many ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import structlog
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import generate_latest

from exporter.metrics.endpoint import Answer

Family = Callable[[], Iterable[Metric]]
"""A part's metrics, as they are now."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FRESH_SECONDS = 0.5


class Exposition:
    """A page for endpoint.py. Not the registry of the library's own: what is in that is not ours."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._lock = threading.Lock()
        self._made = -FRESH_SECONDS
        self._text = b""
        self._errors = 0
        self._told: set[str] = set()

    def page(self, accept: str) -> Answer:
        with self._lock:
            if time.monotonic() - self._made >= FRESH_SECONDS:
                self._text = generate_latest(self._registry)
                self._made = time.monotonic()
            return Answer(200, CONTENT_TYPE, self._text)

    def collect(self) -> Iterator[Metric]:
        """What the library asks. A family that fails is left out, counted, and said once."""
        for family in self._families:
            try:
                found = list(family())
            except Exception as error:
                self._errors += 1
                if repr(error) not in self._told:
                    self._told.add(repr(error))
                    structlog.get_logger().error("metrics left out", error=repr(error))
                continue
            yield from found
        yield CounterMetricFamily(
            "flowtag_scrape_errors", "Parts of a scrape that failed and were left out.", value=self._errors
        )
