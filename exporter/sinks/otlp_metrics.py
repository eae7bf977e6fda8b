# SPDX-License-Identifier: Apache-2.0
"""A batch's edges as OTLP metrics, of delta temporality: what its records add up to.

Names: network.flow.io with source.*, destination.* and network.io.direction is of
open-telemetry/semantic-conventions (model/network/metrics.yaml, development). They have none for TCP's
own numbers; those follow OBI's obi.stat.tcp.*, with our prefix for its. A point with nothing to add is
left out. All that overflows is one point, as the SDK specification's "Cardinality limits" has it.
"""

from __future__ import annotations

from collections.abc import Iterator

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_DELTA,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)

from bpf import abi
from exporter.batch import Batch
from exporter.sinks import otlp_resource
from exporter.sinks.otlp_edges import RTT_BOUNDS_US, Edge, Names, Sums
from exporter.sinks.otlp_wire import INT64_MAX

IO = "network.flow.io"
CONNECTIONS = "flowtag.stat.tcp.connections"
RETRANSMITS = "flowtag.stat.tcp.retransmits"
RTT = "flowtag.stat.tcp.rtt"
METRICS = {
    IO: ("By", "Bytes transferred from a source endpoint to a destination endpoint."),
    CONNECTIONS: ("{connection}", "TCP connections that ended, by how they ended."),
    RETRANSMITS: ("{segment}", "TCP segments that were sent again."),
    RTT: ("s", "Smoothed TCP round-trip times at the end of connections."),
}

PART = 500  # edges of a request: up to 11 points each, about 1 MB where names are short
MINUTE = 60 * 10**9
_BOUNDS = [bound / 1e6 for bound in RTT_BOUNDS_US]


def window(batch: Batch) -> tuple[int, int]:
    """From the minute's begin to its last record, as ns since 1970.

    Not to the minute's end: an exporter that stops closes its batch, and the next one has another of the
    same minute. Of two points that end at the same time receivers drop one.
    """
    begin = batch.minute * MINUTE
    last = int((batch.records["time_end"].astype("i8") + batch.offset).max(initial=begin))
    return begin, min(max(last, begin + 1), begin + MINUTE)


