# SPDX-License-Identifier: Apache-2.0
"""Records of a batch summed by edge: a workload, its role, the server's port and the other end.

Done by column. An edge is told by what is sent of it, never by an owner's id: a container that was made
anew under its name within the minute is the same edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpf import abi
from exporter.batch import Batch
from exporter.label import NOBODY, Label
from exporter.ring import Columns
from exporter.sinks import otlp_resource
from identity import address

Names = tuple[tuple[str, str], ...]
"""Attributes of an end, as otlp_resource.names() gives them."""

CLOSE, INTERIM = abi.EVENTS.index("close"), abi.EVENTS.index("interim")
CLIENT, SERVER = abi.ROLES.index("client"), abi.ROLES.index("server")
# Of obi.stat.tcp.rtt, in microseconds: opentelemetry.io, OBI, "TCP RTT histogram".
RTT_BOUNDS_US = (500, 1000, 2000, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Edge:
    """What its data points have in common. port: the server's, None where that is not known or not asked
    for; peer_address: where no workload of this host is the other end, and addresses are asked for.
    """

    local: Names
    peer: Names
    peer_address: str | None
    role: str | None
    port: int | None


@dataclass(frozen=True, slots=True)
class Sums:
    """One element an edge, of `edges`; one more, the last, if there were too many: `overflow` of them.

    connections: by end_reason, of closes. rtt: closes by bucket of RTT_BOUNDS_US; rtt_us: their sum;
    rtt_least and rtt_most: meaningless where there are none.
    """

    edges: list[Edge]
    overflow: int
    sent: list[int]
    received: list[int]
    retransmitted: list[int]
    connections: NDArray[np.int64]
    rtt: NDArray[np.int64]
    rtt_us: list[int]
    rtt_least: NDArray[np.uint32]
    rtt_most: NDArray[np.uint32]


def sums(batch: Batch, peers: str, server_port: bool, most: int) -> Sums:
    """Of the closed and the interim records; at most `most` elements, the overflow's included."""
    kind = batch.records["kind"]
    rows = np.flatnonzero((kind == CLOSE) | (kind == INTERIM))
    r = batch.records[rows]
    columns, values = _keys(r, batch.peers[rows], batch.labels, peers, server_port)
    keys, first, edge = np.unique(columns, axis=0, return_index=True, return_inverse=True)
    edge = edge.reshape(-1)
    edges, overflow = [_edge(values, key) for key in keys.tolist()], 0
    if len(edges) > most:
        place = _heaviest(r, edge, first, most - 1)
        edges = [one for one, at in zip(edges, place.tolist(), strict=True) if at < most - 1]
        overflow = len(keys) - len(edges)
        edge = place[edge]
    return _sums(r, edge, edges, overflow)


_Values = tuple[list[Names], list[Names], list[str | None]]


def _keys(
    r: Columns, peer_owners: NDArray[np.uint64], labels: Mapping[int, Label], peers: str, server_port: bool
) -> tuple[NDArray[np.int64], _Values]:
    """A row of five numbers for each record, and what the first, second and third of them stand for."""
    local, locals_ = _ends(r["owner"], labels)
    peer, peers_ = _ends(peer_owners, labels)
    addresses: list[str | None] = [None]
    address_ = np.zeros(len(r), np.int64)
    elsewhere = np.array([not names for names in peers_], np.bool_)[peer]
    if peers == "address":
        distinct, index = np.unique(r["peer_address"].astype("V16"), return_inverse=True)
        addresses += [address.to_text(value) for value in distinct.tolist()]
        address_ = np.where(elsewhere, index.reshape(-1) + 1, 0)
    role = np.where(np.isin(r["role"], (CLIENT, SERVER)), r["role"], 0)
    port = np.where(role == CLIENT, r["peer_port"], r["local_port"]).astype(np.int64)
    port = np.where((role != 0) & server_port, port, -1)
    return np.column_stack([local, peer, address_, role.astype(np.int64), port]), (locals_, peers_, addresses)


def _ends(owners: NDArray[np.uint64], labels: Mapping[int, Label]) -> tuple[NDArray[np.int64], list[Names]]:
    """A number for each owner's names, the same for the same names; and the names by number."""
    distinct, index = np.unique(owners, return_inverse=True)
    numbers: dict[Names, int] = {}
    of = np.zeros(len(distinct), np.int64)
    for place, owner in enumerate(distinct.tolist()):
        label = labels.get(owner, NOBODY)
        names = tuple(otlp_resource.names(label)) if label.workload is not None else ()
        of[place] = numbers.setdefault(names, len(numbers))
    return of[index.reshape(-1)], list(numbers)


def _edge(values: _Values, key: list[int]) -> Edge:
    local, peer, address_, role, port = key
    return Edge(
        values[0][local],
        values[1][peer],
        values[2][address_],
        abi.ROLES[role] if role else None,
        port if port >= 0 else None,
    )


def _heaviest(r: Columns, edge: NDArray[Any], first: NDArray[Any], most: int) -> NDArray[np.int64]:
    """The new place of each edge: those with the most bytes stay, in their order; all others are `most`.

    Between edges of as many bytes the one that came first stays.
    """
    weight = np.bincount(edge, r["bytes_sent"].astype(np.float64) + r["bytes_received"])
    kept = np.sort(np.lexsort((first, -weight))[:most])
    place = np.full(len(first), most, np.int64)
    place[kept] = np.arange(len(kept))
    return place


def _exact(edge: NDArray[Any], values: NDArray[Any], count: int) -> list[int]:
    """The sum for each edge. In halves, of which a float holds a sum exactly: up to 2^21 records."""
    values = values.astype(np.uint64)
    high = np.bincount(edge, values >> np.uint64(32), count)
    low = np.bincount(edge, values & np.uint64(0xFFFFFFFF), count)
    return [(int(a) << 32) + int(b) for a, b in zip(high.tolist(), low.tolist(), strict=True)]


def _table(edge: NDArray[Any], column: NDArray[Any], count: int, width: int) -> NDArray[np.int64]:
    """How many records of each edge have each value of `column`, which is below `width`."""
    return np.bincount(edge * width + column, minlength=count * width).reshape(count, width)


def _sums(r: Columns, edge: NDArray[Any], edges: list[Edge], overflow: int) -> Sums:
    count = len(edges) + bool(overflow)
    closed = np.flatnonzero(r["kind"] == CLOSE)
    ends = r["end_reason"][closed].astype(np.int64)
    ends[ends >= len(abi.ENDS)] = 0
    timed = closed[r["rtt_us"][closed] != abi.UNKNOWN32]
    rtt = r["rtt_us"][timed]
    least, most = np.full(count, abi.UNKNOWN32, np.uint32), np.zeros(count, np.uint32)
    np.minimum.at(least, edge[timed], rtt)
    np.maximum.at(most, edge[timed], rtt)
    # OTLP's bounds belong to the bucket below them.
    buckets = np.searchsorted(np.array(RTT_BOUNDS_US), rtt, side="left")
    return Sums(
        edges,
        overflow,
        _exact(edge, r["bytes_sent"], count),
        _exact(edge, r["bytes_received"], count),
        _exact(edge, r["segments_retransmitted"], count),
        _table(edge[closed], ends, count, len(abi.ENDS)),
        _table(edge[timed], buckets, count, len(RTT_BOUNDS_US) + 1),
        _exact(edge[timed], rtt, count),
        least,
        most,
    )
