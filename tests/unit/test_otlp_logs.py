# SPDX-License-Identifier: Apache-2.0
"""Records as OTLP logs, read back with the official protobufs: each field as the JSON lines have it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from exporter import records
from exporter.batch import Batch
from exporter.label import Label
from exporter.sinks import otlp_logs, otlp_resource, otlp_wire
from tests.rig.batches import MINUTE, OWNER, batch
from tests.rig.otlp import attributes

LIMIT = 4 << 20
# What has a name of OpenTelemetry's; all others are `flowtag.` and the record's name.
NAMES = {
    "local_address": "network.local.address",
    "local_port": "network.local.port",
    "peer_address": "network.peer.address",
    "peer_port": "network.peer.port",
    "container_id": "container.id",
    "runtime": "container.runtime.name",
    "pid": "process.pid",
}
ELSEWHERE = {
    "kind",
    "time_end",
    "host_id",
    "boot_id",
    "ring",
    "namespace",
    "pod",
    "container",
    "image",
    "labels",
}


def sent(one: Batch, begin: int = 0, limit: int = LIMIT) -> list[ExportLogsServiceRequest]:
    return [ExportLogsServiceRequest.FromString(r) for r, _, _ in otlp_logs.requests(one, begin, limit)]


def log_records(requests: list[ExportLogsServiceRequest]) -> list[LogRecord]:
    return [
        record
        for request in requests
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def nanoseconds(text: str) -> int:
    return int(np.datetime64(text.removesuffix("Z"), "ns").astype(np.int64))


def as_attributes(line: dict[str, Any]) -> dict[str, Any]:
    """What a line of JSON is in OTLP, without its workload's names."""
    expected: dict[str, Any] = {"network.transport": "tcp"}
    expected["network.type"] = "ipv6" if ":" in line["local_address"] else "ipv4"
    for name, value in line.items():
        if value is None or name in ELSEWHERE:
            continue
        if name in ("time_open", "time_start"):
            expected[f"flowtag.{name}_unix_nano"] = nanoseconds(value)
        else:
            expected[NAMES.get(name, f"flowtag.{name}")] = value
    return expected


def test_log_records_say_what_the_json_lines_say() -> None:
    one = batch(1200)
    lines = [json.loads(line) for line in records.json_lines(one).split("\n")[:-1]]
    found = log_records(sent(one))
    assert len(found) == len(lines) == 1200
    names: dict[str, Any] = {"labels": {}, "namespace": None, "pod": None, "container": None, "image": None}
    for record, line in zip(found, lines, strict=True):
        values = attributes(record.attributes)
        labels = {key: values.pop(key) for key in list(values) if key.startswith("container.label.")}
        assert labels == {f"container.label.{key}": text for key, text in line["labels"].items()}
        assert {name: line[name] for name in names} == {**names, "labels": line["labels"]}
        assert values == as_attributes(line)
        assert record.time_unix_nano == record.observed_time_unix_nano == nanoseconds(line["time_end"])
        assert record.event_name == f"flowtag.flow.{line['kind']}"


def test_resource_says_whose_they_are() -> None:
    one = batch(3)
    (request,) = sent(one)
    (resource,) = request.resource_logs
    values = attributes(resource.resource.attributes)
    host, boot, ring = one.origin.host_id, one.origin.boot_id, one.origin.ring
    assert values["service.name"] == resource.scope_logs[0].scope.name == "flowtag"
    assert values["service.instance.id"] == f"{host}/{boot}/{ring}"
    assert (values["host.id"], values["flowtag.boot_id"], values["flowtag.ring"]) == (host, boot, ring)


def named(**names: Any) -> dict[str, Any]:
    one = dataclasses.replace(batch(1), labels={OWNER: Label(workload="w", **names)})
    one.records["owner"] = OWNER
    return attributes(log_records(sent(one))[0].attributes)


