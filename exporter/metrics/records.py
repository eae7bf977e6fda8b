# SPDX-License-Identifier: Apache-2.0
"""Records by rule, reason and kind, counted as they leave the ring. Never by workload: that has no bound."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from exporter.metrics import family
from exporter.metrics.exposition import Family
from exporter.tally import Tally


def records(tally: Tally) -> Family:
    """Of this exporter's life."""

    def collect() -> Iterator[Metric]:
        totals = tally.totals()
        kinds = {name: count for name, count in totals.kinds.items() if name != "none"}
        rules = {name: count for name, count in totals.rules.items() if name != "none"}
        reasons = {name: count for name, count in totals.reasons.items() if name != "none"}
        yield family.counters("flowtag_records", "Records taken from the ring.", "kind", kinds)
        yield family.counters(
            "flowtag_attributed_flows", "Closed flows that have an owner, by rule.", "attributed_by", rules
        )
        yield family.counters(
            "flowtag_unattributed_flows",
            "Closed flows that are nobody's, by reason.",
            "unattributed_reason",
            reasons,
        )
        yield family.counters(
            "flowtag_owned_flows",
            "Closed flows that have an owner, by its kind; none: its entry is gone.",
            "workload_kind",
            totals.workload_kinds,
        )
        ends = CounterMetricFamily(
            "flowtag_closed_flows", "Closed flows by role and end.", labels=("role", "end_reason")
        )
        for pair, count in totals.ends.items():
            ends.add_metric(pair, count)
        yield ends

    return collect
