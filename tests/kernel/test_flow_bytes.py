# SPDX-License-Identifier: Apache-2.0
"""Bytes and segments, against traffic of known size."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.kernel.pair import PORT, Pair, transfer

# Around nothing, one segment (MSS 1448 and 1428), one GSO packet, and beyond.
SIZES = (0, 1, 1_427, 1_428, 1_429, 1_447, 1_448, 1_449, 65_535, 65_536, 1_000_003)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_sizes_around_the_segment(pair: Pair, family: socket.AddressFamily) -> None:
    wanted = {}
    with pair.listen(family) as listener:
        for sent, received in zip(SIZES, reversed(SIZES), strict=True):
            client = pair.unconnected(family)
            client.connect((pair.address(family), PORT))
            server = pair.accept(listener)
            wanted[client.getsockname()[1]] = (sent, received)
            transfer(client, server, sent)
            transfer(server, client, received)
            (client if sent % 2 else server).close()
            (server if sent % 2 else client).close()
    flows = pair.flows(2 * len(SIZES))
    clients = {flow.local[1]: flow for flow in flows[: len(SIZES)]}
    servers = {flow.peer[1]: flow for flow in flows[len(SIZES) :]}
    assert clients.keys() == servers.keys() == wanted.keys()
    for port, (sent, received) in wanted.items():
        pair.check(clients[port], servers[port], sent=sent, received=received)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_megabytes_both_ways_at_once(pair: Pair, family: socket.AddressFamily) -> None:
    sent, received = 12_345_678, 8_765_432
    client_end, server_end = pair.connect(family)
    there = threading.Thread(target=transfer, args=(client_end, server_end, sent))
    there.start()
    transfer(server_end, client_end, received)
    there.join()
    client_end.close()
    server_end.close()
    client, server = pair.ends(sent=sent, received=received, lost=True)
    # MTU 1500 on the bridge: no segment is larger than 1,460 bytes of data.
    assert client.segments_sent >= sent // 1460
    assert server.segments_sent >= received // 1460
    assert server.segments_received >= sent // 1460
    assert client.segments_received >= received // 1460


@pytest.mark.parametrize("side", ["client", "server"])
def test_retransmitted_bytes_count_once(pair: Pair, side: str) -> None:
    """Every 23rd segment of the sender is dropped, so much is sent twice."""
    client_end, server_end = pair.connect()
    ends = (client_end, server_end) if side == "client" else (server_end, client_end)
    target = pair.server if side == "client" else pair.client
    pair.drop(target, *("numgen", "inc", "mod", "23", "==", "7", "drop"))
    transfer(*ends, 3_000_001)
    pair.undrop(target)
    transfer(ends[1], ends[0], 2_000)
    client_end.close()
    server_end.close()
    sizes = (3_000_001, 2_000) if side == "client" else (2_000, 3_000_001)
    client, server = pair.ends(sent=sizes[0], received=sizes[1], lost=True)
    sender = client if side == "client" else server
    assert sender.segments_retransmitted > 10
    assert sender.segments_sent > 3_000_001 // 1460 + sender.segments_retransmitted - 10


def test_lost_syn_and_lost_fin(pair: Pair) -> None:
    """The first SYN and the first FIN are dropped; neither is a byte."""
    syn_or_fin = ("tcp", "flags", "&", "(syn|fin)", "!=", "0")
    pair.drop(pair.server, *syn_or_fin, "numgen", "inc", "mod", "2", "==", "0", "drop")
    client_end, server_end = pair.connect()
    transfer(client_end, server_end, 500)
    client_end.close()
    assert server_end.recv(1) == b""
    server_end.close()
    client, server = pair.ends(sent=500, received=0, lost=True)
    assert client.segments_retransmitted >= 2
    assert client.connect_us is not None
    assert client.connect_us >= 900_000  # the first SYN is sent again after a second
    assert client.end == server.end == "fin"
