# SPDX-License-Identifier: Apache-2.0
"""What the kernel side counted: ft_count, each counter summed over CPUs."""

from __future__ import annotations

from bpf import abi
from bpf.syscall import Map


def one(count_map: Map, name: str) -> int:
    """A counter by its name in abi.COUNTERS."""
    value = count_map.get(abi.INDEX.pack(abi.COUNTERS.index(name))) or b""
    return sum(int.from_bytes(value[i : i + 8], "little") for i in range(0, len(value), 8))


def read(count_map: Map) -> dict[str, int]:
    """Every counter by name."""
    return {name: one(count_map, name) for name in abi.COUNTERS}
