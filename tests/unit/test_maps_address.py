# SPDX-License-Identifier: Apache-2.0
"""What `maps lookup` takes for an address, and the kernel's table of TCP sockets."""

from __future__ import annotations

import os
import socket
import sys
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.error import FlowtagError
from exporter import address_lookup, tcp_table
from identity import address


@given(st.ip_addresses(), st.none() | st.integers(0, 65535))
def test_every_address_is_taken_with_and_without_port(ip: object, port: int | None) -> None:
    text = str(ip)
    if port is not None:
        text = f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
    assert address_lookup.parse(text) == (address.from_text(str(ip)), port)


@pytest.mark.parametrize(
    "target",
    [
        "",
        ":",
        ":80",
        "1.2.3",
        "1.2.3.4:",
        "1.2.3.4:x",
        "1.2.3.4:65536",
        "1.2.3.4:+1",
        "[::1",
        "[::1]80",
        "[::1]:",
        "::1:2:3:4:5:6:7:8:9",
        "1.2.3.4:٣",
        "1.2.3.4/8",
        "web",
        "fe80::1%eth0",
        "1.2.3.4\0",
    ],
)
def test_nonsense_is_refused_with_a_hint(target: str) -> None:
    with pytest.raises(FlowtagError) as caught:
        address_lookup.parse(target)
    assert caught.value.hint


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_clear_error(target: str) -> None:
    try:
        packed, port = address_lookup.parse(target)
    except FlowtagError:
        return
    assert len(packed) == 16
    assert port is None or 0 <= port <= 65535


@pytest.mark.skipif(sys.byteorder != "little", reason="the lines below are a little-endian machine's")
def test_lines_of_the_kernels_tables() -> None:
    listening = tcp_table.parse(
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0"
    )
    assert listening == tcp_table.Socket(address.from_text("127.0.0.1"), 8080, "LISTEN", 4711)
    six = tcp_table.parse(
        "   1: B80D0120000000000000000001000000:0050 00000000000000000000000000000000:0000 01"
        " 00000000:00000000 02:000A7D8C 00000000  1000        0 99 2 0"
    )
    assert six == tcp_table.Socket(ip_address("2001:db8::1").packed, 80, "ESTABLISHED", 99)


@given(st.text(max_size=120))
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a line of a TCP table"):
        tcp_table.parse(line)


def test_own_socket_is_in_the_table_with_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (found,) = [s for s in tcp_table.sockets(os.getpid()) if s.port == port]
        assert (address.to_text(found.address), found.state) == ("127.0.0.1", "LISTEN")
        assert tcp_table.holders({found.inode}) == {found.inode: [os.getpid()]}
