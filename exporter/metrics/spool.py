# SPDX-License-Identifier: Apache-2.0
"""The ledger of each sink, how its deliveries go, and the spool's room."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from exporter.config import Spool as Settings
from exporter.metrics import family
from exporter.metrics.exposition import Family
from exporter.spool.ledger import Row
from exporter.spool.spooling import Spooling


def spool(way: Spooling, settings: Settings) -> Family:
    """seen = delivered + waiting + dropped in every scrape: all of it is of one moment."""

    def collect() -> Iterator[Metric]:
        now = time.time()
        seen = way.spool.snapshot()
        yield from _ledger(seen.rows)
        yield family.gauges(
            "flowtag_sink_lag_seconds",
            "Since when the oldest batch that this sink should have is over; 0 if it has them all.",
            "sink",
            {sink: max(0.0, now - over) if over else 0.0 for sink, over in seen.oldest.items()},
        )
        yield from _deliveries(way, now)
        yield family.gauge("flowtag_spool_bytes", "Bytes of the spool's files.", seen.bytes)
        yield family.gauge("flowtag_spool_limit_bytes", "spool.max_bytes.", settings.max_bytes)
        disk = os.statvfs(settings.directory)
        free = disk.f_bavail * disk.f_frsize
        yield family.gauge("flowtag_spool_free_bytes", "Free bytes of the spool's file system.", free)
        yield family.gauge("flowtag_spool_min_free_bytes", "spool.min_free_bytes.", settings.min_free_bytes)
        yield family.gauge(
            "flowtag_spool_writable",
            "0 while records cannot be written and wait in the ring.",
            not way.trouble,
        )
        yield family.counter(
            "flowtag_untapped_records",
            "Records that standard output was too slow for; sinks have them.",
            way.untapped,
        )

    return collect


def _ledger(rows: list[Row]) -> Iterator[Metric]:
    def column(name: str, text: str, of: dict[str, float]) -> Metric:
        return family.counters(f"flowtag_sink_{name}_records", text, "sink", of)

    yield column("seen", "Records that this sink should have.", {row.sink: row.seen for row in rows})
    yield column("delivered", "Records that it has.", {row.sink: row.delivered for row in rows})
    dropped = CounterMetricFamily(
        "flowtag_sink_dropped_records",
        "Records that it will never have, by reason (docs/spool.md).",
        labels=("sink", "reason"),
    )
    for row in rows:
        for reason, count in row.dropped.items():
            dropped.add_metric((row.sink, reason), count)
    yield dropped
    yield family.gauges(
        "flowtag_sink_waiting_records",
        "Records in the spool that it does not have yet.",
        "sink",
        {row.sink: row.waiting for row in rows},
    )
    yield family.gauges(
        "flowtag_sink_unaccounted_records",
        "What is missing in its ledger: files that were removed by other hands.",
        "sink",
        {row.sink: row.unaccounted for row in rows},
    )


def _deliveries(way: Spooling, now: float) -> Iterator[Metric]:
    states = {one.sink_name: one.state for one in way.deliveries}
    yield family.gauges(
        "flowtag_sink_up",
        "0 while deliveries fail.",
        "sink",
        {sink: state.failing_since is None for sink, state in states.items()},
    )
    yield family.counters(
        "flowtag_sink_failures",
        "Deliveries that failed, each to be repeated.",
        "sink",
        {one.sink_name: one.failures for one in way.deliveries},
    )
    monotonic = time.monotonic()
    yield family.gauges(
        "flowtag_sink_last_delivery_timestamp_seconds",
        "When the last batch was delivered, in seconds since 1970; absent before the first.",
        "sink",
        {
            sink: now - (monotonic - state.delivered_at)
            for sink, state in states.items()
            if state.delivered_at is not None
        },
    )
