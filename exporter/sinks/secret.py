# SPDX-License-Identifier: Apache-2.0
"""Passwords and tokens: in files of their own, read when they are needed, never shown."""

from __future__ import annotations

import os
import stat

from bpf.error import FlowtagError

MOST = 4096  # bytes


def read(path: str) -> str:
    """The file's one line, without its end. OSError if it cannot be read, FlowtagError if it is no secret."""
    # A pipe that nobody writes to would hold us up.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        data = file.read(MOST + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    text = data.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")
    if not text or len(data) > MOST or not text.isascii() or not text.isprintable():
        raise FlowtagError(
            f"reading the secret {path}: not one line of printable ASCII, {MOST} bytes at most"
        )
    return text
