# SPDX-License-Identifier: Apache-2.0
"""Records as text: columns of the ring joined with the workloads they name.

Work is done by column: a code, an address or a workload is formatted once for each distinct value,
never once for each record.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpf import abi
from exporter.describe import Describer
from exporter.ring import Batch, Columns
from exporter.workloads import Workloads
from identity import address, nat64
from identity.names import Names
from identity.workload import Workload, display_name

NULL = "null"
# The fields that a workload gives, in the record's order.
WORKLOAD_FIELDS = ("app", "namespace", "pod", "container", "container_id", "image", "runtime")
# Of those, what only the workload itself says; the others may be filled by an engine.
OWN_FIELDS = ("container_id", "runtime")


@dataclass(frozen=True, slots=True)
class Origin:
    """What all records of one exporter have in common."""

    host_id: str
    boot_id: str
    ring: int
    nat64: tuple[nat64.Prefix, ...] = ()


def boot_to_wall() -> int:
    """Nanoseconds to add to CLOCK_BOOTTIME for UTC, now."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _each(values: NDArray[Any], text: Callable[[Any], str]) -> list[str]:
    """`text` of every value, called once for each distinct one."""
    distinct, index = np.unique(values, return_inverse=True)
    made = [text(value) for value in distinct.tolist()]
    return [made[i] for i in index.tolist()]


def _plain(codes: NDArray[Any], names: tuple[str, ...]) -> list[str]:
    """Names by code; a code that only a newer version knows is `?`."""
    return [names[c] if c < len(names) else "?" for c in codes.tolist()]


def _names(codes: NDArray[Any], names: tuple[str, ...], null: str | None = None) -> list[str]:
    quoted = [NULL if name == null else f'"{name}"' for name in names]
    unknown = f'"{names[0]}"' if null is None else NULL
    return [quoted[c] if c < len(quoted) else unknown for c in codes.tolist()]


def _numbers(values: NDArray[Any], unknown: int | None = None) -> list[str]:
    if unknown is None:
        return list(map(str, values.tolist()))
    return [NULL if value == unknown else str(value) for value in values.tolist()]


def _ids(values: NDArray[Any]) -> list[str]:
    return [f'"{value}"' for value in values.tolist()]


def times(boot_ns: NDArray[np.uint64], offset: int) -> list[str]:
    """Boottime to UTC text with nine digits and Z."""
    wall = (boot_ns.astype(np.int64) + offset).astype("datetime64[ns]")
    return [text + "Z" for text in np.datetime_as_string(wall).tolist()]


def addresses(values: NDArray[Any]) -> list[str]:
    """16-byte addresses as text, v4-mapped ones dotted."""
    return _each(values.astype("V16"), address.to_text)


def _stands_for(peer: bytes, prefixes: tuple[nat64.Prefix, ...]) -> str:
    found = nat64.ipv4(peer, prefixes)
    return NULL if found is None else f'"{address.to_text(address.canonical(found))}"'


def _comm(raw: bytes) -> str:
    text = raw.split(b"\0")[0].decode(errors="replace")
    return json.dumps(text) if text else NULL


def _json_times(boot_ns: NDArray[np.uint64], offset: int, known: NDArray[np.bool_]) -> list[str]:
    return [
        f'"{text}"' if is_known else NULL
        for text, is_known in zip(times(boot_ns, offset), known.tolist(), strict=True)
    ]


def _workload(workload: Workload | None, describer: Describer) -> str:
    """The part of a record that its workload gives."""
    values: dict[str, Any] = dict.fromkeys(
        ("workload", "workload_kind", *WORKLOAD_FIELDS, "identity_source", "identity_state")
    )
    values["workload_kind"] = "none"
    labels: dict[str, str] = {}
    if workload is not None:
        names = describer.describe(workload)
        values["workload"] = _name(workload, names)
        values["workload_kind"] = abi.WORKLOAD_KINDS[workload.kind]
        for field in WORKLOAD_FIELDS:
            values[field] = getattr(workload if field in OWN_FIELDS else names, field) or None
        values["identity_source"] = abi.SOURCES[workload.source] if workload.source else None
        values["identity_state"] = abi.STATES[workload.state] if workload.state else None
        labels = {key: names.labels[key] for key in sorted(names.labels)}
    values["labels"] = labels
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False)[1:-1]


def _name(workload: Workload, names: Names) -> str:
    """The record's `workload`, of the names that are in force now."""
    return display_name(names.namespace, names.pod, names.container, workload.container_id or workload.host)


def _attributed_at(flags: NDArray[np.uint8], owner: NDArray[np.uint64]) -> list[str]:
    late = (flags & abi.FLOW_ATTR_AT_CLOSE) != 0
    text: list[str] = np.where(owner == 0, NULL, np.where(late, '"close"', '"open"')).tolist()
    return text


