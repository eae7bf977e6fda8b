# SPDX-License-Identifier: Apache-2.0
"""How established connections end: end reason, bytes, segments and times at both ends.

Not knowable from the close alone, so not tested: a reset that meets a time-wait socket (the flow
ended with its FIN before), and data that comes after close() while the FIN is not yet acknowledged,
which the kernel answers with a reset but leaves no trace of on the socket.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

from tests.kernel.pair import (
    CLOSE_WAIT,
    CLOSED,
    FIN_WAIT1,
    FIN_WAIT2,
    PORT,
    Pair,
    linger_zero,
    state,
    transfer,
    until,
)

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
CLIENT_OR_SERVER = pytest.mark.parametrize("first", [0, 1], ids=["client", "server"])


@FAMILIES
@CLIENT_OR_SERVER
def test_fin_from_either_side_first(pair: Pair, family: socket.AddressFamily, first: int) -> None:
    ends = pair.connect(family)
    transfer(ends[0], ends[1], 70_001)
    transfer(ends[1], ends[0], 30_011)
    ends[first].close()
    until(lambda: state(ends[1 - first]) == CLOSE_WAIT)
    ends[1 - first].close()
    client, server = pair.ends(sent=70_001, received=30_011)
    assert client.end == server.end == "fin"
    assert client.peer == (pair.address(family), PORT)
    assert client.local[0] == (pair.client.ipv6 if family == socket.AF_INET6 else pair.client.ipv4)
    assert (client if first == 0 else server).time_end <= (server if first == 0 else client).time_end


def test_fin_without_data_counts_every_segment(pair: Pair) -> None:
    client_end, server_end = pair.connect()
    client_end.close()
    # The client's full socket is gone as soon as its FIN is acknowledged (FIN_WAIT2).
    pair.watch.flows(pair.client, count=1)
    server_end.close()
    client, server = pair.ends(sent=0, received=0)
    # SYN, ACK, FIN; the last ACK is the time-wait socket's, which also took the server's FIN.
    assert (client.segments_sent, client.segments_received) == (3, 2)
    # SYN-ACK, ACK of the FIN, FIN.
    assert (server.segments_sent, server.segments_received) == (3, 4)
    assert client.end == server.end == "fin"
    assert client.time_end <= server.time_end


def test_fin_of_both_at_once(pair: Pair) -> None:
    ends = pair.connect()
    transfer(ends[0], ends[1], 1_000)
    for namespace in (pair.client, pair.server):
        pair.drop(namespace, "tcp", "flags", "&", "fin", "==", "fin", "drop")
    for end in ends:
        end.shutdown(socket.SHUT_WR)
    assert [state(end) for end in ends] == [FIN_WAIT1, FIN_WAIT1]
    for namespace in (pair.client, pair.server):
        pair.undrop(namespace)
    until(lambda: [state(end) for end in ends] == [CLOSED, CLOSED])
    client, server = pair.ends(sent=1_000, received=0, lost=True)
    assert client.end == server.end == "fin"
    for end in ends:
        end.close()


def test_shutdown_held_until_the_peers_fin(pair: Pair) -> None:
    client_end, server_end = pair.connect()
    transfer(client_end, server_end, 10)
    client_end.shutdown(socket.SHUT_WR)
    until(lambda: state(client_end) == FIN_WAIT2)
    server_end.close()
    until(lambda: state(client_end) == CLOSED)  # not dead: the descriptor is still open
    client, server = pair.ends(sent=10, received=0)
    assert client.end == server.end == "fin"
    client_end.close()
    pair.flows(2)


@CLIENT_OR_SERVER
def test_half_close_with_data_after(pair: Pair, first: int) -> None:
    ends = pair.connect()
    transfer(ends[first], ends[1 - first], 1_234)
    ends[first].shutdown(socket.SHUT_WR)
    assert ends[1 - first].recv(1) == b""
    transfer(ends[1 - first], ends[first], 200_003)
    ends[1 - first].close()
    assert ends[first].recv(1) == b""
    ends[first].close()
    sent, received = (1_234, 200_003) if first == 0 else (200_003, 1_234)
    client, server = pair.ends(sent=sent, received=received)
    assert client.end == server.end == "fin"


@FAMILIES
@CLIENT_OR_SERVER
def test_reset_by_linger_zero(pair: Pair, family: socket.AddressFamily, first: int) -> None:
    ends = pair.connect(family)
    transfer(ends[0], ends[1], 5_000)
    transfer(ends[1], ends[0], 6_000)
    linger_zero(ends[first])
    ends[first].close()
    until(lambda: state(ends[1 - first]) == CLOSED)
    ends[1 - first].close()
    records = pair.ends(sent=5_000, received=6_000)
    assert records[first].end == "rst_sent"
    assert records[1 - first].end == "rst_received"


@CLIENT_OR_SERVER
def test_reset_by_unread_data(pair: Pair, first: int) -> None:
    ends = pair.connect()
    ends[1 - first].sendall(bytes(777))
    ends[first].recv(1, socket.MSG_PEEK)
    ends[first].close()
    until(lambda: state(ends[1 - first]) == CLOSED)
    ends[1 - first].close()
    sent, received = (0, 777) if first == 0 else (777, 0)
    records = pair.ends(sent=sent, received=received)
    assert records[first].end == "rst_sent"
    assert records[1 - first].end == "rst_received"


def test_reset_in_close_wait(pair: Pair) -> None:
    """The client's error is EPIPE, not ECONNRESET."""
    client_end, server_end = pair.connect()
    server_end.shutdown(socket.SHUT_WR)
    until(lambda: state(client_end) == CLOSE_WAIT)
    client_end.sendall(bytes(9))
    server_end.recv(1, socket.MSG_PEEK)
    server_end.close()  # FIN_WAIT2 with unread data
    until(lambda: state(client_end) == CLOSED)
    assert client_end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 32
    client_end.close()
    client, server = pair.ends(sent=9, received=0)
    assert (client.end, server.end) == ("rst_received", "rst_sent")


