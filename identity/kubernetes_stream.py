# SPDX-License-Identifier: Apache-2.0
"""What the API server sends, cut into pieces small enough to decode: a watch's lines, a list's objects.

A node's list can be a hundred megabytes, if somebody fills the pods' specs; so it is never held whole.
Only the object that is being read is, and of that no more than `limit` bytes: for a longer one comes None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_OUTSIDE = re.compile(rb'["{}\[\]]')
_IN_STRING = re.compile(rb'["\\]')


def lines(chunks: Iterable[bytes], limit: int) -> Iterator[bytes | None]:
    """Each whole line that is not empty; one that the end cuts off is not told."""
    line = _Piece(limit)
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        line.add(first)
        for part in others:
            content = line.take()
            if content != b"":
                yield content
            line.add(part)


def objects(chunks: Iterable[bytes], limit: int) -> Iterator[bytes | None]:
    """The objects right in a JSON document's root, and those in lists right in its root.

    Of a list: its metadata, and then its items. ValueError if the document is cut off or out of balance.
    """
    found = _Piece(limit)
    depth = 0
    level = 0  # the depth around the object that is being collected; 0 is none
    listed = False  # in a list right in the root
    in_string = False
    skip = 0  # an escaped byte that is in the next chunk
    for chunk in chunks:
        at, skip = skip, 0
        begin = 0
        while match := (_IN_STRING if in_string else _OUTSIDE).search(chunk, at):
            at = match.end()
            byte = match[0]
            if byte == b"\\":
                at += 1
                skip = max(0, at - len(chunk))
            elif byte == b'"':
                in_string = not in_string
            elif byte in b"{[":
                if byte == b"{" and not level and (depth == 1 or (depth == 2 and listed)):
                    level, begin = depth, match.start()
                listed = listed or (byte == b"[" and depth == 1)
                depth += 1
            else:
                depth -= 1
                if depth < 0:
                    raise ValueError("JSON out of balance")
                if level and depth == level:
                    found.add(chunk[begin:at])
                    yield found.take()
                    level = 0
                listed = listed and depth > 1
        if level:
            found.add(chunk[begin:])
    if depth or in_string:
        raise ValueError("JSON that is cut off")


class _Piece:
    """Bytes up to a limit; beyond it they are not kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = bytearray()
        self._long = False

    def add(self, part: bytes) -> None:
        self._long = self._long or len(self._bytes) + len(part) > self._limit
        if self._long:
            self._bytes.clear()
        else:
            self._bytes += part

    def take(self) -> bytes | None:
        """What there was, None if it was too long; empty from now on."""
        content = None if self._long else bytes(self._bytes)
        self._bytes.clear()
        self._long = False
        return content
