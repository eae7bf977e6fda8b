# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with an exporter that runs, and whom that concerns. docs/operations.md has the table."""

from __future__ import annotations

from dataclasses import dataclass

LIVE, READY, DEGRADED = "live", "ready", "degraded"
"""Severity. live: a restart would cure it, so /healthz fails, and /readyz. ready: flows are not attributed or
not kept, and a restart would not help, so /readyz fails. degraded: said there, but neither fails."""

# Each problem: its severity, and what to do.
KINDS: dict[str, tuple[str, str]] = {
    "detached": (LIVE, "restart the exporter: it attaches its programs and pins its maps again"),
    "blind": (LIVE, "restart the exporter; see `flowtag check`"),
    "stalled": (LIVE, "does standard output stall? else restart the exporter, and report it"),
    "thread_dead": (LIVE, "restart the exporter, and report it with its log"),
    "losing": (READY, "see flowtag_ring_waiting_bytes and the processor; raise exporter.ring_bytes"),
    "ring_behind": (READY, "see what holds the exporter: processor, the spool's disk, standard output"),
    "cgroups_incomplete": (READY, "see `flowtag maps dump`: is ft_cgroup full?"),
    "claim_missing": (READY, "see `flowtag status`"),
    "containers_unclaimed": (READY, "see `flowtag status`: do engines call the hook, do its runs fail?"),
    "spool_unwritable": (READY, "see the spool's disk: full, read-only, broken?"),
    "sink_failing": (DEGRADED, "see the sink's other end; its records wait in the spool"),
    "identity_stale": (DEGRADED, "see `flowtag check`, and who renews the certificate"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """name: of KINDS; text: one line."""

    name: str
    text: str

    @property
    def severity(self) -> str:
        return KINDS[self.name][0]

    @property
    def hint(self) -> str:
        return KINDS[self.name][1]
