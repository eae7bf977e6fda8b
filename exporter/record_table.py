# SPDX-License-Identifier: Apache-2.0
"""The record contract as one Arrow schema, and batches as tables of it: what Parquet files hold.

The same names, order and values as the JSON lines have. What repeats (addresses, names, codes) is a
dictionary: it is made once for each distinct value, and its rows are four bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bpf import abi
from exporter.batch import Batch
from exporter.label import FIELDS, NOBODY, Label
from exporter.records import NOT_OWNERSHIP, end_codes, starts
from identity import address, nat64

TEXT = pa.dictionary(pa.int32(), pa.string())
LABELS = pa.map_(pa.string(), pa.string())
TIME = pa.timestamp("ns", "UTC")

_TYPES: dict[str, pa.DataType] = {
    "kind": TEXT,
    "time_open": TIME,
    "time_start": TIME,
    "time_end": TIME,
    "local_address": TEXT,
    "local_port": pa.uint16(),
    "peer_address": TEXT,
    "peer_port": pa.uint16(),
    "peer_address_v4": TEXT,
    "role": TEXT,
    "end_reason": TEXT,
    "bytes_sent": pa.uint64(),
    "bytes_received": pa.uint64(),
    "segments_sent": pa.uint32(),
    "segments_received": pa.uint32(),
    "segments_retransmitted": pa.uint32(),
    "connect_us": pa.uint32(),
    "rtt_us": pa.uint32(),
    "rtt_min_us": pa.uint32(),
    **{name: LABELS if name == "labels" else TEXT for name in FIELDS},
    "attributed_by": TEXT,
    "unattributed_reason": TEXT,
    "attributed_at": TEXT,
    "adopted": pa.bool_(),
    "pid": pa.uint32(),
    "comm": TEXT,
    "peer_workload": TEXT,
    "host_id": TEXT,
    "boot_id": TEXT,
    "ring": pa.uint32(),
    "batch": pa.uint64(),
    "sequence": pa.uint64(),
    "flow_id": pa.string(),
    "cgroup_id": pa.uint64(),
    "netns": pa.uint64(),
}
SCHEMA = pa.schema([pa.field(name, kind) for name, kind in _TYPES.items()])
Values = Sequence[str | None]


def _pick(codes: NDArray[Any], values: Values) -> pa.Array:
    """values[code] of each row; None becomes null."""
    texts = list(dict.fromkeys(value for value in values if value is not None))
    place = {text: number for number, text in enumerate(texts)}
    index = np.array([place.get(value, -1) if value is not None else -1 for value in values], np.int32)
    rows = index[codes]
    indices = pa.array(np.maximum(rows, 0), pa.int32(), mask=rows < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(texts, pa.string()))


def _each(values: NDArray[Any], text: Callable[[Any], str | None]) -> pa.Array:
    distinct, index = np.unique(values, return_inverse=True)
    return _pick(index, [text(value) for value in distinct.tolist()])


def _code(codes: NDArray[Any], names: tuple[str, ...], null: str | None = None) -> pa.Array:
    unknown = names[0] if null is None else None
    known = [None if name == null else name for name in names]
    return _pick(np.minimum(codes, len(names)), [*known, unknown])


def _time(values: NDArray[Any], offset: NDArray[np.int64], known: NDArray[np.bool_] | None) -> pa.Array:
    wall = values.astype(np.int64) + offset
    return pa.array(wall, pa.int64(), mask=None if known is None else ~known).cast(TIME)


def _silent(column: pa.Array, kept: NDArray[np.bool_]) -> pa.Array:
    """The column with null where a record says nothing about it."""
    from pyarrow import compute

    return compute.if_else(pa.array(kept), column, pa.scalar(None, column.type))


def _number(values: NDArray[Any], unknown: int | None = None) -> pa.Array:
    values = np.ascontiguousarray(values)
    return pa.array(values, mask=None if unknown is None else values == unknown)


def _labels(owners: NDArray[Any], known: Mapping[int, Label]) -> dict[str, pa.Array]:
    distinct, index = np.unique(owners, return_inverse=True)
    of = [known.get(owner, NOBODY) for owner in distinct.tolist()]
    found = {name: _pick(index, [getattr(one, name) for one in of]) for name in FIELDS if name != "labels"}
    maps = pa.array([list(one.labels.items()) for one in of], LABELS)
    return {**found, "labels": maps.take(pa.array(index))}


def _comm(raw: bytes) -> str | None:
    return raw.split(b"\0")[0].decode(errors="replace") or None


def _stands_for(peer: bytes, prefixes: tuple[nat64.Prefix, ...]) -> str | None:
    found = nat64.ipv4(peer, prefixes)
    return None if found is None else address.to_text(address.canonical(found))


def _flow_ids(batch: Batch) -> pa.Array:
    from pyarrow import compute

    head = f"{batch.origin.host_id}/{batch.origin.boot_id}"
    parts = [_number(batch.records[name]).cast(pa.string()) for name in ("cookie", "generation")]
    return compute.binary_join_element_wise(head, *parts, "/")


def table(batch: Batch) -> pa.Table:
    """The batch by SCHEMA; unknown is null."""
    r, offset = batch.records, batch.offset
    opened = (r["flags"] & abi.FLOW_ADOPTED) == 0
    late = (r["flags"] & abi.FLOW_ATTR_AT_CLOSE) != 0
    zero = np.zeros(len(r), np.intp)
    columns = {
        "kind": _code(r["kind"], abi.EVENTS),
        "time_open": _time(r["time_open"], offset, opened),
        "time_start": _time(r["time_start"], offset, starts(r)),
        "time_end": _time(r["time_end"], offset, None),
        "local_address": _each(r["local_address"].astype("V16"), address.to_text),
        "peer_address": _each(r["peer_address"].astype("V16"), address.to_text),
        "peer_address_v4": _each(
            r["peer_address"].astype("V16"), lambda peer: _stands_for(peer, batch.origin.nat64)
        ),
        "role": _code(r["role"], abi.ROLES, null="unknown"),
        "end_reason": _code(end_codes(r), (*abi.ENDS, "none"), null="none"),
        **{name: _number(r[name], abi.UNKNOWN32) for name in ("connect_us", "rtt_us", "rtt_min_us")},
        **_labels(r["owner"], batch.labels),
        "attributed_by": _code(r["rule"], abi.RULES),
        "unattributed_reason": _code(r["reason"], abi.REASONS, null="none"),
        "attributed_at": _pick(np.where(r["owner"] == 0, 0, 1 + late), [None, "open", "close"]),
        "adopted": pa.array(~opened),
        "pid": _number(r["pid"], 0),
        "comm": _each(r["comm"], _comm),
        "peer_workload": _each(batch.peers, lambda owner: batch.labels.get(owner, NOBODY).workload),
        "host_id": _pick(zero, [batch.origin.host_id]),
        "boot_id": _pick(zero, [batch.origin.boot_id]),
        "ring": pa.array(np.full(len(r), batch.origin.ring, np.uint32)),
        "batch": pa.array(np.full(len(r), batch.number, np.uint64)),
        "sequence": _number(batch.sequence),
        "flow_id": _flow_ids(batch),
    }
    plain = {name: _number(r[name]) for name in SCHEMA.names if name not in columns}
    made = {**columns, **plain}
    flows = r["kind"] != abi.EVENT_OWNERSHIP
    if not flows.all():
        made |= {name: _silent(made[name], flows) for name in NOT_OWNERSHIP}
    return pa.table([made[name] for name in SCHEMA.names], schema=SCHEMA)
