# SPDX-License-Identifier: Apache-2.0
"""Where names come from: is it there, does it answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from exporter.metrics import family
from exporter.metrics.exposition import Family
from identity.kubernetes import Kubernetes
from identity.names import Source


def names(sources: Sequence[Source]) -> Family:
    """A source for which there is nothing on this host is not told."""

    def collect() -> Iterator[Metric]:
        yield family.gauges(
            "flowtag_names_source_up",
            "1 if names from this source are up to date; absent where the host has no such engine.",
            "source",
            {source.name: working for source in sources if (working := source.working) is not None},
        )
        for source in sources:
            if isinstance(source, Kubernetes):
                yield from _kubernetes(source)

    return collect


def _kubernetes(source: Kubernetes) -> Iterator[Metric]:
    errors = CounterMetricFamily(
        "flowtag_kubernetes_errors",
        "Requests to the API server that failed, by what was asked for and kind of failure.",
        labels=("asked", "kind"),
    )
    for asked, health in (("pods", source.watch.health), ("owners", source.owners.health)):
        for kind, count in sorted(health.errors.items()):
            errors.add_metric((asked, kind), count)
    yield errors
    yield family.counter(
        "flowtag_kubernetes_relists",
        "Lists of this node's pods that were taken anew because the watch had become too old.",
        source.watch.health.relists_gone,
    )
    yield family.gauge(
        "flowtag_kubernetes_pods_left_out", "Pods beyond the room for names.", source.watch.health.left_out
    )
