# SPDX-License-Identifier: Apache-2.0
"""Addresses as the maps hold them: always 16 bytes, IPv4 as v4-mapped (::ffff:a.b.c.d).

So an AF_INET socket and an AF_INET6 socket that speaks IPv4 meet the same key.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

MAPPED = bytes(10) + b"\xff\xff"


def canonical(packed: bytes) -> bytes:
    """The 16 bytes for 4 or 16 bytes of network order; ValueError for any other length."""
    if len(packed) == 4:
        return MAPPED + packed
    if len(packed) != 16:
        raise ValueError(f"an address of {len(packed)} bytes, not 4 or 16")
    return packed


def is_ipv4(address: bytes) -> bool:
    """Whether a canonical address is an IPv4 one."""
    return address[:12] == MAPPED


def from_text(text: str) -> bytes:
    """The canonical bytes of `192.0.2.1` or `2001:db8::1`; ValueError for anything else."""
    try:
        return canonical(inet_pton(AF_INET6 if ":" in text else AF_INET, text))
    except (OSError, ValueError) as error:
        raise ValueError(f"not an IP address: {text!r}") from error


def to_text(address: bytes) -> str:
    """A canonical address as people write it; v4-mapped ones dotted."""
    if is_ipv4(address):
        return inet_ntop(AF_INET, address[12:])
    return inet_ntop(AF_INET6, canonical(address))