def requests(batch: Batch, sums: Sums, begin: int, limit: int) -> Iterator[tuple[bytes, int, int]]:
    """ExportMetricsServiceRequests of the edges from `begin` on, of at most `limit` bytes where an edge is
    not larger by itself: each with the edge behind its last, and how many data points it holds.
    """
    count = len(sums.sent)
    ends = [min(end, count) for end in range(begin + PART, count + PART, PART)]
    while ends:
        end = ends.pop(0)
        metrics = _metrics(window(batch), sums, range(begin, end))
        request = _request(batch, metrics).SerializeToString()
        if len(request) > limit and end - begin > 1:
            ends[:0] = [(begin + end) // 2, end]
            continue
        points = sum(len(metric.sum.data_points or metric.histogram.data_points) for metric in metrics)
        yield request, end, points
        begin = end


def _request(batch: Batch, metrics: list[Metric]) -> ExportMetricsServiceRequest:
    scoped = ScopeMetrics(scope=otlp_resource.scope(), metrics=metrics)
    resource = otlp_resource.resource(batch.origin)
    return ExportMetricsServiceRequest(
        resource_metrics=[ResourceMetrics(resource=resource, scope_metrics=[scoped])]
    )


def _metrics(times: tuple[int, int], sums: Sums, rows: range) -> list[Metric]:
    made = {name: Metric(name=name, unit=unit, description=text) for name, (unit, text) in METRICS.items()}
    for row in rows:
        edge = sums.edges[row] if row < len(sums.edges) else None
        _add_sums(made, times, sums, row, edge)
        if sums.rtt[row].any():
            _add_rtt(made[RTT], times, sums, row, edge)
    for metric in made.values():
        data: Sum | Histogram = metric.histogram if metric.name == RTT else metric.sum
        data.aggregation_temporality = AGGREGATION_TEMPORALITY_DELTA
        if isinstance(data, Sum):
            data.is_monotonic = True
    return [metric for metric in made.values() if metric.sum.data_points or metric.histogram.data_points]


def _add_sums(
    made: dict[str, Metric], times: tuple[int, int], sums: Sums, row: int, edge: Edge | None
) -> None:
    def add(name: str, value: int, attributes: list[KeyValue]) -> None:
        if value:
            made[name].sum.data_points.append(
                NumberDataPoint(
                    start_time_unix_nano=times[0],
                    time_unix_nano=times[1],
                    as_int=min(value, INT64_MAX),
                    attributes=attributes,
                )
            )

    ended = sums.connections[row].tolist()
    if edge is None:
        add(IO, sums.sent[row] + sums.received[row], OVERFLOW)
        add(CONNECTIONS, sum(ended), OVERFLOW)
        add(RETRANSMITS, sums.retransmitted[row], OVERFLOW)
        return
    add(IO, sums.sent[row], _transfer(edge, sent=True))
    add(IO, sums.received[row], _transfer(edge, sent=False))
    common = _common(edge)
    for reason, value in zip(abi.ENDS, ended, strict=True):
        add(CONNECTIONS, value, [*common, _text("flowtag.end_reason", reason)])
    add(RETRANSMITS, sums.retransmitted[row], common)


def _add_rtt(metric: Metric, times: tuple[int, int], sums: Sums, row: int, edge: Edge | None) -> None:
    counts = sums.rtt[row].tolist()
    metric.histogram.data_points.append(
        HistogramDataPoint(
            start_time_unix_nano=times[0],
            time_unix_nano=times[1],
            count=sum(counts),
            sum=sums.rtt_us[row] / 1e6,
            min=int(sums.rtt_least[row]) / 1e6,
            max=int(sums.rtt_most[row]) / 1e6,
            bucket_counts=counts,
            explicit_bounds=_BOUNDS,
            attributes=OVERFLOW if edge is None else _common(edge),
        )
    )


def _text(key: str, value: str) -> KeyValue:
    made = KeyValue(key=key)
    made.value.string_value = value.encode(errors="replace").decode()
    return made


def _number(key: str, value: int) -> KeyValue:
    made = KeyValue(key=key)
    made.value.int_value = value
    return made


def _flag(key: str) -> KeyValue:
    made = KeyValue(key=key)
    made.value.bool_value = True
    return made


OVERFLOW = [_flag("otel.metric.overflow")]


def _both(edge: Edge) -> list[KeyValue]:
    """What every point of an edge has: `flowtag.` names of both ends, and what kind of flow it is."""
    made = [_text("network.transport", "tcp")]
    made += [_text(key, value) for key, value in edge.local if key.startswith("flowtag.")]
    made += [_text("flowtag.peer_workload", value) for key, value in edge.peer if key == "flowtag.workload"]
    if edge.role is not None:
        made.append(_text("flowtag.role", edge.role))
    if edge.port is not None:
        made.append(_number("server.port", edge.port))
    return made


def _common(edge: Edge) -> list[KeyValue]:
    made = _both(edge)
    made += [_text(key, value) for key, value in edge.local if not key.startswith("flowtag.")]
    if edge.peer_address is not None:
        made.append(_text("network.peer.address", edge.peer_address))
    return made


def _transfer(edge: Edge, *, sent: bool) -> list[KeyValue]:
    """Of network.flow.io: from whom to whom."""
    made = _both(edge)
    made.append(_text("network.io.direction", "transmit" if sent else "receive"))
    peer: Names = edge.peer
    if edge.peer_address is not None:
        peer = (*peer, ("address", edge.peer_address))
    for end, names in zip(
        ("source", "destination"), (edge.local, peer) if sent else (peer, edge.local), strict=True
    ):
        made += [_text(f"{end}.{key}", value) for key, value in names if not key.startswith("flowtag.")]
    return made
