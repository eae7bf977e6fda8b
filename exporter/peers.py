# SPDX-License-Identifier: Apache-2.0
"""Two ends of one flow on one host name each other: found by their addresses and ports, crossed.

Never guessed: ends with different owners under one pair of addresses and ports (reused within the
minute, or in networks that use the same addresses) name nobody, and an end whose life does not overlap
the other's is not its peer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpf import abi
from exporter.ring import Columns
from identity import address

_KEY = np.dtype(
    [("netns", "u8"), ("local", "V16"), ("peer", "V16"), ("local_port", "u2"), ("peer_port", "u2")]
)
_LOOPBACK6 = address.from_text("::1")
_LOOPBACK4 = address.MAPPED + b"\x7f"
_LINK_LOCAL6 = b"\xfe\x80"
_SLACK = 10**9  # ns: the ends of one flow do not close in the same moment


def _within(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether an address means something only inside its own network namespace."""
    bytes_ = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 16)
    found = np.zeros(len(bytes_), np.bool_)
    for prefix in (_LOOPBACK4, _LOOPBACK6, _LINK_LOCAL6):
        found |= (bytes_[:, : len(prefix)] == np.frombuffer(prefix, np.uint8)).all(axis=1)
    return found


def _keys(records: Columns, local: str, peer: str) -> NDArray[Any]:
    keys = np.zeros(len(records), _KEY)
    keys["local"], keys["local_port"] = records[f"{local}_address"], records[f"{local}_port"]
    keys["peer"], keys["peer_port"] = records[f"{peer}_address"], records[f"{peer}_port"]
    inside = _within(records["local_address"]) | _within(records["peer_address"])
    inside |= records["local_address"] == records["peer_address"]
    keys["netns"] = np.where(inside, records["netns"], 0)
    return keys.view(f"V{_KEY.itemsize}")


def find(records: Columns) -> NDArray[np.uint64]:
    """For each record the owner of its other end among these records; 0 where that is not known."""
    found = np.zeros(len(records), np.uint64)
    if not len(records):
        return found
    _, number = np.unique(
        np.concatenate([_keys(records, "local", "peer"), _keys(records, "peer", "local")]),
        return_inverse=True,
    )
    mine, crossed = number[: len(records)], number[len(records) :]
    order = np.argsort(mine, kind="stable")
    first = np.flatnonzero(np.diff(mine[order], prepend=-1))  # of the ends with one key
    groups = np.full(int(number.max()) + 1, -1)
    groups[mine[order][first]] = np.arange(len(first))
    owner = records["owner"][order]
    low, high = np.minimum.reduceat(owner, first), np.maximum.reduceat(owner, first)
    began = np.minimum.reduceat(_opened(records)[order], first)
    ended = np.maximum.reduceat(records["time_end"][order], first)
    role = np.maximum.reduceat(records["role"][order], first)
    same_role = np.minimum.reduceat(records["role"][order], first) == role
    group = groups[crossed]
    there = np.flatnonzero(group >= 0)
    at = group[there]
    fits = (low[at] == high[at]) & same_role[at] & (role[at] != records["role"][there])
    fits &= began[at] <= records["time_end"][there] + _SLACK
    fits &= _opened(records)[there] <= ended[at] + np.uint64(_SLACK)
    found[there[fits]] = low[at][fits]
    return found


def _opened(records: Columns) -> NDArray[np.uint64]:
    """When its interval began; for adopted flows, whose opening nobody saw, long ago."""
    adopted = (records["flags"] & abi.FLOW_ADOPTED) != 0
    opened: NDArray[np.uint64] = np.where(adopted, 0, records["time_start"]).astype(np.uint64)
    return opened
