# SPDX-License-Identifier: Apache-2.0
"""All families of an exporter, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from exporter.health.health import Health
from exporter.hook_counts import HookCounts
from exporter.metrics import claims, host, kernel, names, process, records
from exporter.metrics.exposition import Family
from identity.pinned import open_map

if TYPE_CHECKING:
    from exporter.observe import Parts
    from exporter.spool.spooling import Spooling

COUNTED = ("ft_cgroup", "ft_netns", "ft_workload")
"""Maps whose entries exporter/collecting.py counts."""


def every(of: Parts, health: Health, beat: Callable[[], float], way: Spooling | None) -> list[Family]:
    """way: None without a spool."""
    where = of.config.host
    found = [
        process.process(beat),
        process.problems(health),
        kernel.kernel(of.programs, of.count_map, of.ring),
        records.records(of.tally),
        claims.hooks(HookCounts(where.run_directory), where.run_directory, where.pin_directory),
        claims.reconciliation(of.reconciled, of.collecting, _limits(where.pin_directory)),
        names.names(of.sources),
        host.host(of.life),
    ]
    if way is not None:
        from exporter.metrics import spool  # pyarrow, for those who spool

        found.append(spool.spool(way, of.config.spool))
    return found


def _limits(pins: str) -> dict[str, int]:
    limits = {}
    for name in COUNTED:
        with open_map(name, pins) as pinned:
            limits[name] = pinned.max_entries
    return limits
