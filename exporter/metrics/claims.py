# SPDX-License-Identifier: Apache-2.0
"""Who is who: the hook's runs, what was reconciled and collected, and how full the maps are."""

from __future__ import annotations

import os
from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from exporter.collecting import Collecting
from exporter.hook_counts import FAILURES, HookCounts
from exporter.metrics import family
from exporter.metrics.exposition import Family
from exporter.reconcile import Numbers
from identity import gap


def reconciliation(numbers: Numbers, collecting: Collecting, limits: dict[str, int]) -> Family:
    """limits: for how many entries the maps that are counted have room."""

    def collect() -> Iterator[Metric]:
        yield family.counter("flowtag_walks", "Walks of the cgroup tree.", numbers.walks)
        yield family.counter(
            "flowtag_walks_failed",
            "Walks that found no room in a map, or did not reach a cgroup.",
            numbers.walks_failed,
        )
        yield family.counter(
            "flowtag_containers_found", "Containers found by a walk, that no hook announced.", numbers.found
        )
        yield family.counter(
            "flowtag_identities_replayed", "Identities written that a hook could not write.", numbers.replayed
        )
        yield family.counter(
            "flowtag_identities_too_late",
            "Identities that a hook could not write, and whose container had ended.",
            numbers.too_late,
        )
        yield family.counter(
            "flowtag_orphans_ended", "Containers that ended without their poststop.", numbers.orphans
        )
        yield family.gauge(
            "flowtag_contested_cgroups",
            "Cgroups that two containers claim, so that they are nobody's.",
            collecting.contested,
        )
        yield family.counters(
            "flowtag_collected_entries", "Entries that garbage collection removed.", "map", collecting.removed
        )
        yield family.gauges(
            "flowtag_map_entries", "Entries of a map at the last collection.", "map", collecting.entries
        )
        yield family.gauges("flowtag_map_limit_entries", "Entries that a map has room for.", "map", limits)

    return collect


def hooks(counts: HookCounts, run_directory: str, pins: str) -> Family:
    """What the hook's runs said, and what they left behind."""

    def collect() -> Iterator[Metric]:
        counts.read()
        runs = CounterMetricFamily(
            "flowtag_hook_runs", "Runs of the hook by event and outcome.", labels=("event", "outcome")
        )
        for pair, count in sorted(counts.runs.items()):
            runs.add_metric(pair, count)
        yield runs
        failures = {kind: counts.failures[kind] for kind in FAILURES}
        yield family.counters(
            "flowtag_hook_failures",
            "Runs of the hook that did not get to their end, by kind.",
            "kind",
            failures,
        )
        for name, text in (
            ("pending", "Identities that wait to be written."),
            ("live", "Containers that a hook announced and that have not ended."),
        ):
            count = _files(os.path.join(run_directory, name))
            yield family.gauge(f"flowtag_identities_{name}", text, count)
        yield family.gauge(
            "flowtag_claim_missing",
            "1 while a container's claim is missing, so that the host's flows are nobody's.",
            bool(gap.read(pins).since),
        )

    return collect


def _files(directory: str) -> int:
    try:
        return sum(name.endswith(".json") for name in os.listdir(directory))
    except FileNotFoundError:
        return 0
