# SPDX-License-Identifier: Apache-2.0
"""rtnetlink's answers, whole and damaged."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import netlink
from identity import address


def newaddr(scope: int, *attributes: tuple[int, bytes]) -> bytes:
    body = struct.pack("=BBBBI", 2, 24, 0, scope, 1)
    for kind, value in attributes:
        length = 4 + len(value)
        body += struct.pack("=HH", length, kind) + value + bytes(-length % 4)
    return body


def header(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack("=IHHII", 16 + len(body) if length is None else length, kind, 2, 1, 0) + body


OURS, PEER = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (newaddr(0, (1, OURS)), OURS),
        (newaddr(0, (1, PEER), (2, OURS)), OURS),  # point to point
        (newaddr(0, (3, b"eth0\0"), (1, OURS)), OURS),
        (newaddr(253, (1, OURS)), None),
        (newaddr(254, (1, OURS)), None),
        (newaddr(0, (1, OURS[:3])), None),
        (newaddr(0), None),
        (b"", None),
    ],
)
def test_address_of_a_message(message: bytes, expected: bytes | None) -> None:
    assert netlink.parse(message) == (None if expected is None else address.canonical(expected))


def test_messages_end_where_one_is_cut_off() -> None:
    whole = header(20, newaddr(0, (1, OURS)))
    assert list(netlink.messages(whole + header(3, b"", length=99))) == [(20, newaddr(0, (1, OURS)))]


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    for _, message in netlink.messages(data):
        netlink.parse(message)
    netlink.parse(data)
