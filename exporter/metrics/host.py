# SPDX-License-Identifier: Apache-2.0
"""The host's identity."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from exporter.host_life import HostLife
from exporter.metrics.exposition import Family
from identity.instance import REASONS, STALE


def host(life: HostLife) -> Family:
    """By source and state, with the certificate's end and what was refused."""

    def collect() -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "flowtag_host_identity_state",
            "1 for the source and the state of the host's identity.",
            labels=("source", "state"),
        )
        if life.current:
            identity = life.current.identity
            state.add_metric((identity.source, STALE if life.current.stale else identity.state), 1)
        yield state
        if life.numbers.certificate_not_after is not None:
            yield GaugeMetricFamily(
                "flowtag_certificate_not_after_seconds",
                "When the host's last good certificate expires, in seconds since 1970.",
                value=life.numbers.certificate_not_after,
            )
        refused = CounterMetricFamily(
            "flowtag_host_identity_refused",
            "How often a source of the host's identity began to be refused, by reason.",
            labels=("source", "reason"),
        )
        counted = dict(life.numbers.refused)
        for reason in REASONS:
            refused.add_metric(("certificate", reason), counted.pop(("certificate", reason), 0))
        for key, count in sorted(counted.items()):
            refused.add_metric(key, count)
        yield refused
        yield CounterMetricFamily(
            "flowtag_host_identity_changes",
            "How often another identity of the host came into force.",
            value=life.numbers.changes,
        )

    return collect
