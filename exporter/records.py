# SPDX-License-Identifier: Apache-2.0
"""Records as text: columns of the ring joined with the workloads they name.

Work is done by column: a code, an address or a workload is formatted once for each distinct value,
never once for each record.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpf import abi
from exporter import printable
from exporter.batch import Batch, Origin
from exporter.describe import Describer
from exporter.label import NOBODY, Label, as_dict, label
from exporter.ring import Batch as Taken
from exporter.ring import Columns
from exporter.workloads import Workloads
from identity import address, nat64

NULL = "null"
NOT_OWNERSHIP = (
    "time_open",
    "local_port",
    "peer_address",
    "peer_port",
    "bytes_sent",
    "bytes_received",
    "segments_sent",
    "segments_received",
    "segments_retransmitted",
    "attributed_at",
    "flow_id",
    "cgroup_id",
    "netns",
)
"""What an ownership heartbeat says nothing about, beside what is null by its value."""


def boot_to_wall() -> int:
    """Nanoseconds to add to CLOCK_BOOTTIME for UTC, now."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _each(values: NDArray[Any], text: Callable[[Any], str]) -> list[str]:
    """`text` of every value, called once for each distinct one."""
    distinct, index = np.unique(values, return_inverse=True)
    made = [text(value) for value in distinct.tolist()]
    return [made[i] for i in index.tolist()]


def plain(codes: NDArray[Any], names: tuple[str, ...]) -> list[str]:
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


def times(boot_ns: NDArray[np.uint64], offset: NDArray[np.int64]) -> list[str]:
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


def _json_times(
    boot_ns: NDArray[np.uint64], offset: NDArray[np.int64], known: NDArray[np.bool_]
) -> list[str]:
    return [
        f'"{text}"' if is_known else NULL
        for text, is_known in zip(times(boot_ns, offset), known.tolist(), strict=True)
    ]


def _identity(value: Label) -> str:
    """The part of a record that its workload gives."""
    return json.dumps(as_dict(value), separators=(",", ":"), ensure_ascii=False)[1:-1]


def _labelled(owners: NDArray[Any], labels: Mapping[int, Label], text: Callable[[Label], str]) -> list[str]:
    return _each(owners, lambda owner: text(labels.get(owner, NOBODY)))


def _peer(value: Label) -> str:
    return NULL if value.workload is None else json.dumps(value.workload, ensure_ascii=False)


def _attributed_at(flags: NDArray[np.uint8], owner: NDArray[np.uint64]) -> list[str]:
    late = (flags & abi.FLOW_ATTR_AT_CLOSE) != 0
    text: list[str] = np.where(owner == 0, NULL, np.where(late, '"close"', '"open"')).tolist()
    return text


def end_codes(r: Columns) -> NDArray[np.uint8]:
    """Codes for (*abi.ENDS, nothing): only a close has an end; what only a newer version knows is unknown."""
    known = np.where(r["end_reason"] < len(abi.ENDS), r["end_reason"], 0)
    goes_on = np.isin(r["kind"], (abi.EVENT_INTERIM, abi.EVENT_OWNERSHIP))
    codes: NDArray[np.uint8] = np.where(goes_on, len(abi.ENDS), known).astype(np.uint8)
    return codes


def starts(r: Columns) -> NDArray[np.bool_]:
    """Where time_start is known: an adopted flow's first record begins at its unknown opening."""
    known: NDArray[np.bool_] = ((r["flags"] & abi.FLOW_ADOPTED) == 0) | (r["time_start"] != r["time_open"])
    return known


def live(taken: Taken, workloads: Workloads, origin: Origin, describer: Describer) -> Batch:
    """Records just taken from the ring, with the names and the clock of now; in no batch yet."""
    owners = np.unique(taken.records["owner"]).tolist()
    labels = {owner: label(workloads.get(owner), describer) for owner in owners}
    offset = boot_to_wall()
    count = len(taken.records)
    return Batch(
        origin,
        None,
        0,
        taken.records,
        taken.sequence,
        np.full(count, offset, np.int64),
        labels,
        np.zeros(count, np.uint64),
    )


