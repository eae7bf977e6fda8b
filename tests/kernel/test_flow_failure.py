# SPDX-License-Identifier: Apache-2.0
"""Connections that never come to be: one record from the client, with the reason; and sockets that
make none at all.

Not knowable, so not tested as records: a connect() without a route (the kernel refuses it before the
socket changes its state), and a handshake that overflowed the server's queue (no socket is made for it).
"""

from __future__ import annotations

import errno
import socket

import pytest

from tests.kernel.pair import (
    CLOSED,
    PORT,
    SYN_SENT,
    Pair,
    boottime,
    disconnect,
    state,
    until,
)
from tests.rig.kernel import Flow


def _check_nothing_came(flow: Flow, pair: Pair, port: int = PORT) -> None:
    assert flow.role == "client"
    assert flow.peer == (pair.server.ipv4, port)
    assert flow.local[0] == pair.client.ipv4
    assert flow.local[1] not in (0, port)
    assert (flow.bytes_sent, flow.bytes_received) == (0, 0)
    assert flow.connect_us is None
    assert flow.rtt_us is None
    assert pair.began <= flow.time_open <= flow.time_end <= boottime()


def test_refused(pair: Pair) -> None:
    client = pair.unconnected()
    assert client.connect_ex((pair.server.ipv4, PORT)) == errno.ECONNREFUSED
    client.close()
    (flow,) = pair.flows(1)
    assert flow.end == "refused"
    assert (flow.segments_sent, flow.segments_received) == (1, 1)
    _check_nothing_came(flow, pair)


def test_refused_over_ipv6(pair: Pair) -> None:
    client = pair.unconnected(socket.AF_INET6)
    assert client.connect_ex((pair.server.ipv6, PORT)) == errno.ECONNREFUSED
    client.close()
    (flow,) = pair.flows(1)
    assert (flow.end, flow.peer) == ("refused", (pair.server.ipv6, PORT))
    assert flow.local[0] == pair.client.ipv6


@pytest.mark.parametrize("limit", ["user_timeout", "syn_retries"])
def test_timeout_of_the_syn(pair: Pair, limit: str) -> None:
    pair.drop(pair.server, "tcp", "dport", str(PORT), "drop")
    client = pair.unconnected()
    if limit == "user_timeout":
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
    else:
        pair.client.sysctl("ipv4.tcp_syn_retries", "1")
    assert client.connect_ex((pair.server.ipv4, PORT)) == errno.ETIMEDOUT
    client.close()
    (flow,) = pair.flows(1)
    assert flow.end == "timeout"
    assert flow.segments_received == 0
    assert flow.segments_sent == 1 + flow.segments_retransmitted
    assert flow.time_end - flow.time_open >= 300_000_000
    _check_nothing_came(flow, pair)


def test_unreachable_by_icmp(pair: Pair) -> None:
    """What routers and firewalls say while the SYN is under way; a closed port said by ICMP is refused."""
    wanted = {
        7001: ("icmp", "host-unreachable", "unreachable"),
        7002: ("icmp", "net-unreachable", "unreachable"),
        7003: ("icmp", "admin-prohibited", "unreachable"),
        7004: ("icmp", "prot-unreachable", "unreachable"),
        7005: ("icmp", "port-unreachable", "refused"),
        7006: ("icmpv6", "no-route", "unreachable"),
        7007: ("icmpv6", "addr-unreachable", "unreachable"),
        7008: ("icmpv6", "admin-prohibited", "unreachable"),
        7009: ("icmpv6", "port-unreachable", "refused"),
    }
    clients = []
    for port, (kind, code, _) in wanted.items():
        family = socket.AF_INET if kind == "icmp" else socket.AF_INET6
        match = ("meta", "nfproto", "ipv4" if kind == "icmp" else "ipv6", "tcp", "dport", str(port))
        pair.drop(pair.server, *match, "reject", "with", kind, "type", code)
        client = pair.unconnected(family)
        client.setblocking(False)
        client.connect_ex((pair.address(family), port))
        clients.append(client)
    flows = pair.flows(len(wanted))
    for client in clients:
        client.close()
    assert {flow.peer[1]: flow.end for flow in flows} == {p: end for p, (_, _, end) in wanted.items()}
    for flow in flows:
        if flow.peer[1] < 7006:
            _check_nothing_came(flow, pair, flow.peer[1])


