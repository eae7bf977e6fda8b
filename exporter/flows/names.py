# SPDX-License-Identifier: Apache-2.0
"""Names for those who only look: no engine is asked, nothing is joined for good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bpf.error import FlowtagError
from exporter import label as labels
from exporter.config import Config
from exporter.describe import Describer
from exporter.label import Label
from exporter.workloads import Workloads
from identity.pinned import open_map

ROOM = 1 << 16


class Names:
    """Of an owner: what the exporter joined last, as far as it was seen here; else what the hook wrote into
    ft_workload; else `id:NUMBER`. The last two lack what only Docker and Kubernetes know.
    """

    def __init__(self, config: Config) -> None:
        self._joined: dict[int, Label] = {}
        self._describer = Describer(config.identity, [])
        try:
            self._map = open_map("ft_workload", config.host.pin_directory)
        except FlowtagError:
            self._workloads = None
        else:
            self._workloads = Workloads(self._map)

    def learn(self, joined: Mapping[int, Label]) -> None:
        """Names of a newer batch."""
        if len(self._joined) > ROOM:
            self._joined.clear()
        self._joined.update(joined)

    def of(self, owners: Iterable[int]) -> dict[int, Label]:
        """Of distinct owners; 0, which is nobody, is left out."""
        return {owner: self._one(owner) for owner in owners if owner}

    def _one(self, owner: int) -> Label:
        known = self._joined.get(owner)
        if known is not None:
            return known
        workload = self._workloads.get(owner) if self._workloads else None
        return labels.label(workload, self._describer) if workload else Label(workload=f"id:{owner}")
