# SPDX-License-Identifier: Apache-2.0
"""ASN.1 in BER, as far as signed messages need it: X.690 with indefinite lengths, small and bounded.

`cryptography` reads certificates, but does not verify PKCS #7, whose makers use BER (RFC 5652, 5.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

INTEGER, OCTETS, OID, SEQUENCE, SET = 0x02, 0x04, 0x06, 0x30, 0x31
CONSTRUCTED = 0x20
DEPTH_MAX = 32
_INDEFINITE = -1


class BerError(ValueError):
    """Bytes that are no BER, or more of it than a message has."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element: its tag byte, its content, and all its bytes. definite: its length was given."""

    tag: int
    content: bytes
    raw: bytes
    definite: bool

    def children(self) -> list[Element]:
        """What a constructed element is made of."""
        if not self.tag & CONSTRUCTED:
            raise BerError(f"tag {self.tag:#x} is not constructed")
        return list(_elements(self.content))

    def octets(self) -> bytes:
        """The bytes of an octet string, however many pieces it came in."""
        if self.tag == OCTETS:
            return self.content
        if self.tag != OCTETS | CONSTRUCTED:
            raise BerError(f"tag {self.tag:#x} is no octet string")
        return b"".join(piece.octets() for piece in self.children())

    def expect(self, tag: int) -> Element:
        """The element itself; BerError if it has another tag."""
        if self.tag != tag:
            raise BerError(f"tag {self.tag:#x} where {tag:#x} should be")
        return self


def parse(data: bytes) -> Element:
    """The one element that `data` is, with nothing behind it."""
    element, end = _element(data, 0, 0)
    if end != len(data):
        raise BerError(f"{len(data) - end} bytes behind the end")
    return element


def _elements(content: bytes) -> Iterator[Element]:
    offset = 0
    while offset < len(content):
        element, offset = _element(content, offset, 0)
        yield element


def _element(data: bytes, begin: int, depth: int) -> tuple[Element, int]:
    """The element at `begin`, and where it ends."""
    if depth > DEPTH_MAX:
        raise BerError("nested too deep")
    tag, offset, length = _head(data, begin)
    if length != _INDEFINITE:
        end = offset + length
        if end > len(data):
            raise BerError("ends too early")
        return Element(tag, data[offset:end], data[begin:end], True), end
    if not tag & CONSTRUCTED:
        raise BerError("a primitive element without a length")
    end = offset
    while data[end : end + 2] != b"\0\0":
        _, end = _element(data, end, depth + 1)
    return Element(tag, data[offset:end], data[begin : end + 2], False), end + 2


def _head(data: bytes, begin: int) -> tuple[int, int, int]:
    """Tag, where the content begins, and its length or _INDEFINITE."""
    if begin + 2 > len(data):
        raise BerError("ends too early")
    tag, first = data[begin], data[begin + 1]
    if tag & 0x1F == 0x1F or tag == 0:
        raise BerError(f"tag {tag:#x} is not one of a signed message")
    offset = begin + 2
    if first < 0x80:
        return tag, offset, first
    if first == 0x80:
        return tag, offset, _INDEFINITE
    size = first & 0x7F
    if size > 4 or offset + size > len(data):
        raise BerError("a length that cannot be")
    return tag, offset + size, int.from_bytes(data[offset : offset + size], "big")


def oid(dotted: str) -> bytes:
    """The content of an object identifier's element."""
    first, second, *rest = map(int, dotted.split("."))
    out = bytearray()
    for number in (40 * first + second, *rest):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(number & 0x7F | 0x80)
        out += bytes(reversed(groups))
    return bytes(out)
