# SPDX-License-Identifier: Apache-2.0
"""What flows carried in an interval: the records of it, and what no record has told, now less then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bpf import abi
from exporter.ring import Columns

COUNTS = ("bytes_sent", "bytes_received", "segments_sent", "segments_retransmitted")
KEY = np.dtype([("cookie", "u8"), ("generation", "u4")])
ROOM = 1 << 17  # flows that are remembered; one without a descriptor is kept until its close


@dataclass(frozen=True, slots=True)
class Interval:
    """By flow, one element each. counts: (flows, len(COUNTS)), what was carried; a byte that a snapshot
    left to the next one may make it -1. row: the newest record or snapshot row of the flow."""

    row: Columns
    counts: NDArray[np.int64]
    opened: NDArray[np.bool_]
    open: NDArray[np.bool_]


class Difference:
    """Takes snapshots and the records drained after each; remembers what was unreported."""

    def __init__(self, began: int) -> None:
        """began: boottime ns. What flows carried before it is not counted."""
        self._began = began
        self._keys = np.empty(0, KEY)
        self._counts = np.empty((0, len(COUNTS)), np.int64)

    def step(self, rows: Columns, records: Columns) -> Interval:
        """rows: a snapshot, a flow perhaps more than once; records: all that came since the last step and
        were in the ring when it was taken, and perhaps some more. The first step gives the baseline.
        """
        records = records[np.isin(records["kind"], (abi.EVENT_CLOSE, abi.EVENT_INTERIM))]
        both = np.concatenate([rows, records])
        if not len(both):
            return Interval(both, np.empty((0, len(COUNTS)), np.int64), *(np.empty(0, np.bool_),) * 2)
        keys, index = np.unique(keyed(both), return_inverse=True)
        of_row, of_record = index[: len(rows)], index[len(rows) :]
        n = len(keys)
        place, known = _find(self._keys, keys)
        before = np.where(known[:, None], self._counts[place] if len(self._keys) else 0, 0)

        # A record newer than the moment up to which the row's flow was told of has told what the row says.
        told = np.zeros(n, np.uint64)
        np.maximum.at(told, of_record, records["time_end"])
        shown = np.full(n, -1, np.int64)
        shown[of_row] = np.arange(len(rows))
        fresh = shown >= 0
        fresh[fresh] = told[fresh] <= rows["time_start"][shown[fresh]]

        now = np.zeros((n, len(COUNTS)), np.int64)
        now[fresh] = counts(rows[shown[fresh]])

        told_by = np.zeros((n, len(COUNTS)), np.int64)
        counted = known[of_record] | self._whole(records)
        np.add.at(told_by, of_record[counted], counts(records[counted]))
        # Without a baseline what is unreported counts if all of it is of our time.
        ours = known.copy()
        ours[fresh] |= self._whole(rows[shown[fresh]])
        ours |= ~fresh
        carried = told_by + np.where(ours[:, None], now - before, 0)

        newest = np.full(n, -1, np.int64)
        newest[of_row] = np.arange(len(rows))
        order = np.argsort(records["time_end"], kind="stable")
        late = ~fresh[of_record[order]]
        newest[of_record[order][late]] = len(rows) + order[late]
        closed = np.zeros(n, np.bool_)
        closed[of_record[records["kind"] == abi.EVENT_CLOSE]] = True
        row = both[newest]
        opened = ~known & (row["time_open"] >= self._began) & (row["flags"] & abi.FLOW_ADOPTED == 0)
        self._keep(keys, now, closed)
        return Interval(row, carried, opened, ~closed)

    def _whole(self, rows: Columns) -> NDArray[np.bool_]:
        """Whether all of what it tells was carried since we began."""
        unknown = (rows["flags"] & abi.FLOW_ADOPTED != 0) & (rows["time_start"] == rows["time_open"])
        whole: NDArray[np.bool_] = (rows["time_start"] >= self._began) & ~unknown
        return whole

    def _keep(self, keys: Columns, now: NDArray[np.int64], closed: NDArray[np.bool_]) -> None:
        old = ~np.isin(self._keys, keys)
        joined = np.concatenate([self._keys[old], keys[~closed]])[-ROOM:]
        values = np.concatenate([self._counts[old], now[~closed]])[-ROOM:]
        order = np.argsort(joined)
        self._keys, self._counts = joined[order], values[order]


def keyed(rows: Columns) -> Columns:
    """The flow of each row."""
    keys = np.empty(len(rows), KEY)
    keys["cookie"], keys["generation"] = rows["cookie"], rows["generation"]
    return keys


def counts(rows: Columns) -> NDArray[np.int64]:
    return np.stack([rows[name].astype(np.int64) for name in COUNTS], axis=1).reshape(-1, len(COUNTS))


def _find(known: Columns, keys: Columns) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    if not len(known):
        return np.zeros(len(keys), np.intp), np.zeros(len(keys), np.bool_)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return place, known[place] == keys