def test_reset_in_fin_wait2(pair: Pair) -> None:
    client_end, server_end = pair.connect()
    client_end.shutdown(socket.SHUT_WR)
    until(lambda: state(client_end) == FIN_WAIT2)
    linger_zero(server_end)
    server_end.close()
    until(lambda: state(client_end) == CLOSED)
    client_end.close()
    client, server = pair.ends(sent=0, received=0)
    assert (client.end, server.end) == ("rst_received", "rst_sent")


def test_reset_of_connections_that_nobody_accepted(pair: Pair) -> None:
    listener = pair.listen()
    client_end = pair.unconnected()
    client_end.connect((pair.server.ipv4, PORT))
    client_end.sendall(bytes(50))
    listener.close()
    until(lambda: state(client_end) == CLOSED)
    client_end.close()
    client, server = pair.ends(sent=50, received=0)
    assert (client.end, server.end) == ("rst_received", "rst_sent")


def test_destroyed_by_sock_diag(pair: Pair) -> None:
    client_end, server_end = pair.connect()
    transfer(client_end, server_end, 300)
    pair.client.run("ss", "-K", "dst", pair.server.ipv4, "dport", "=", str(PORT))
    until(lambda: state(server_end) == CLOSED)
    client_end.close()
    server_end.close()
    client, server = pair.ends(sent=300, received=0)
    assert (client.end, server.end) == ("rst_sent", "rst_received")


