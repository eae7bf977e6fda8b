# SPDX-License-Identifier: Apache-2.0
"""What the kernel side counted: ft_count, and the events each program was skipped for."""

from __future__ import annotations

from struct import Struct

from bpf import abi
from bpf.syscall import Map, obj_info

# struct bpf_prog_info, linux/bpf.h: run_time_ns, run_cnt, recursion_misses.
_PROG_INFO_SIZE = 216
_RUNS = Struct("=QQQ")
_RUNS_OFFSET = 192


def read(count_map: Map) -> dict[str, int]:
    """Every counter by name, summed over CPUs."""
    totals: dict[str, int] = {}
    for index, name in enumerate(abi.COUNTERS):
        value = count_map.get(abi.INDEX.pack(index)) or b""
        totals[name] = sum(int.from_bytes(value[i : i + 8], "little") for i in range(0, len(value), 8))
    return totals


def recursion_misses(program_fd: int) -> int:
    """How often the program was skipped because it interrupted itself; its backup reports those."""
    info = obj_info(program_fd, _PROG_INFO_SIZE, "program")
    misses: int = _RUNS.unpack_from(info, _RUNS_OFFSET)[2]
    return misses
