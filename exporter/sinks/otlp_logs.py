# SPDX-License-Identifier: Apache-2.0
"""Records as OTLP logs: one event each, with every field of the record as an attribute.

The same batch gives the same bytes each time. Unknown is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs, ScopeLogs

from bpf import abi
from exporter.batch import Batch
from exporter.label import NOBODY, Label
from exporter.ring import Columns
from exporter.sinks import otlp_resource
from exporter.sinks.otlp_wire import Attributes, Pieces, each, field, names, numbers
from identity import address, nat64

PART = 512  # records of a request, about 0.9 MB
EVENT = "flowtag.flow"

# opentelemetry/proto/logs/v1/logs.proto, LogRecord and ScopeLogs.
_TIME, _OBSERVED, _ATTRIBUTES, _EVENT_NAME, _LOG_RECORDS = 0x09, 0x59, 6, 12, 2
_HEAD = np.dtype([("tag", "u1"), ("time", "<u8"), ("observed_tag", "u1"), ("observed", "<u8")])
_A = Attributes(_ATTRIBUTES)

# Fields that keep the record's name and are plain numbers.
NUMBERS = ("bytes_sent", "bytes_received", "segments_sent", "segments_received", "segments_retransmitted")
TIMES_US = ("connect_us", "rtt_us", "rtt_min_us")
TEXTS = ("app", "identity_source", "identity_state")

Made = dict[int, bytes]


def requests(batch: Batch, begin: int, limit: int) -> Iterator[tuple[bytes, int, int]]:
    """ExportLogsServiceRequests of the rows from `begin` on, of at most `limit` bytes where a record is not
    larger by itself: each with the row behind its last, and how many records it holds.
    """
    resource = otlp_resource.resource(batch.origin)
    frame = ScopeLogs(scope=otlp_resource.scope()).SerializeToString()
    outer = ResourceLogs(resource=resource).SerializeToString()
    owners: Made = {}
    for start in range(begin, len(batch.records), PART):
        texts = records(batch.part(slice(start, start + PART)), owners)
        first = 0
        while first < len(texts):
            last = first + _fitting(texts[first:], limit - len(outer) - len(frame) - 64)
            scope = frame + b"".join(texts[first:last])
            yield field(1, outer + field(2, scope)), start + last, last - first
            first = last


def _fitting(texts: Pieces, limit: int) -> int:
    """How many of them, at least one, are no more than `limit` together."""
    sizes = np.cumsum([len(text) for text in texts])
    return max(1, int(np.searchsorted(sizes, limit, side="right")))


def records(batch: Batch, owners: Made) -> Pieces:
    """Every record as a LogRecord, with its tag and length as an element of ScopeLogs.

    owners: attributes of owners that parts of the same batch have had.
    """
    if not len(batch.records):
        return []
    columns = [_heads(batch), *_flow(batch), *_attribution(batch), *_identity(batch, owners)]
    return [field(_LOG_RECORDS, b"".join(row)) for row in zip(*columns, strict=True)]


def _wall(values: NDArray[Any], offset: NDArray[np.int64]) -> NDArray[np.int64]:
    wall: NDArray[np.int64] = np.maximum(values.astype(np.int64) + offset, 0)
    return wall


def _heads(batch: Batch) -> Pieces:
    """The record's time, which is also when it was observed: the kernel saw it then."""
    head = np.zeros(len(batch.records), _HEAD)
    head["tag"], head["observed_tag"] = _TIME, _OBSERVED
    head["time"] = head["observed"] = _wall(batch.records["time_end"], batch.offset)
    found: Pieces = head.view(f"V{_HEAD.itemsize}").tolist()
    return found