def test_pod_has_the_names_of_kubernetes() -> None:
    values = named(
        workload_kind="container",
        namespace="shop",
        pod="web-0",
        container="nginx",
        container_id="ab",
        image="registry.example.com:5000/shop/web:1.2@sha256:cd",
        runtime="containerd",
        labels={"app": "web"},
    )
    expected = {
        "k8s.namespace.name": "shop",
        "k8s.pod.name": "web-0",
        "k8s.container.name": "nginx",
        "k8s.pod.label.app": "web",
        "container.id": "ab",
        "container.runtime.name": "containerd",
        "container.image.name": "registry.example.com:5000/shop/web",
        "container.image.tags": ["1.2"],
        "container.image.repo_digests": ["registry.example.com:5000/shop/web@sha256:cd"],
        "flowtag.workload": "w",
        "flowtag.workload_kind": "container",
    }
    assert expected.items() <= values.items()
    assert "container.name" not in values


def test_container_without_a_pod_has_none_of_kubernetes() -> None:
    values = named(workload_kind="container", container="db", labels={"a": "1"}, pod="of-podman")
    assert values["container.name"] == "db"
    assert values["container.label.a"] == "1"
    assert values["flowtag.pod"] == "of-podman"
    assert not [key for key in values if key.startswith("k8s.")]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("nginx", ("nginx", None, None)),
        ("nginx:1.27", ("nginx", "1.27", None)),
        ("host:5000/a/b", ("host:5000/a/b", None, None)),
        ("host:5000/a/b:c", ("host:5000/a/b", "c", None)),
        ("a@sha256:0", ("a", None, "sha256:0")),
        ("sha256:0", ("sha256", "0", None)),
    ],
)
def test_image_is_cut_where_its_parts_end(text: str, parts: tuple[str | None, ...]) -> None:
    assert otlp_resource.image(text) == parts


def test_same_batch_gives_the_same_bytes() -> None:
    first, second = (list(otlp_logs.requests(batch(700), 0, LIMIT)) for _ in range(2))
    assert first == second


def test_requests_begin_where_they_are_told_and_keep_to_the_limit() -> None:
    one = batch(1200)
    limit = 100_000
    made = list(otlp_logs.requests(one, 0, limit))
    assert max(len(request) for request, _, _ in made) <= limit
    assert max(len(request) for request, _, _ in made) > limit * 0.9
    ends = [end for _, end, _ in made]
    assert ends[-1] == sum(items for _, _, items in made) == 1200
    rest = log_records(sent(one, ends[2], limit))
    assert len(rest) == 1200 - ends[2]
    assert rest == log_records(sent(one))[ends[2] :]


def test_record_larger_than_the_limit_goes_alone() -> None:
    one = batch(40)
    one = dataclasses.replace(
        one, labels={**one.labels, OWNER: Label(workload="w", labels={"a": "x" * 5000})}
    )
    made = list(otlp_logs.requests(one, 0, 4000))
    large = [items for request, _, items in made if len(request) > 4000]
    assert len(large) == int((one.records["owner"] == OWNER).sum())
    assert set(large) == {1}
    assert sum(items for _, _, items in made) == 40


def test_batch_without_records_makes_no_request() -> None:
    assert sent(batch(0)) == []


def test_time_before_1970_is_no_error() -> None:
    one = batch(2)
    one.offset[:] = -(MINUTE * 60 * 10**9)
    assert {record.time_unix_nano for record in log_records(sent(one))} == {0}


def read(piece: bytes) -> Any:
    (record,) = attributes(LogRecord.FromString(piece).attributes).items()
    return record


@given(st.integers(0, 2**64 - 1), st.text(max_size=300), st.booleans())
def test_wire_is_what_protobuf_reads(number: int, text: str, flag: bool) -> None:
    made = otlp_wire.Attributes(6)
    assert read(made.number("a")(number)) == ("a", min(number, 2**63 - 1))
    assert read(made.text("k" * 200, text)) == ("k" * 200, text)
    assert read(made.flag("f", flag)) == ("f", flag)
    assert read(made.texts("t", [text, "x"])) == ("t", [text, "x"])
    assert made.text("a", None) == b""
    assert KeyValue.FromString(otlp_wire.field(1, text.encode())).key == text
