# SPDX-License-Identifier: Apache-2.0
"""Which records of a batch a query asks for: on columns, before any text is made of a record."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpf import abi
from exporter.batch import Batch
from exporter.flows.query import ANY, Network, Query
from exporter.label import NOBODY, Label

Mask = NDArray[np.bool_]


def mask(query: Query, batch: Batch) -> Mask:
    """True for each record that is asked for; batch.peers is looked at only for peer_workloads."""
    r = batch.records
    kept = np.ones(len(r), np.bool_)
    if query.since is not None or query.until is not None:
        ended = r["time_end"].astype(np.int64) + batch.offset
        if query.since is not None:
            kept &= ended >= query.since
        if query.until is not None:
            kept &= ended <= query.until
    if query.ports:
        kept &= np.isin(r["local_port"], query.ports) | np.isin(r["peer_port"], query.ports)
    for names, column, known in (
        (query.kinds, "kind", abi.EVENTS),
        (query.roles, "role", abi.ROLES),
        (query.ends, "end_reason", abi.ENDS),
    ):
        if names:
            kept &= _coded(r[column], names, known)
    if query.unattributed:
        kept &= _unattributed(r["reason"], query.unattributed)
    if query.networks:
        local, peer = _bytes(r["local_address"]), _bytes(r["peer_address"])
        inside = [_within(end, network) for network in query.networks for end in (local, peer)]
        kept &= np.logical_or.reduce(inside)
    if query.workloads:
        kept &= _owned(r["owner"], batch, query.workloads)
    if query.peer_workloads:
        kept &= _owned(batch.peers, batch, query.peer_workloads)
    return kept


def _coded(codes: NDArray[Any], names: Sequence[str], known: Sequence[str]) -> Mask:
    """A code that only a newer version knows is the first name, as in the records."""
    named = np.where(codes < len(known), codes, 0)
    found: Mask = np.isin(named, [known.index(name) for name in names])
    return found


def _unattributed(reasons: NDArray[Any], names: Sequence[str]) -> Mask:
    if ANY in names:
        any_of: Mask = reasons != 0
        return any_of
    found: Mask = np.isin(reasons, [abi.REASONS.index(name) for name in names])
    return found


def _bytes(addresses: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(addresses).view(np.uint8).reshape(-1, 16)


def _within(addresses: NDArray[np.uint8], network: Network) -> Mask:
    base, bits = network
    first = np.frombuffer(base, np.uint8)
    whole, rest = divmod(bits, 8)
    found: Mask = (addresses[:, :whole] == first[:whole]).all(axis=1)
    if rest:
        found &= (addresses[:, whole] ^ first[whole]) >> (8 - rest) == 0
    return found


def _owned(owners: NDArray[np.uint64], batch: Batch, globs: Sequence[str]) -> Mask:
    """Names are compared once for each distinct owner."""
    distinct, index = np.unique(owners, return_inverse=True)
    hits = [matches(batch.labels.get(owner, NOBODY), globs) for owner in distinct.tolist()]
    found: Mask = np.array(hits, np.bool_)[index]
    return found


def matches(label: Label, globs: Sequence[str]) -> bool:
    """Whether one of a workload's names is as one of the globs says."""
    names = (label.workload, label.app, label.container, label.pod, label.namespace, label.container_id)
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs for name in names if name)
