# SPDX-License-Identifier: Apache-2.0
"""Records as lines that fit a terminal. What has no bound, the addresses, comes last and is never cut."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bpf import abi
from exporter import records
from exporter.batch import Batch
from exporter.label import NOBODY
from exporter.printable import fit

_ENDPOINTS = 46  # two IPv4 ends and an arrow; IPv6 runs over
_ARROWS = ("  ", "->", "<-")  # by role: who connected to whom
_UNITS = "kMGTPE"


def amount(value: float) -> str:
    """In at most six columns, by thousands."""
    if value < 100_000:
        return str(round(value))
    power = 0
    while value >= 999.95:
        value /= 1000
        power += 1
    return f"{value:.1f}{_UNITS[power - 1]}"


class Table:
    """`columns` wide, or so wide as nothing is cut where it goes to no terminal (None)."""

    def __init__(self, columns: int | None) -> None:
        self._plain = columns is None
        room = columns or 0
        self._long = room >= 110
        fixed = (12 if self._long else 8) + 13 + 7 + 7 + 2 + (8 if self._long else 0)
        self._workload = min(48, max(16, room - fixed - _ENDPOINTS))
        self._local = 15
        self._day = ""

    def header(self) -> str:
        """The first line."""
        if self._plain:
            return records.HEADER
        time = "time (UTC)  " if self._long else "time    "
        by = f"{'by':<7} " if self._long else ""
        head = f"{'workload':<{self._workload}} {'end':<12} {'sent':>6} {'recvd':>6} {by}"
        return f"{time} {head}local (-> connects, <- accepts) peer\n"

    def lines(self, batch: Batch) -> str:
        """One line for each record; a line with the date where another day begins."""
        if self._plain:
            return records.table(batch)
        return "".join(self._rows(batch))

    def _rows(self, batch: Batch) -> Iterator[str]:
        r = batch.records
        if not len(r):
            return
        local, peer = records.endpoints(r, "local"), records.endpoints(r, "peer")
        # Grows with what comes, so that most lines agree.
        self._local = max(self._local, min(int(np.percentile([len(end) for end in local], 90)), 47))
        owners = r["owner"].tolist()
        reasons = r["reason"].tolist()
        shown = {
            (owner, reason): self._owner(batch, owner, reason)
            for owner, reason in set(zip(owners, reasons, strict=True))
        }
        last = 23 if self._long else 19
        columns = zip(
            records.times(r["time_end"], batch.offset),
            owners,
            reasons,
            records.plain(np.where(r["kind"] == _CLOSE, r["end_reason"], len(abi.ENDS)), _ENDS),
            r["bytes_sent"].tolist(),
            r["bytes_received"].tolist(),
            records.plain(r["rule"], abi.RULES),
            local,
            np.where(r["role"] < len(_ARROWS), r["role"], 0).tolist(),
            peer,
            strict=True,
        )
        for time, owner, reason, end, sent, received, rule, one, role, other in columns:
            if time[:10] != self._day:
                self._day = time[:10]
                yield f"-- {self._day} UTC\n"
            by = f"{rule:<7} " if self._long else ""
            yield (
                f"{time[11:last]} {shown[owner, reason]} {end:<12} "
                f"{amount(sent):>6} {amount(received):>6} {by}{one:<{self._local}} {_ARROWS[role]} {other}\n"
            )

    def _owner(self, batch: Batch, owner: int, reason: int) -> str:
        name = batch.labels.get(owner, NOBODY).workload if owner else None
        if name is None:
            why = abi.REASONS[reason] if 0 < reason < len(abi.REASONS) else "unknown"
            return fit(f"({why})", self._workload)
        return fit(name, self._workload)


_CLOSE = abi.EVENTS.index("close")
# A record that is no close has no end to tell; its place says so.
_ENDS = (*abi.ENDS, "open")
