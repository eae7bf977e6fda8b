# SPDX-License-Identifier: Apache-2.0
"""What describes the flow records: templates, types of our own elements (RFC 5610), origins and workloads."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from exporter.batch import Origin
from exporter.label import Label
from exporter.sinks import ipfix_elements as elements
from exporter.sinks.ipfix_elements import Template
from exporter.sinks.ipfix_flows import origin_id
from exporter.sinks.ipfix_message import (
    HEAD,
    OPTIONS_TEMPLATE_SET,
    TEMPLATE_SET,
    Run,
    by_record,
    fields,
)


def templates(enterprise: int, room: int) -> Iterator[Run]:
    """The flow templates."""
    records = [template.record(enterprise) for template in elements.FLOWS]
    yield from by_record(records, TEMPLATE_SET, room, counted=False)


def types(enterprise: int, room: int) -> Iterator[Run]:
    """What our own elements are; before any template that has them, as libfixbuf needs them."""
    yield from by_record([elements.TYPE.record(enterprise)], OPTIONS_TEMPLATE_SET, room, counted=False)
    records = [_type(element, enterprise, room) for element in elements.OWN_ELEMENTS]
    yield from by_record(records, elements.TYPE.number, room)


def options(enterprise: int, room: int) -> Iterator[Run]:
    """The other options templates."""
    records = [template.record(enterprise) for template in elements.OPTIONS if template != elements.TYPE]
    yield from by_record(records, OPTIONS_TEMPLATE_SET, room, counted=False)


def _record(template: Template, room: int, fixed: bytes, values: list[str]) -> bytes:
    packed = fields([[value] for value in values], room - HEAD.itemsize - template.fixed.itemsize)
    return fixed + b"".join(field for (field,) in packed)


def _type(element: elements.Element, enterprise: int, room: int) -> bytes:
    most = 0 if element.type == "string" else (1 << 8 * elements.TYPES[element.type][1]) - 1
    fixed = struct.pack(
        ">IHBBHQQ",
        enterprise,
        element.number,
        elements.TYPES[element.type][0],
        elements.SEMANTICS[element.semantics],
        elements.UNITS[element.units],
        0,
        most,
    )
    return _record(elements.TYPE, room, fixed, [element.name, element.description])


def origin(value: Origin, room: int) -> Iterator[Run]:
    """Which host, boot and ring an origin id stands for."""
    fixed = struct.pack(">QI", origin_id(value), value.ring)
    record = _record(elements.ORIGIN, room, fixed, [value.host_id, value.boot_id])
    yield from by_record([record], elements.ORIGIN.number, room)


def workloads(known: Iterable[tuple[int, Label]], room: int) -> Iterator[Run]:
    """All that is known of workloads, and each of their labels."""
    names, labels = [], []
    for owner, label in known:
        fixed = struct.pack(">Q", owner)
        values = [getattr(label, name) or "" for name in elements.WORKLOAD_FIELDS]
        names.append(_record(elements.NAMES, room, fixed, values))
        labels += [_record(elements.LABELS, room, fixed, list(pair)) for pair in label.labels.items()]
    yield from by_record(names, elements.NAMES.number, room)
    yield from by_record(labels, elements.LABELS.number, room)