def json_lines(batch: Batch, workloads: Workloads, origin: Origin, describer: Describer) -> str:
    """Every record as one JSON object on a line, with all the names of the record contract."""
    r = batch.records
    if not len(r):
        return ""
    offset = boot_to_wall()
    everything = np.ones(len(r), dtype=np.bool_)
    opened = (r["flags"] & abi.FLOW_ADOPTED) == 0
    identity = workloads.column(r["owner"], lambda workload: _workload(workload, describer))
    flow = json.dumps(f"{origin.host_id}/{origin.boot_id}/")[:-1]
    columns: dict[str, Iterable[str]] = {
        "kind": _names(r["kind"], abi.EVENTS),
        "time_open": _json_times(r["time_open"], offset, opened),
        "time_start": _json_times(r["time_start"], offset, opened),
        "time_end": _json_times(r["time_end"], offset, everything),
        "local_address": [f'"{text}"' for text in addresses(r["local_address"])],
        "local_port": _numbers(r["local_port"]),
        "peer_address": [f'"{text}"' for text in addresses(r["peer_address"])],
        "peer_port": _numbers(r["peer_port"]),
        "peer_address_v4": _each(r["peer_address"].astype("V16"), lambda a: _stands_for(a, origin.nat64)),
        "role": _names(r["role"], abi.ROLES, null="unknown"),
        "end_reason": _names(r["end_reason"], abi.ENDS),
        "bytes_sent": _numbers(r["bytes_sent"]),
        "bytes_received": _numbers(r["bytes_received"]),
        "segments_sent": _numbers(r["segments_sent"]),
        "segments_received": _numbers(r["segments_received"]),
        "segments_retransmitted": _numbers(r["segments_retransmitted"]),
        "connect_us": _numbers(r["connect_us"], abi.UNKNOWN32),
        "rtt_us": _numbers(r["rtt_us"], abi.UNKNOWN32),
        "rtt_min_us": _numbers(r["rtt_min_us"], abi.UNKNOWN32),
        "": identity,
        "attributed_by": _names(r["rule"], abi.RULES),
        "unattributed_reason": _names(r["reason"], abi.REASONS, null="none"),
        "attributed_at": _attributed_at(r["flags"], r["owner"]),
        "adopted": np.where(opened, "false", "true").tolist(),
        "pid": _numbers(r["pid"], 0),
        "comm": _each(r["comm"], _comm),
        "peer_workload": [NULL] * len(r),
        "host_id": [json.dumps(origin.host_id)] * len(r),
        "boot_id": [json.dumps(origin.boot_id)] * len(r),
        "ring": [str(origin.ring)] * len(r),
        "batch": [NULL] * len(r),
        "sequence": _numbers(batch.sequence),
        "flow_id": [
            f'{flow}{cookie}/{generation}"'
            for cookie, generation in zip(r["cookie"].tolist(), r["generation"].tolist(), strict=True)
        ],
        "cgroup_id": _ids(r["cgroup_id"]),
        "netns": _ids(r["netns"]),
    }
    template = ",".join(f'"{name}":%s' if name else "%s" for name in columns)
    form = f"{{{template}}}\n"
    return "".join([form % row for row in zip(*columns.values(), strict=True)])


TABLE = "%-24s %-32s %-6s %-44s %-44s %10s %10s %-12s %s\n"
HEADER = TABLE % (
    "time_end",
    "workload",
    "role",
    "local",
    "peer",
    "sent",
    "received",
    "end_reason",
    "attributed_by",
)


def _endpoints(r: Columns, end: str) -> list[str]:
    texts = addresses(r[f"{end}_address"])
    return [
        f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
        for text, port in zip(texts, r[f"{end}_port"].tolist(), strict=True)
    ]


def table(batch: Batch, workloads: Workloads, describer: Describer) -> str:
    """Every record as one line for a person; HEADER names the columns."""
    r = batch.records
    if not len(r):
        return ""
    rule = np.where(r["reason"] == 0, _plain(r["rule"], abi.RULES), _plain(r["reason"], abi.REASONS))
    columns = (
        [text[:23] + "Z" for text in times(r["time_end"], boot_to_wall())],
        workloads.column(r["owner"], lambda w: _name(w, describer.describe(w)) if w else "-"),
        _plain(r["role"], abi.ROLES),
        _endpoints(r, "local"),
        _endpoints(r, "peer"),
        r["bytes_sent"].tolist(),
        r["bytes_received"].tolist(),
        _plain(r["end_reason"], abi.ENDS),
        rule.tolist(),
    )
    return "".join([TABLE % row for row in zip(*columns, strict=True)])
