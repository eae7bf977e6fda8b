# SPDX-License-Identifier: Apache-2.0
"""The exporter itself: version, process, main loop, and what is wrong with it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata

from prometheus_client import Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily

from bpf import abi
from exporter.health.health import Health
from exporter.health.problem import KINDS
from exporter.metrics import family
from exporter.metrics.exposition import Family


def process(beat: Callable[[], float]) -> Family:
    """beat: when the main loop last turned, monotonic seconds."""
    collector = ProcessCollector(registry=None)
    info = GaugeMetricFamily("flowtag_build_info", "1.", labels=("version", "layout", "python", "kernel"))
    version = metadata.version("flowtag")
    info.add_metric((version, str(abi.LAYOUT), platform.python_version(), os.uname().release), 1)

    def collect() -> Iterator[Metric]:
        yield info
        yield family.gauge(
            "flowtag_main_loop_age_seconds",
            "Since when the main loop, which claims containers, has not turned.",
            max(0.0, time.monotonic() - beat()),
        )
        found: Iterable[Metric] = collector.collect()
        yield from found

    return collect


def problems(health: Health) -> Family:
    """Every problem that there can be, so that an alert sees it come and go."""

    def collect() -> Iterator[Metric]:
        wrong = {one.name for one in health.problems()}
        told = GaugeMetricFamily(
            "flowtag_problem", "1 for what is wrong (docs/operations.md).", labels=("problem", "severity")
        )
        for name, (severity, _) in KINDS.items():
            told.add_metric((name, severity), name in wrong)
        yield told

    return collect
