# SPDX-License-Identifier: Apache-2.0
"""Text of others for a terminal: names, labels and comm come from tenants.

An escape sequence in a name would be the terminal's to obey, and letters that run from right to left
reorder what stands beside them (unicode.org/reports/tr36, 3.1): neither gets there as it is.
"""

from __future__ import annotations

import re
import unicodedata

_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_OTHER = re.compile(r"[^\n\x20-\x7e]")


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _harmless(char: str) -> bool:
    """Printable: no control, format, surrogate or unassigned character, no line end; and left to right."""
    return char.isprintable() and unicodedata.bidirectional(char) not in _RIGHT_TO_LEFT


def text(value: str) -> str:
    """One cell of a table: what a terminal would not just show is escaped."""
    if value.isascii() and value.isprintable():
        return value
    return "".join(char if _harmless(char) else _escape(char) for char in value)


def json_text(lines: str) -> str:
    """JSON lines that mean the same and have nothing in them that a terminal would obey."""
    if lines.isascii() and "\x7f" not in lines:
        return lines  # JSON itself has escaped the other controls
    return _OTHER.sub(_json_escape, lines)


def _json_escape(match: re.Match[str]) -> str:
    char = match[0]
    if char.isprintable():
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def width(value: str) -> int:
    """How many columns a terminal needs for it (unicode.org/reports/tr11)."""
    if value.isascii():
        return len(value)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in value
    )


def fit(value: str, room: int) -> str:
    """Escaped, and cut or padded to `room` columns; the end of a name tells more than its middle."""
    value = text(value)
    if width(value) > room:
        head = _cut(value, (room - 1) // 2)
        tail = _cut(value[::-1], room - 1 - width(head))[::-1]
        value = f"{head}~{tail}"
    return value + " " * (room - width(value))


def _cut(value: str, room: int) -> str:
    kept = 0
    for char in value:
        room -= width(char)
        if room < 0:
            break
        kept += 1
    return value[:kept]