def _flow(batch: Batch) -> Iterator[Pieces]:
    """What the socket knew."""
    r, origin = batch.records, batch.origin
    opened = (r["flags"] & abi.FLOW_ADOPTED) == 0
    yield names(r["kind"], abi.EVENTS, lambda kind: field(_EVENT_NAME, f"{EVENT}.{kind}".encode()))
    for name in ("time_open", "time_start"):
        times = np.where(opened, _wall(r[name], batch.offset), -1)
        yield numbers(times, _A.number(f"flowtag.{name}_unix_nano"), unknown=-1)
    for end in ("local", "peer"):
        yield _addresses(r[f"{end}_address"], _A.text, f"network.{end}.address")
        yield numbers(r[f"{end}_port"], _A.number(f"network.{end}.port"))
    yield [_A.text("network.transport", "tcp")] * len(r)
    yield each(
        r["local_address"].astype("V16").tolist(),
        lambda local: _A.text("network.type", "ipv4" if local.startswith(address.MAPPED) else "ipv6"),
    )
    yield each(
        r["peer_address"].astype("V16").tolist(),
        lambda peer: _A.text("flowtag.peer_address_v4", _stands_for(peer, origin.nat64)),
    )
    yield names(r["role"], abi.ROLES, _text("flowtag.role"), null="unknown")
    yield names(r["end_reason"], abi.ENDS, _text("flowtag.end_reason"))
    for name in NUMBERS:
        yield numbers(r[name], _A.number(f"flowtag.{name}"))
    for name in TIMES_US:
        yield numbers(r[name], _A.number(f"flowtag.{name}"), abi.UNKNOWN32)
    yield [
        _A.text("flowtag.flow_id", f"{origin.host_id}/{origin.boot_id}/{cookie}/{generation}")
        for cookie, generation in zip(r["cookie"].tolist(), r["generation"].tolist(), strict=True)
    ]


def _attribution(batch: Batch) -> Iterator[Pieces]:
    """Why it is whose it is, and where to find it again."""
    r = batch.records
    yield names(r["rule"], abi.RULES, _text("flowtag.attributed_by"))
    yield names(r["reason"], abi.REASONS, _text("flowtag.unattributed_reason"), null="none")
    yield each(_attributed_at(r), lambda at: _A.text("flowtag.attributed_at", (None, "open", "close")[at]))
    yield each(
        ((r["flags"] & abi.FLOW_ADOPTED) != 0).tolist(), lambda adopted: _A.flag("flowtag.adopted", adopted)
    )
    yield numbers(r["pid"], _A.number("process.pid"), 0)
    yield each(r["comm"].tolist(), lambda raw: _A.text("flowtag.comm", _comm(raw)))
    yield [b"" if batch.number is None else _A.number("flowtag.batch")(batch.number)] * len(r)
    yield numbers(batch.sequence, _A.number("flowtag.sequence"))
    for name in ("cgroup_id", "netns"):
        make = _text(f"flowtag.{name}")
        yield each(list(map(str, r[name].tolist())), make)


def _identity(batch: Batch, owners: Made) -> Iterator[Pieces]:
    """Names of both ends."""
    for owner in set(batch.records["owner"].tolist()) - owners.keys():
        owners[owner] = _owner(batch.labels.get(owner, NOBODY))
    yield [owners[owner] for owner in batch.records["owner"].tolist()]
    peer = _text("flowtag.peer_workload")
    yield each(batch.peers.tolist(), lambda owner: peer(batch.labels.get(owner, NOBODY).workload))


def _owner(label: Label) -> bytes:
    made = [_A.text(key, value) for key, value in otlp_resource.names(label)]
    made += [_A.text(f"flowtag.{name}", getattr(label, name)) for name in TEXTS]
    made.append(_A.text("container.id", label.container_id))
    made.append(_A.text("container.runtime.name", label.runtime))
    if label.image:
        name, tag, digest = otlp_resource.image(label.image)
        made.append(_A.text("container.image.name", name))
        made.append(_A.texts("container.image.tags", [tag]) if tag else b"")
        made.append(_A.texts("container.image.repo_digests", [f"{name}@{digest}"]) if digest else b"")
    made += [_A.text(otlp_resource.label_key(label, key), value) for key, value in label.labels.items()]
    return b"".join(made)


def _text(key: str) -> Callable[[str | None], bytes]:
    return lambda value: _A.text(key, value)


def _addresses(values: NDArray[Any], text: Callable[[str, str], bytes], key: str) -> Pieces:
    return each(values.astype("V16").tolist(), lambda value: text(key, address.to_text(value)))


def _stands_for(peer: bytes, prefixes: tuple[nat64.Prefix, ...]) -> str | None:
    found = nat64.ipv4(peer, prefixes)
    return None if found is None else address.to_text(address.canonical(found))


def _attributed_at(r: Columns) -> list[int]:
    late = (r["flags"] & abi.FLOW_ATTR_AT_CLOSE) != 0
    at: list[int] = np.where(r["owner"] == 0, 0, 1 + late).tolist()
    return at


def _comm(raw: bytes) -> str | None:
    return raw.split(b"\0")[0].decode(errors="replace") or None
