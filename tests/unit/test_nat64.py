# SPDX-License-Identifier: Apache-2.0
"""NAT64 addresses: the table of RFC 6052 section 2.4, and every length by property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.error import FlowtagError
from identity import address, nat64

TABLE = [
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
    ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
]
IPV4 = bytes([192, 0, 2, 33])


@pytest.mark.parametrize(("prefix", "text"), TABLE)
def test_ipv4_of_rfc_6052(prefix: str, text: str) -> None:
    assert nat64.ipv4(address.from_text(text), (nat64.parse(prefix),)) == IPV4


@given(st.sampled_from(TABLE), st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
def test_ipv4_is_what_was_put_in(row: tuple[str, str], ipv4: bytes, suffix: bytes) -> None:
    prefix = nat64.parse(row[0])
    made = bytearray(suffix)  # what stands behind the address does not count
    made[: len(prefix.start)] = prefix.start
    made[8] = 0
    for position, byte in zip(prefix.positions, ipv4, strict=True):
        made[position] = byte
    assert prefix.ipv4(bytes(made)) == ipv4
    made[8] = 1  # bits 64 to 71
    assert prefix.ipv4(bytes(made)) is None


@pytest.mark.parametrize("text", ["2001:db9::1", "64:ff9b:1::192.0.2.33", "192.0.2.33", "::"])
def test_ipv4_outside_every_prefix(text: str) -> None:
    prefixes = tuple(nat64.parse(prefix) for prefix, _ in TABLE)
    assert nat64.ipv4(address.from_text(text), prefixes) is None


def test_ipv4_by_the_longest_prefix() -> None:
    short, long = nat64.parse("2001:db8::/32"), nat64.parse("2001:db8:122:344::/96")
    for prefixes in ((short, long), (long, short)):
        assert nat64.ipv4(address.from_text("2001:db8:122:344::192.0.2.33"), prefixes) == IPV4
    assert repr(short) == "2001:db8::/32"
    assert repr(long) == "2001:db8:122:344::/96"


@pytest.mark.parametrize(
    "text",
    [
        *("", "/96", "64:ff9b::", "64:ff9b::/", "64:ff9b::/97", "64:ff9b::/33", "64:ff9b::/096", "x/96"),
        *("192.0.2.0/96", "::ffff:192.0.2.0/96", "64:ff9b::1/96", "2001:db8:1::/32"),
        "64:ff9b:0:0:100::/96",  # bits 64 to 71
    ],
)
def test_parse_no_prefix_of_rfc_6052(text: str) -> None:
    with pytest.raises(FlowtagError, match="reading the NAT64 prefix") as caught:
        nat64.parse(text)
    assert caught.value.hint
