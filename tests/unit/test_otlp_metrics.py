# SPDX-License-Identifier: Apache-2.0
"""Edges as OTLP metrics: the sums of the points are the sums of the records, whatever these are."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_DELTA, Metric

from bpf import abi
from exporter.batch import Batch
from exporter.label import NOBODY, Label
from exporter.sinks import otlp_edges, otlp_metrics
from exporter.sinks.otlp_edges import RTT_BOUNDS_US
from exporter.sinks.otlp_metrics import CONNECTIONS, IO, METRICS, RETRANSMITS, RTT
from identity import address
from tests.rig.batches import MINUTE, OFFSET, OTHER, OWNER, batch
from tests.rig.otlp import Point, attributes

LIMIT = 4 << 20
BEGIN = MINUTE * 60 * 10**9
TWIN = 55  # another owner with OWNER's names
Found = dict[str, list[tuple[dict[str, Any], Point]]]


def some(count: int = 400, seed: int = 0) -> Batch:
    """Few ends, so that edges have many records; kinds, roles and reasons of all sorts."""
    one = batch(count)
    rng = np.random.default_rng(seed)
    r = one.records
    r["kind"] = rng.integers(0, 6, count)
    r["owner"] = rng.choice([0, OWNER, OTHER, TWIN, 99], count)
    r["local_port"], r["peer_port"] = rng.integers(80, 83, count), rng.integers(80, 82, count)
    r["bytes_sent"] = rng.choice([0, 1, 1 << 33, (1 << 40) + 7], count)
    r["bytes_received"] = rng.choice([0, 3, 1 << 35], count)
    r["segments_retransmitted"] = rng.choice([0, 5, 0xFFFFFFFF], count)
    r["rtt_us"] = rng.choice([abi.UNKNOWN32, 0, 500, 501, 1_000_000, 1_000_001], count)
    hosts = np.array([np.void(address.from_text(f"192.0.2.{n}")) for n in range(3)], "V16")
    r["peer_address"] = rng.choice(hosts, count)
    peers = rng.choice([0, OWNER, OTHER, 99], count).astype(np.uint64)
    return dataclasses.replace(one, labels={**one.labels, TWIN: one.labels[OWNER]}, peers=peers)


def metrics(
    one: Batch, *, peers: str = "workload", server_port: bool = True, most: int = 2000, limit: int = LIMIT
) -> list[Metric]:
    sums = otlp_edges.sums(one, peers, server_port, most)
    return [
        metric
        for request, _, _ in otlp_metrics.requests(one, sums, 0, limit)
        for resource in ExportMetricsServiceRequest.FromString(request).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]


def points(one: Batch, **how: Any) -> Found:
    found: Found = {name: [] for name in METRICS}
    for metric in metrics(one, **how):
        for point in (*metric.sum.data_points, *metric.histogram.data_points):
            found[metric.name].append((attributes(point.attributes), point))
    return found


def total(found: Found, name: str, **only: Any) -> int:
    return sum(
        point.as_int
        for values, point in found[name]
        if only.items() <= {key.rpartition(".")[2]: value for key, value in values.items()}.items()
    )


def expect(found: Found, one: Batch) -> None:
    """What the points of all edges add up to, counted by a loop over the records."""
    sent = received = retransmitted = 0
    ended: Counter[str] = Counter()
    rtts = []
    for row in one.records:
        kind = abi.EVENTS[row["kind"]] if row["kind"] < len(abi.EVENTS) else "newer"
        if kind not in ("close", "interim"):
            continue
        sent, received = sent + int(row["bytes_sent"]), received + int(row["bytes_received"])
        retransmitted += int(row["segments_retransmitted"])
        if kind == "close":
            ended[abi.ENDS[row["end_reason"]] if row["end_reason"] < len(abi.ENDS) else "unknown"] += 1
            if row["rtt_us"] != abi.UNKNOWN32:
                rtts.append(int(row["rtt_us"]))
    assert total(found, IO) == sent + received
    assert total(found, RETRANSMITS) == retransmitted
    assert total(found, CONNECTIONS) == ended.total()
    counts = [0] * (len(RTT_BOUNDS_US) + 1)
    for rtt in rtts:
        counts[sum(rtt > bound for bound in RTT_BOUNDS_US)] += 1
    got = [point for _, point in found[RTT]]
    assert [sum(c) for c in zip(*(p.bucket_counts for p in got), strict=True)] == (counts if rtts else [])
    assert sum(p.count for p in got) == len(rtts)
    assert sum(p.sum for p in got) == pytest.approx(sum(rtts) / 1e6)
    if rtts:
        assert (min(p.min for p in got), max(p.max for p in got)) == (min(rtts) / 1e6, max(rtts) / 1e6)
    if not any("otel.metric.overflow" in values for values, _ in found[IO]):
        assert total(found, IO, direction="transmit") == sent
        for reason, number in ended.items():
            assert total(found, CONNECTIONS, end_reason=reason) == number


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 300),
    st.integers(0, 2**32),
    st.sampled_from(("workload", "address")),
    st.booleans(),
    st.sampled_from((1, 2, 7, 2000)),
)
def test_sums_of_points_are_sums_of_records(
    count: int, seed: int, peers: str, server_port: bool, most: int
) -> None:
    one = some(count, seed)
    found = points(one, peers=peers, server_port=server_port, most=most)
    expect(found, one)
    for name in METRICS:
        sets = [tuple(sorted(values.items())) for values, _ in found[name]]
        assert len(sets) == len(set(sets)), f"two points of {name} have the same attributes"


def test_every_edge_has_the_sums_of_its_records() -> None:
    """By a loop over the records and their names."""
    one = some(1000)
    expected: Counter[tuple[Any, ...]] = Counter()
    for row, peer in zip(one.records, one.peers.tolist(), strict=True):
        if row["kind"] not in (1, 2):
            continue
        role = abi.ROLES[row["role"]] if row["role"] < len(abi.ROLES) else "unknown"
        port = {"client": row["peer_port"], "server": row["local_port"]}.get(role)
        workload = one.labels.get(int(row["owner"]), NOBODY).workload
        peer_workload = one.labels.get(peer, NOBODY).workload
        there = None if peer_workload else address.to_text(row["peer_address"].tobytes())
        for direction in ("sent", "received"):
            key = (workload, peer_workload, there, None if port is None else role, port, direction)
            expected[key] += int(row[f"bytes_{direction}"])
    found: Counter[tuple[Any, ...]] = Counter()
    for values, point in points(one, peers="address")[IO]:
        transmit = values["network.io.direction"] == "transmit"
        key = (
            values.get("flowtag.workload"),
            values.get("flowtag.peer_workload"),
            values.get("destination.address" if transmit else "source.address"),
            values.get("flowtag.role"),
            values.get("server.port"),
            "sent" if transmit else "received",
        )
        found[key] += point.as_int
    assert found == +expected


def test_metrics_are_deltas_of_the_minute_with_their_units() -> None:
    for metric in metrics(some()):
        unit, description = METRICS[metric.name]
        assert (metric.unit, metric.description) == (unit, description)
        data: Any = metric.histogram if metric.name == RTT else metric.sum
        assert data.aggregation_temporality == AGGREGATION_TEMPORALITY_DELTA
        assert metric.name == RTT or data.is_monotonic
        last = int(batch(400).records["time_end"].max()) + OFFSET
        assert {(p.start_time_unix_nano, p.time_unix_nano) for p in data.data_points} == {(BEGIN, last)}


@pytest.mark.parametrize(("at", "end"), [(-5, 1), (0, 1), (10**9, 10**9), (90 * 10**9, 60 * 10**9)])
def test_window_lies_in_the_minute(at: int, end: int) -> None:
    one = batch(1)
    one.records["time_end"] = max(at, 0)
    one.offset[:] = BEGIN + min(at, 0)
    assert otlp_metrics.window(one) == (BEGIN, BEGIN + end)


def test_parts_of_one_minute_end_at_different_times() -> None:
    """An exporter that stops closes its batch; the next one has another of the same minute."""
    one = batch(100)
    assert otlp_metrics.window(one.part(slice(0, 50)))[1] < otlp_metrics.window(one.part(slice(50, 100)))[1]


def test_interim_records_have_bytes_and_no_end_and_ownership_has_neither() -> None:
    one = some(90)
    for kind, metrics_ in (("interim", {IO, RETRANSMITS}), ("ownership", set())):
        one.records["kind"] = abi.EVENTS.index(kind)
        assert {name for name, got in points(one).items() if got} == metrics_


def test_edges_beyond_the_limit_are_one_point_and_the_heaviest_stay() -> None:
    one = some(500)
    everything, few = points(one), points(one, most=5)
    weights: Counter[tuple[Any, ...]] = Counter()
    for values, point in everything[IO]:
        ends = ("flowtag.workload", "flowtag.peer_workload", "flowtag.role", "server.port")
        weights[tuple(values.get(key) for key in ends)] += point.as_int
    kept = {
        tuple(
            values.get(key)
            for key in ("flowtag.workload", "flowtag.peer_workload", "flowtag.role", "server.port")
        )
        for values, _ in few[IO]
        if "otel.metric.overflow" not in values
    }
    assert kept == {edge for edge, _ in weights.most_common(4)}
    for name in METRICS:
        over = [values for values, _ in few[name] if "otel.metric.overflow" in values]
        assert over == [{"otel.metric.overflow": True}]
    sums = otlp_edges.sums(one, "workload", True, 5)
    assert len(sums.edges) == 4
    assert sums.overflow == len(otlp_edges.sums(one, "workload", True, 2000).edges) - 4


def test_edges_of_as_many_as_the_limit_do_not_overflow() -> None:
    one = some(500)
    count = len(otlp_edges.sums(one, "workload", True, 2000).edges)
    assert otlp_edges.sums(one, "workload", True, count).overflow == 0
    assert otlp_edges.sums(one, "workload", True, count - 1).overflow == 2


def test_names_of_kubernetes_are_on_the_side_that_has_them() -> None:
    one = batch(1)
    one.records["owner"], one.peers[:] = OWNER, OTHER
    one.records["role"], one.records["peer_port"] = abi.ROLES.index("client"), 443
    one.records["bytes_sent"], one.records["bytes_received"] = 5, 7
    web = Label("shop/web-0/nginx", "container", None, "shop", "web-0", "nginx", "ab")
    db = Label("data/db-0/pg", "container", None, "data", "db-0", "pg", "cd")
    found = points(dataclasses.replace(one, labels={OWNER: web, OTHER: db}))
    both = {
        "network.transport": "tcp",
        "flowtag.workload": "shop/web-0/nginx",
        "flowtag.workload_kind": "container",
        "flowtag.peer_workload": "data/db-0/pg",
        "flowtag.role": "client",
        "server.port": 443,
    }
    here = {"k8s.namespace.name": "shop", "k8s.pod.name": "web-0", "k8s.container.name": "nginx"}
    there = {"k8s.namespace.name": "data", "k8s.pod.name": "db-0", "k8s.container.name": "pg"}

    def io(direction: str, source: dict[str, str], destination: dict[str, str]) -> dict[str, Any]:
        ends = {f"source.{k}": v for k, v in source.items()}
        ends |= {f"destination.{k}": v for k, v in destination.items()}
        return {**both, **ends, "network.io.direction": direction}

    assert [(values, point.as_int) for values, point in found[IO]] == [
        (io("transmit", here, there), 5),
        (io("receive", there, here), 7),
    ]
    assert [values for values, _ in found[CONNECTIONS]] == [
        {
            **both,
            **here,
            "flowtag.end_reason": attributes(found[CONNECTIONS][0][1].attributes)["flowtag.end_reason"],
        }
    ]


def test_sum_that_int64_does_not_hold_is_its_most() -> None:
    one = batch(3)
    one.records["owner"], one.records["bytes_sent"] = OWNER, (1 << 64) - 1
    one.records["role"] = 0
    assert total(points(one), IO) == (1 << 63) - 1


def test_requests_keep_to_the_limit_and_go_on_where_they_are_told() -> None:
    one = some(500)
    sums = otlp_edges.sums(one, "address", True, 2000)
    limit = 20_000
    made = list(otlp_metrics.requests(one, sums, 0, limit))
    assert len(made) > 3
    assert max(len(request) for request, _, _ in made) <= limit
    assert made[-1][1] == len(sums.edges)
    found = points(one, peers="address", limit=limit)
    expect(found, one)
    assert sum(items for _, _, items in made) == sum(len(found[name]) for name in METRICS)
    again = list(otlp_metrics.requests(one, sums, made[1][1], LIMIT))
    assert sum(items for _, _, items in again) == sum(items for _, _, items in made[2:])


def test_names_with_lone_surrogates_are_sent() -> None:
    one = batch(1)
    one.records["owner"] = OWNER
    found = points(dataclasses.replace(one, labels={OWNER: Label(workload="a\udcff")}))
    assert found[IO][0][0]["flowtag.workload"] == "a?"
