# SPDX-License-Identifier: Apache-2.0
"""Numbers for Prometheus, over HTTP, where [metrics] asks for it.

Each part of the exporter keeps plain numbers; a function here makes them metrics when they are fetched.
prometheus_client is imported only if somebody may fetch them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bpf.error import FlowtagError
from exporter.config import Metrics, endpoint
from exporter.host_life import HostLife
from identity.instance import REASONS, STALE

if TYPE_CHECKING:
    from prometheus_client import Metric

Family = Callable[[], Iterable["Metric"]]
"""A part's metrics, as they are now."""


@contextmanager
def serve(config: Metrics, families: Sequence[Family]) -> Iterator[None]:
    """Answer at `listen` until the end of the `with`; nothing if it is empty."""
    if not config.listen:
        yield
        return
    from prometheus_client import CollectorRegistry, start_http_server

    address, port = endpoint(config.listen)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(families))
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise FlowtagError(
            f"listening at metrics.listen {config.listen}: {error.strerror}",
            "is the address ours, the port free?",
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Collector:
    """What the library asks when somebody fetches."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            yield from family()


def host(life: HostLife) -> Family:
    """The host's identity."""

    def collect() -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

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
