# SPDX-License-Identifier: Apache-2.0
"""Whose telemetry it is, and the names of workloads as OpenTelemetry's semantic conventions have them.

Source: open-telemetry/semantic-conventions, model/{host,service,container,k8s}/registry.yaml. What they
have no name for is `flowtag.` and the record's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from exporter.batch import Origin
from exporter.label import Label

NAME = "flowtag"


def resource(origin: Origin) -> Resource:
    """service.instance.id is a ring of a boot: who counts anew is another writer of its time series."""
    texts = {
        "service.name": NAME,
        "service.version": version(NAME),
        "service.instance.id": f"{origin.host_id}/{origin.boot_id}/{origin.ring}",
        "host.id": origin.host_id,
        "os.type": "linux",
        "flowtag.boot_id": origin.boot_id,
    }
    attributes = [KeyValue(key=key, value=AnyValue(string_value=text)) for key, text in texts.items()]
    attributes.append(KeyValue(key="flowtag.ring", value=AnyValue(int_value=origin.ring)))
    return Resource(attributes=attributes)


def scope() -> InstrumentationScope:
    return InstrumentationScope(name=NAME, version=version(NAME))


def names(label: Label) -> Iterator[tuple[str, str]]:
    """A workload's names without those that change when its container is made anew."""
    if label.workload is not None:
        yield "flowtag.workload", label.workload
    yield "flowtag.workload_kind", label.workload_kind
    if label.namespace and label.pod:
        yield "k8s.namespace.name", label.namespace
        yield "k8s.pod.name", label.pod
        if label.container:
            yield "k8s.container.name", label.container
        return
    for key, value in (
        ("flowtag.namespace", label.namespace),
        ("flowtag.pod", label.pod),
        ("container.name", label.container),
    ):
        if value:
            yield key, value


def image(text: str) -> tuple[str, str | None, str | None]:
    """NAME, TAG and DIGEST of NAME[:TAG][@DIGEST]; a registry's port is part of its name."""
    name, _, digest = text.partition("@")
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        head, tag = name, ""
    return head, tag or None, digest or None


def label_key(label: Label, key: str) -> str:
    """The attribute's name of one of its labels."""
    return f"{'k8s.pod' if label.namespace and label.pod else 'container'}.label.{key}"