def test_aborted_by_close(pair: Pair) -> None:
    pair.drop(pair.server, "tcp", "dport", str(PORT), "drop")
    client = pair.unconnected()
    client.setblocking(False)
    assert client.connect_ex((pair.server.ipv4, PORT)) == errno.EINPROGRESS
    assert state(client) == SYN_SENT
    client.close()
    (flow,) = pair.flows(1)
    assert flow.end == "aborted"
    _check_nothing_came(flow, pair)


def test_aborted_by_disconnect(pair: Pair) -> None:
    pair.drop(pair.server, "tcp", "dport", str(PORT), "drop")
    client = pair.unconnected()
    client.setblocking(False)
    for _ in range(3):
        client.connect_ex((pair.server.ipv4, PORT))
        disconnect(client)
    client.close()
    flows = pair.flows(3)
    assert [flow.end for flow in flows] == ["aborted"] * 3
    assert [flow.generation for flow in flows] == [0, 1, 2]
    assert len({flow.cookie for flow in flows}) == 1


def test_aborted_by_sock_diag(pair: Pair) -> None:
    """The error is the one of a reset, but a SYN is taken back silently."""
    pair.drop(pair.server, "tcp", "dport", str(PORT), "drop")
    client = pair.unconnected()
    client.setblocking(False)
    client.connect_ex((pair.server.ipv4, PORT))
    pair.client.run("ss", "-K", "state", "syn-sent", "dport", "=", str(PORT))
    until(lambda: state(client) == CLOSED)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNABORTED
    client.close()
    (flow,) = pair.flows(1)
    assert flow.end == "aborted"


def test_no_port_left(pair: Pair) -> None:
    """The connect fails before it has a port: the record says 0, never another connection's port."""
    pair.client.sysctl("ipv4.ip_local_port_range", "40000 40001")
    pair.client.sysctl("ipv4.ip_local_reserved_ports", "40001")
    with pair.listen() as listener:
        first, second = pair.unconnected(), pair.unconnected()
        first.connect((pair.server.ipv4, PORT))
        assert second.connect_ex((pair.server.ipv4, PORT)) == errno.EADDRNOTAVAIL
        second.close()
        (flow,) = pair.flows(1)
        assert (flow.end, flow.local, flow.segments_sent) == ("aborted", (pair.client.ipv4, 0), 0)
        pair.accept(listener).close()
        first.close()
    pair.flows(3)


def test_no_record_without_a_route(pair: Pair) -> None:
    with pair.unconnected() as client:
        assert client.connect_ex(("198.51.100.1", PORT)) == errno.ENETUNREACH
    pair.flows(0)


def test_no_record_of_listeners_and_idle_sockets(pair: Pair) -> None:
    pair.unconnected().close()
    pair.unconnected(socket.AF_INET6).close()
    with pair.unconnected() as bound:
        bound.bind(("", PORT))
    pair.listen().close()
    with pair.listen(socket.AF_INET6) as listener:
        listener.shutdown(socket.SHUT_RDWR)  # LISTEN to CLOSE
        listener.listen(1)
    pair.flows(0)


def test_listener_that_connects_afterwards_is_a_client(pair: Pair) -> None:
    with pair.listen() as listener, pair.unconnected() as client:
        client.bind(("", 6001))
        client.listen(1)
        client.shutdown(socket.SHUT_RDWR)
        client.connect((pair.server.ipv4, PORT))
        server = pair.accept(listener)
    server.close()
    client_flow, _ = pair.ends(sent=0, received=0)
    assert client_flow.local == (pair.client.ipv4, 6001)