def _orphan(pair: Pair, listener: socket.socket) -> tuple[subprocess.Popen[str], socket.socket]:
    """A process that has sent 4,000 bytes, and the server's end of its connection."""
    script = (
        "import socket, sys\n"
        "open('/proc/self/comm', 'w').write('orphan-maker')\n"
        f"s = socket.create_connection(({pair.server.ipv4!r}, {PORT}))\n"
        "s.sendall(bytes(4000)); print('sent', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        pair.client.command(sys.executable, "-I", "-c", script),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    server_end = pair.accept(listener)
    assert process.stdout
    assert process.stdout.readline() == "sent\n"
    assert server_end.recv(4000, socket.MSG_WAITALL) == bytes(4000)
    return process, server_end


def test_killed_process(pair: Pair) -> None:
    with pair.listen() as listener:
        process, server_end = _orphan(pair, listener)
    with process:
        process.send_signal(signal.SIGKILL)
    assert server_end.recv(1) == b""
    server_end.close()
    client, server = pair.ends(sent=4_000, received=0)
    assert client.end == server.end == "fin"
    assert (client.pid, client.comm) == (process.pid, "orphan-maker")


def test_killed_process_whose_peer_is_gone(pair: Pair) -> None:
    """The orphaned socket retransmits its FIN in vain: nobody's process is left to see the timeout."""
    pair.client.sysctl("ipv4.tcp_orphan_retries", "1")
    with pair.listen() as listener:
        process, server_end = _orphan(pair, listener)
    pair.drop(pair.server, "tcp", "dport", str(PORT), "drop")
    with process:
        process.send_signal(signal.SIGKILL)
    (client,) = pair.watch.flows(pair.client, count=1)
    assert client.end == "timeout"
    assert (client.bytes_sent, client.bytes_received) == (4_000, 0)
    assert client.segments_retransmitted >= 1
    assert (client.pid, client.comm) == (process.pid, "orphan-maker")
    linger_zero(server_end)
    server_end.close()
    assert pair.ends(sent=4_000, received=0, lost=True)[1].end == "rst_sent"


def test_timeout_of_unacknowledged_data(pair: Pair) -> None:
    client_end, server_end = pair.connect()
    transfer(client_end, server_end, 100)
    client_end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
    pair.drop(pair.server, "tcp", "dport", str(PORT), "drop")
    client_end.sendall(bytes(23))
    until(lambda: state(client_end) == CLOSED)
    client_end.close()
    pair.undrop(pair.server)
    server_end.close()  # its FIN meets a socket that is gone
    client, server = pair.flows(2)
    assert (client.end, server.end) == ("timeout", "rst_received")
    assert client.bytes_sent == 123  # sent, if never delivered
    assert client.segments_retransmitted >= 1
    assert server.bytes_received == 100


def test_timeout_of_keepalive(pair: Pair) -> None:
    client_end, server_end = pair.connect()
    for option, value in (
        (socket.TCP_KEEPIDLE, 1),
        (socket.TCP_KEEPINTVL, 1),
        (socket.TCP_KEEPCNT, 1),
    ):
        client_end.setsockopt(socket.IPPROTO_TCP, option, value)
    client_end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    pair.drop(pair.server, "tcp", "dport", str(PORT), "drop")
    until(lambda: state(client_end) == CLOSED)
    client_end.close()
    linger_zero(server_end)
    server_end.close()
    client, _ = pair.ends(sent=0, received=0, lost=True)
    assert client.end == "timeout"


def test_timeout_while_icmp_says_unreachable(pair: Pair) -> None:
    """Once established, ICMP is only a hint: the kernel gives it as the reason when it gives up."""
    client_end, server_end = pair.connect()
    client_end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500)
    reject = ("tcp", "dport", str(PORT), "reject", "with", "icmp", "host-unreachable")
    pair.drop(pair.server, *reject)
    client_end.sendall(bytes(23))
    until(lambda: state(client_end) == CLOSED)
    client_end.close()
    linger_zero(server_end)
    server_end.close()
    client, server = pair.flows(2)
    assert (client.end, client.bytes_sent) == ("unreachable", 23)
    assert (server.end, server.bytes_received) == ("rst_sent", 0)
