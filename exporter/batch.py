# SPDX-License-Identifier: Apache-2.0
"""A batch: records with their names, as sinks get them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from exporter.label import Label
from exporter.ring import Columns
from identity import nat64


@dataclass(frozen=True, slots=True)
class Origin:
    """What all records of one exporter have in common."""

    host_id: str
    boot_id: str
    ring: int
    nat64: tuple[nat64.Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one minute and one ring, in ring order.

    number: with the origin the batch's key; the same records have it each time they are delivered. None
    for a live tap. minute: of the wall clock, counted from 1970. offset: ns to add to the boottimes for
    UTC, one for each record. labels: by owner id, what is not there is nobody. peers: owner id of the
    other end where that is on this host, else 0.
    """

    origin: Origin
    number: int | None
    minute: int
    records: Columns
    sequence: NDArray[np.uint64]
    offset: NDArray[np.int64]
    labels: Mapping[int, Label]
    peers: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))

    @property
    def key(self) -> str:
        """Names this batch among all of all hosts; letters, digits, dot, dash and underscore only."""
        host = "".join(c if c.isascii() and (c.isalnum() or c in ".-_") else "_" for c in self.origin.host_id)
        return f"{host}_{self.origin.boot_id}_{self.origin.ring}_{self.number}"

    def chosen(self, rows: NDArray[np.bool_]) -> Batch:
        """The records for which `rows` is true, under the same key; itself if that is all of them."""
        return self if rows.all() else self._of(rows)

    def part(self, rows: slice) -> Batch:
        """Some of its records, under the same key."""
        return self._of(rows)

    def _of(self, rows: slice | NDArray[np.bool_]) -> Batch:
        return Batch(
            self.origin,
            self.number,
            self.minute,
            self.records[rows],
            self.sequence[rows],
            self.offset[rows],
            self.labels,
            self.peers[rows],
        )
