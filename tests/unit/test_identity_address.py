# SPDX-License-Identifier: Apache-2.0
"""Canonical addresses."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import address


@given(st.ip_addresses(v=4))
def test_ipv4_is_mapped_and_printed_dotted(ip: ipaddress.IPv4Address) -> None:
    canonical = address.from_text(str(ip))
    assert canonical == address.canonical(ip.packed) == bytes(10) + b"\xff\xff" + ip.packed
    assert address.from_text(f"::ffff:{ip}") == canonical
    assert address.is_ipv4(canonical)
    assert address.to_text(canonical) == str(ip)


@given(st.ip_addresses(v=6))
def test_ipv6_round_trips(ip: ipaddress.IPv6Address) -> None:
    canonical = address.from_text(str(ip))
    assert canonical == ip.packed
    assert address.is_ipv4(canonical) == (ip.ipv4_mapped is not None)
    assert address.from_text(address.to_text(canonical)) == canonical


@pytest.mark.parametrize("text", ["", "1.2.3", "1.2.3.4.5", "::g", "fe80::1%eth0", "a\0b", "01.2.3.4"])
def test_from_text_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        address.from_text(text)


@pytest.mark.parametrize("size", [0, 3, 5, 15, 17])
def test_canonical_wrong_length(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes"):
        address.canonical(bytes(size))
