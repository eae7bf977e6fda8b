# SPDX-License-Identifier: Apache-2.0
"""Pinned maps without the kernel programs: what the hook and the claims write, or another layout."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bpf import abi
from identity.pinned import expected

WRITTEN = ("ft_workload", "ft_cgroup", "ft_netns")


def make_map(directory: Path, name: str, *, entries: int = 1024, kind: str = "hash", value: int = 0) -> None:
    """Create and pin one map; `value` bytes large instead of what the layout says."""
    _, key_size, value_size = expected(name)
    directory.mkdir(exist_ok=True)
    sizes = ["key", str(key_size), "value", str(value or value_size), "entries", str(entries)]
    command = ["bpftool", "map", "create", str(directory / name), "type", kind, *sizes]
    subprocess.run([*command, "name", name], check=True)


def make_maps(directory: Path) -> None:
    """The maps that the hook writes."""
    for name in WRITTEN:
        make_map(directory, name)
    make_map(directory, "ft_gap", kind="array", entries=1)


def entry(number: int) -> bytes:
    """A key of ft_workload, ft_cgroup or ft_netns."""
    return abi.ID.pack(number)
