# SPDX-License-Identifier: Apache-2.0
"""How many records went by which rule, or why nobody owns them: counted by column as they leave the ring."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpf import abi
from exporter.ring import Columns

CLOSE = abi.EVENTS.index("close")
UNCLAIMED = "unclaimed_container"
CONTAINERS = ("container", "pod")
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Totals:
    """Records since the exporter's start, by the names that records carry; every name is there.

    kinds: by kind of record. All others count closes, each flow once: rules and workload_kinds those that
    have an owner, reasons those that have none, ends by (role, end_reason).
    """

    kinds: Mapping[str, int]
    rules: Mapping[str, int]
    reasons: Mapping[str, int]
    workload_kinds: Mapping[str, int]
    ends: Mapping[tuple[str, str], int]

    @property
    def unclaimed(self) -> int:
        """Flows of containers that nobody had claimed yet."""
        return self.reasons[UNCLAIMED]

    @property
    def owned(self) -> int:
        """Flows of containers that had an owner."""
        return sum(self.workload_kinds[kind] for kind in CONTAINERS)


class Tally:
    """count() by the one thread that takes records from the ring, totals() by any."""

    def __init__(self, kind_of: Callable[[int], int]) -> None:
        """kind_of: the code of an owner's kind (abi.WORKLOAD_KINDS), 0 where its entry is gone."""
        self._kind_of = kind_of
        self._lock = threading.Lock()
        self._kinds = np.zeros(len(abi.EVENTS), np.int64)
        self._rules = np.zeros(len(abi.RULES), np.int64)
        self._reasons = np.zeros(len(abi.REASONS), np.int64)
        self._workload_kinds = np.zeros(len(abi.WORKLOAD_KINDS), np.int64)
        self._ends = np.zeros(len(abi.ROLES) * len(abi.ENDS), np.int64)

    def count(self, records: Columns) -> None:
        """Add a batch. 1.3 ms for 32,768 records of 100 owners."""
        kinds = _count(records["kind"], len(self._kinds))
        closes = records if kinds[CLOSE] == len(records) else records[records["kind"] == CLOSE]
        owner, rule = closes["owner"], closes["rule"]
        owned = owner != 0
        rules = _count(rule[owned], len(self._rules))
        reasons = _count(closes["reason"][~owned], len(self._reasons))
        owners, each = np.unique(owner[owned], return_counts=True)
        of = np.array([self._kind_of(one) for one in owners.tolist()], np.intp)
        workload_kinds = np.zeros(len(self._workload_kinds), np.int64)
        np.add.at(workload_kinds, of, each)
        ends = _count(closes["role"].astype(np.intp) * len(abi.ENDS) + closes["end_reason"], len(self._ends))
        with self._lock:
            self._kinds += kinds
            self._rules += rules
            self._reasons += reasons
            self._workload_kinds += workload_kinds
            self._ends += ends

    def totals(self) -> Totals:
        """All of one moment: no batch is in one of them and not in the others."""
        with self._lock:
            kinds, rules, reasons = self._kinds.tolist(), self._rules.tolist(), self._reasons.tolist()
            workload_kinds, ends = self._workload_kinds.tolist(), self._ends.tolist()
        pairs = [(role, end) for role in abi.ROLES for end in abi.ENDS]
        return Totals(
            dict(zip(abi.EVENTS, kinds, strict=True)),
            dict(zip(abi.RULES, rules, strict=True)),
            dict(zip(abi.REASONS, reasons, strict=True)),
            dict(zip(abi.WORKLOAD_KINDS, workload_kinds, strict=True)),
            dict(zip(pairs, ends, strict=True)),
        )


def _count(codes: NDArray[Any], names: int) -> Counts:
    """How often each code is there; one without a name, which no kernel program writes, counts as 0."""
    return np.bincount(np.where(codes < names, codes, 0), minlength=names)
