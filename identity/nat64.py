# SPDX-License-Identifier: Apache-2.0
"""NAT64: the IPv4 address that an IPv6 address stands for, RFC 6052 section 2.2.

A prefix of 32 to 96 bits is followed by the IPv4 address, which steps over bits 64 to 71 (zero).
"""

from __future__ import annotations

from bpf.error import FlowtagError
from identity import address as ip

LENGTHS = (32, 40, 48, 56, 64, 96)
WELL_KNOWN = "64:ff9b::/96"
_RESERVED = 8  # the byte of bits 64 to 71


class Prefix:
    """A NAT64 prefix: its leading bytes and where the four bytes of IPv4 stand behind it."""

    __slots__ = ("length", "positions", "start")

    def __init__(self, start: bytes, length: int) -> None:
        self.length = length
        self.start = start
        first = length // 8
        self.positions = tuple([i for i in range(first, first + 5) if i != _RESERVED][:4])

    def ipv4(self, address: bytes) -> bytes | None:
        """The IPv4 address in a 16-byte address inside this prefix, else None."""
        if address[: len(self.start)] != self.start or address[_RESERVED] != 0:
            return None
        return bytes([address[i] for i in self.positions])

    def __repr__(self) -> str:
        return f"{ip.to_text(self.start.ljust(16, bytes(1)))}/{self.length}"


def parse(text: str) -> Prefix:
    """The prefix written `64:ff9b::/96`; FlowtagError if it is none that RFC 6052 allows."""
    host, slash, length = text.partition("/")
    try:
        address = ip.from_text(host)
    except ValueError:
        address = b""
    if not slash or not address or ip.is_ipv4(address) or length not in map(str, LENGTHS):
        raise FlowtagError(
            f"reading the NAT64 prefix {text!r:.60}: it is none",
            f"write an IPv6 prefix like {WELL_KNOWN}; lengths are {', '.join(map(str, LENGTHS))}",
        )
    size = int(length) // 8
    if any(address[size:]) or address[_RESERVED]:
        raise FlowtagError(
            f"reading the NAT64 prefix {text!r:.60}: bits behind its length, or 64 to 71, are not zero",
            "write the prefix alone (RFC 6052, section 2.2)",
        )
    return Prefix(address[:size], int(length))


def ipv4(address: bytes, prefixes: tuple[Prefix, ...]) -> bytes | None:
    """The four bytes that a 16-byte address stands for, by the longest prefix; None outside all of them."""
    for prefix in sorted(prefixes, key=lambda p: -p.length):
        found = prefix.ipv4(address)
        if found is not None:
            return found
    return None
