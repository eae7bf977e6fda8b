# SPDX-License-Identifier: Apache-2.0
"""Who the owner ids in records are: ft_workload, joined by distinct id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpf import abi
from bpf.syscall import Map
from identity.workload import Workload


class Workloads:
    """A bounded cache in front of the pinned map.

    A workload's entry is written before its keys and does not change but for its end, so what was
    read once stays true (the host's may change: forget() then); an id that is not there is asked for
    again. What engines say beside it does change, so that is not kept here: exporter/describe.py asks for
    it with every batch.
    """

    def __init__(self, workload_map: Map, room: int = 16384) -> None:
        self._map = workload_map
        self._room = room
        self._known: dict[int, Workload] = {}

    def get(self, workload_id: int) -> Workload | None:
        """The workload with this id; None for nobody, or where its entry is gone."""
        if workload_id <= abi.OWNER_SPECIAL:
            return None
        known = self._known.get(workload_id)
        if known is None:
            value = self._map.get(abi.ID.pack(workload_id))
            if value is None:
                return None
            known = Workload.unpack(value)
            if len(self._known) >= self._room:
                self._known.clear()
            self._known[workload_id] = known
        return known

    def kind(self, workload_id: int) -> int:
        """The code of its kind (abi.WORKLOAD_KINDS), 0 where its entry is gone."""
        found = self.get(workload_id)
        return found.kind if found else 0

    def forget(self) -> None:
        """Read every entry again."""
        self._known.clear()

    def column(self, owners: NDArray[Any], text: Callable[[Workload | None], str]) -> list[str]:
        """`text` of each owner's workload, made once for each distinct owner."""
        distinct, index = np.unique(owners, return_inverse=True)
        made = [text(self.get(owner)) for owner in distinct.tolist()]
        return [made[i] for i in index.tolist()]
