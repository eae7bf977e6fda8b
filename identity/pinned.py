# SPDX-License-Identifier: Apache-2.0
"""The pinned maps: opened by name, and never reused when their layout is not ours."""

from __future__ import annotations

from bpf import abi, syscall
from bpf.error import FlowtagError, LayoutError


def expected(name: str) -> tuple[int, int, int]:
    """The type, key size and value size that this version writes, as syscall.Map reports them."""
    kind, key, value = abi.MAPS[name]
    value_size = value.size if value else 0
    if kind == abi.PERCPU_ARRAY:
        value_size = (value_size + 7) // 8 * 8 * syscall.possible_cpus()
    return kind, key.size if key else 0, value_size


def layout(kind: int, key_size: int, value_size: int) -> str:
    """A layout in words."""
    return f"type {kind}, key {key_size} and value {value_size} bytes"


def open_map(name: str, directory: str = abi.PIN_DIRECTORY) -> syscall.Map:
    """Open the map `name` pinned in `directory`.

    Raises LayoutError if it has another layout, FlowtagError if it cannot be opened; the OSError is
    then the error's __cause__.
    """
    path = f"{directory}/{name}"
    try:
        found = syscall.Map.open(path)
    except FileNotFoundError as error:
        raise FlowtagError(
            f"opening pinned map {path}: it does not exist", "run `flowtag maps create`"
        ) from error
    except PermissionError as error:
        raise FlowtagError(
            f"opening pinned map {path}: {error.strerror}", "run as root or in the group flowtag"
        ) from error
    except OSError as error:
        raise FlowtagError(
            f"opening pinned map {path}: {error.strerror}",
            f"see that {directory} is on a bpf file system, then run `flowtag maps create`",
        ) from error
    want = expected(name)
    have = found.type, found.key_size, found.value_size
    if have != want:
        found.close()
        raise LayoutError(
            f"opening pinned map {path}: it has {layout(*have)}, but layout {abi.LAYOUT} has {layout(*want)}",
            f"another version made it: stop flowtag, remove {directory}, run `flowtag maps create`",
        )
    return found
