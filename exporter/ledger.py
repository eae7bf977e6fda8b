# SPDX-License-Identifier: Apache-2.0
"""The ledger: seen = delivered + waiting + dropped{reason}, for each sink, at every moment.

Each term comes from somewhere else: seen from the totals in the segments' names, waiting from the files
that are there, delivered and dropped from the sink's marks. So a file that is gone shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from exporter.mark import REASONS
from exporter.spool import Spool


@dataclass(frozen=True, slots=True)
class Row:
    """Records, of this ring and of older ones that still have some waiting.

    unaccounted: what is missing in the ledger; 0 unless a file was removed by other hands, and then until
    the sink has come past it: it is counted as dropped, `missing`, from there on.
    """

    sink: str
    seen: int
    delivered: int
    waiting: int
    dropped: dict[str, int]

    @property
    def unaccounted(self) -> int:
        return self.seen - self.delivered - self.waiting - sum(self.dropped.values())


def rows(spool: Spool) -> list[Row]:
    """One row for each sink, by name."""
    found: dict[str, Row] = {}
    for account in spool.ledger():
        mark = account.mark
        row = found.get(mark.sink, Row(mark.sink, 0, 0, 0, dict.fromkeys(REASONS, 0)))
        dropped = dict(zip(REASONS, mark.dropped, strict=True))
        dropped["damaged"] += account.spoilt
        found[mark.sink] = Row(
            mark.sink,
            row.seen + account.total - mark.before,
            row.delivered + mark.delivered,
            row.waiting + account.waiting,
            {reason: row.dropped[reason] + dropped[reason] for reason in REASONS},
        )
    return [found[sink] for sink in sorted(found)]
