# SPDX-License-Identifier: Apache-2.0
"""The errors of flowtag.

FlowtagError        anything that a person can act on: one line, and a hint where there is one
  LoadError         the kernel refused a program or a map; carries libbpf's log
  LayoutError       a pinned map has another layout than this version writes
"""

from __future__ import annotations


class FlowtagError(Exception):
    """What was being done, to which object, and the cause; `hint` says what the reader can do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class LoadError(FlowtagError):
    """libbpf or the verifier refused; `log` is what they said."""

    def __init__(self, message: str, log: str = "", hint: str = "") -> None:
        super().__init__(message, hint)
        self.log = log


class LayoutError(FlowtagError):
    """A pinned map of another layout: never reused."""
