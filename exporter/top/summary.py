# SPDX-License-Identifier: Apache-2.0
"""Flows of an interval, summed by workload or, where nobody owns them, by the reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bpf import abi
from exporter.label import NOBODY, Label
from exporter.top.difference import Interval

FAILURES = ("rst_received", "timeout", "refused", "unreachable")
SORTS = ("sent", "received", "flows", "opened", "retransmitted", "rtt", "failed", "workload")


@dataclass(frozen=True, slots=True)
class Line:
    """flows: open at the end. The others are of the interval; rtt_us: of the median flow, None if unknown."""

    workload: str
    flows: int
    opened: int
    bytes_sent: int
    bytes_received: int
    segments_sent: int
    segments_retransmitted: int
    rtt_us: int | None
    refused: int
    timeout: int
    unreachable: int
    rst_received: int

    @property
    def failed(self) -> int:
        return self.refused + self.timeout + self.unreachable + self.rst_received

    @property
    def retransmitted(self) -> float:
        """Per cent of the segments that were sent."""
        if not self.segments_retransmitted:
            return 0.0
        return min(100.0, 100 * self.segments_retransmitted / max(1, self.segments_sent))


def owners(interval: Interval) -> list[int]:
    found: list[int] = np.unique(interval.row["owner"]).tolist()
    return found


def summarize(interval: Interval, labels: Mapping[int, Label]) -> tuple[list[Line], Line]:
    """A line for each workload and for each reason, in no order; and the total."""
    row = interval.row
    pairs = np.stack([row["owner"], np.where(row["owner"] == 0, row["reason"], 0).astype(np.uint64)], axis=1)
    distinct, index = np.unique(pairs, axis=0, return_inverse=True)
    order = np.argsort(index.reshape(-1), kind="stable")
    bounds = np.searchsorted(index.reshape(-1)[order], np.arange(len(distinct) + 1))
    lines = [
        _line(_name(owner, reason, labels), interval, order[bounds[n] : bounds[n + 1]])
        for n, (owner, reason) in enumerate(distinct.tolist())
    ]
    return lines, _line("total", interval, order)


def _name(owner: int, reason: int, labels: Mapping[int, Label]) -> str:
    if owner:
        return labels.get(owner, NOBODY).workload or f"id:{owner}"
    if not reason:
        return "nobody: connecting"
    return f"nobody: {abi.REASONS[reason] if reason < len(abi.REASONS) else 'unknown'}"


def _line(name: str, interval: Interval, of: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Line:
    row = interval.row[of]
    sent, received, segments, again = np.maximum(interval.counts[of].sum(axis=0), 0).tolist()
    known = row["rtt_us"][row["rtt_us"] != abi.UNKNOWN32]
    ended = row["end_reason"][~interval.open[of]]
    failures = {end: int((ended == abi.ENDS.index(end)).sum()) for end in FAILURES}
    return Line(
        workload=name,
        flows=int(interval.open[of].sum()),
        opened=int(interval.opened[of].sum()),
        bytes_sent=sent,
        bytes_received=received,
        segments_sent=segments,
        segments_retransmitted=again,
        rtt_us=int(np.median(known)) if len(known) else None,
        **failures,
    )


def ordered(lines: list[Line], key: str) -> list[Line]:
    """By a word of SORTS, the most first; names break ties."""
    if key == "workload":
        return sorted(lines, key=lambda line: line.workload)
    name = {"sent": "bytes_sent", "received": "bytes_received", "rtt": "rtt_us"}.get(key, key)
    return sorted(lines, key=lambda line: (-(getattr(line, name) or 0), line.workload))


def as_dict(line: Line) -> dict[str, object]:
    return dataclasses.asdict(line)
