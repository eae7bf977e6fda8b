# SPDX-License-Identifier: Apache-2.0
"""The kernel's BTF, as far as the floor needs it: which typedefs there are, which members a struct has.

Source: linux/Documentation/bpf/btf.rst and include/uapi/linux/btf.h.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from struct import Struct
from struct import error as StructError

from bpf.error import FlowtagError

VMLINUX = "/sys/kernel/btf/vmlinux"
HINT = "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y"

_HEADER = Struct("=HBBIIIII")  # magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
_TYPE = Struct("=III")  # name_off, info, size or type
_NAME = Struct("=I")
_MAGIC = 0xEB9F
_STRUCT, _TYPEDEF = 4, 8
# What follows a type: (bytes once, bytes for each of its vlen items), by kind.
_TAIL = {
    1: (4, 0),
    3: (12, 0),
    4: (0, 12),
    5: (0, 12),
    6: (0, 8),
    13: (0, 8),
    14: (4, 0),
    15: (0, 12),
    17: (4, 0),
    19: (0, 12),
}


def require() -> None:
    """FlowtagError where the kernel has no BTF: nothing can be loaded then, and libbpf says less."""
    try:
        with open(VMLINUX, "rb") as file:
            if _HEADER.unpack(file.read(_HEADER.size))[0] == _MAGIC:
                return
    except (OSError, StructError):
        pass
    raise FlowtagError(f"loading the kernel programs: the kernel has no BTF in {VMLINUX}", HINT)


def find(data: bytes, wanted: Iterable[str]) -> set[str]:
    """Those of `wanted` that the BTF in `data` has: `typedef` names, or members as `struct.member`.

    FlowtagError if it is no BTF.
    """
    try:
        return _find(data, set(wanted))
    except (ValueError, IndexError, OverflowError) as error:
        raise FlowtagError(f"reading BTF: {error}") from None


def _find(data: bytes, wanted: set[str]) -> set[str]:
    if len(data) < _HEADER.size:
        raise ValueError(f"{len(data)} bytes")
    magic, _, _, header, type_off, type_len, str_off, str_len = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError(f"no BTF of a {sys.byteorder}-endian machine")
    types = data[header + type_off : header + type_off + type_len]
    strings = data[header + str_off : header + str_off + str_len]
    # Names are in the string section once each, so offsets stand for names.
    names: dict[int, str] = {}
    for name in {part for item in wanted for part in item.split(".")}:
        at = strings.find(b"\0" + name.encode() + b"\0")
        if at >= 0:
            names[at + 1] = name
    found: set[str] = set()
    position = 0
    while position + _TYPE.size <= len(types):
        name_off, info, _ = _TYPE.unpack_from(types, position)
        position += _TYPE.size
        kind, vlen = info >> 24 & 0x1F, info & 0xFFFF
        once, each = _TAIL.get(kind, (0, 0))
        name = names.get(name_off, "")
        if name and kind == _TYPEDEF:
            found.add(name)
        elif name and kind == _STRUCT and position + vlen * each <= len(types):
            for member in range(vlen):
                (member_off,) = _NAME.unpack_from(types, position + member * each)
                if member_off in names:
                    found.add(f"{name}.{names[member_off]}")
        position += once + vlen * each
    return found & wanted
