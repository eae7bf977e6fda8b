# SPDX-License-Identifier: Apache-2.0
"""What the kernel programs count, and how full their ring is."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric

from bpf import loaded
from bpf.syscall import Map
from exporter import counters
from exporter.metrics import family
from exporter.metrics.exposition import Family
from exporter.programs import CGROUP_PROGRAMS, FLOW_PROGRAMS, Programs, link_path
from exporter.ring import Ring

PREFIX = "flowtag_kernel_"


def kernel(programs: Programs, count_map: Map, ring: Ring) -> Family:
    """Every counter of ft_count under its own name: what a program begins to count is here without more."""

    def collect() -> Iterator[Metric]:
        for name, value in counters.read(count_map).items():
            text = f"The kernel programs' counter {name} (ft_count in docs/maps.md) since the maps were made."
            yield family.counter(f"{PREFIX}{name}", text, value)
        yield family.counters(
            "flowtag_kernel_recursion_misses",
            "Events that the kernel's recursion guard kept from a program since it was loaded.",
            "program",
            dict(_misses(programs.directory)),
        )
        # The consumer first: it cannot overtake the producer meanwhile.
        consumer = ring.consumer
        yield family.gauge(
            "flowtag_ring_waiting_bytes",
            "Bytes of the ring that the exporter has not taken yet, or whose records are not safe yet.",
            min(ring.producer - consumer, ring.size),
        )
        yield family.gauge(
            "flowtag_ring_size_bytes", "Size of the ring between kernel and exporter.", ring.size
        )
        yield family.gauge(
            "flowtag_cgroups_incomplete",
            "1 while ft_cgroup is known to be incomplete, so that host flows without a claim are nobody's.",
            programs.degraded(),
        )

    return collect


def _misses(directory: str) -> Iterator[tuple[str, int]]:
    for name in CGROUP_PROGRAMS + FLOW_PROGRAMS:
        try:
            yield name, loaded.link(link_path(directory, name)).misses
        except OSError:
            continue  # its pin was removed, which flowtag_problem says