def json_lines(batch: Batch) -> str:
    """Every record as one JSON object on a line, with all the names of the record contract."""
    r = batch.records
    if not len(r):
        return ""
    origin, offset = batch.origin, batch.offset
    everything = np.ones(len(r), dtype=np.bool_)
    opened = (r["flags"] & abi.FLOW_ADOPTED) == 0
    identity = _labelled(r["owner"], batch.labels, _identity)
    flow = json.dumps(f"{origin.host_id}/{origin.boot_id}/")[:-1]
    columns: dict[str, Iterable[str]] = {
        "kind": _names(r["kind"], abi.EVENTS),
        "time_open": _json_times(r["time_open"], offset, opened),
        "time_start": _json_times(r["time_start"], offset, starts(r)),
        "time_end": _json_times(r["time_end"], offset, everything),
        "local_address": [f'"{text}"' for text in addresses(r["local_address"])],
        "local_port": _numbers(r["local_port"]),
        "peer_address": [f'"{text}"' for text in addresses(r["peer_address"])],
        "peer_port": _numbers(r["peer_port"]),
        "peer_address_v4": _each(r["peer_address"].astype("V16"), lambda a: _stands_for(a, origin.nat64)),
        "role": _names(r["role"], abi.ROLES, null="unknown"),
        "end_reason": _names(end_codes(r), (*abi.ENDS, "none"), null="none"),
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
        "peer_workload": _labelled(batch.peers, batch.labels, _peer),
        "host_id": [json.dumps(origin.host_id)] * len(r),
        "boot_id": [json.dumps(origin.boot_id)] * len(r),
        "ring": [str(origin.ring)] * len(r),
        "batch": [NULL if batch.number is None else str(batch.number)] * len(r),
        "sequence": _numbers(batch.sequence),
        "flow_id": [
            f'{flow}{cookie}/{generation}"'
            for cookie, generation in zip(r["cookie"].tolist(), r["generation"].tolist(), strict=True)
        ],
        "cgroup_id": _ids(r["cgroup_id"]),
        "netns": _ids(r["netns"]),
    }
    owning = np.flatnonzero(r["kind"] == abi.EVENT_OWNERSHIP).tolist()
    if owning:
        for name in NOT_OWNERSHIP:
            column = columns[name] = list(columns[name])
            for row in owning:
                column[row] = NULL
    template = ",".join(f'"{name}":%s' if name else "%s" for name in columns)
    form = f"{{{template}}}\n"
    return printable.json_text("".join([form % row for row in zip(*columns.values(), strict=True)]))


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


def endpoints(r: Columns, end: str) -> list[str]:
    """ADDRESS:PORT or [ADDRESS]:PORT of each record; end is local or peer."""
    texts = addresses(r[f"{end}_address"])
    return [
        f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
        for text, port in zip(texts, r[f"{end}_port"].tolist(), strict=True)
    ]


def table(batch: Batch) -> str:
    """Every record as one line for a person; HEADER names the columns."""
    r = batch.records
    if not len(r):
        return ""
    goes_on = end_codes(r) == len(abi.ENDS)
    end = np.where(r["end_reason"] < len(abi.ENDS), r["end_reason"], 255)
    end = np.where(goes_on, len(abi.ENDS) + r["kind"], end)
    rule = np.where(r["reason"] == 0, plain(r["rule"], abi.RULES), plain(r["reason"], abi.REASONS))
    columns = (
        [text[:23] + "Z" for text in times(r["time_end"], batch.offset)],
        _labelled(r["owner"], batch.labels, lambda label: printable.text(label.workload or "-")),
        plain(r["role"], abi.ROLES),
        endpoints(r, "local"),
        endpoints(r, "peer"),
        r["bytes_sent"].tolist(),
        r["bytes_received"].tolist(),
        plain(end, (*abi.ENDS, *abi.EVENTS)),
        rule.tolist(),
    )
    return "".join([TABLE % row for row in zip(*columns, strict=True)])
