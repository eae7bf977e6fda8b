# SPDX-License-Identifier: Apache-2.0
"""The programs behind pinned links.

Source: linux/include/uapi/linux/bpf.h (struct bpf_prog_info) and /proc/PID/fdinfo of links and programs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from bpf import syscall

_NAME = slice(64, 80)  # bpf_prog_info.name


@dataclass(frozen=True, slots=True)
class Link:
    """A pinned link: its id, where it is attached, and the program that it runs.

    misses counts the events that the kernel's recursion guard kept from the program.
    """

    id: int
    attached_to: str
    program_id: int
    program: str
    misses: int


def link(path: str) -> Link:
    """The link pinned at `path`; OSError names what could not be read."""
    fd = syscall.obj_get(path)
    try:
        info = _fdinfo(fd)
    finally:
        os.close(fd)
    if "link_id" not in info:
        raise OSError(22, "not a link", path)
    program_id = int(info["prog_id"])
    program = syscall.program_by_id(program_id)
    try:
        about = _fdinfo(program)
        name = syscall.obj_info(program, _NAME.stop, f"program {program_id}")[_NAME]
    finally:
        os.close(program)
    return Link(
        id=int(info["link_id"]),
        attached_to=info.get("tp_name") or info["link_type"],
        program_id=program_id,
        program=name.rstrip(b"\0").decode(errors="replace"),
        misses=int(about.get("recursion_misses", "0")),
    )


def _fdinfo(fd: int) -> dict[str, str]:
    with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8", errors="replace") as file:
        pairs = (line.partition(":") for line in file)
        return {key: value.strip() for key, _, value in pairs}
