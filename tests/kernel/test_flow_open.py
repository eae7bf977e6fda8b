# SPDX-License-Identifier: Apache-2.0
"""The ways in which a connection opens: role, generation, addresses, process and bytes of each.

Not knowable: how often a SYN-ACK was sent (segments_sent of an accepted socket counts it once, as the
kernel counts none: it is sent before the socket exists); which of two sockets that connected to each
other at once came first (both are clients).
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from bpf import abi
from tests.kernel.cgroup import own_cgroup_id
from tests.kernel.pair import (
    CLOSED,
    ESTABLISHED,
    PORT,
    SYN_RECV,
    SYN_SENT,
    Pair,
    disconnect,
    linger_zero,
    state,
    transfer,
    until,
)
from tests.rig.network import Namespace

WORKLOAD = 0x1111_1111_1111_1111
MSG_FASTOPEN = 0x20000000
IPPROTO_MPTCP = 262


def closed(end: socket.socket) -> bool:
    return state(end) == CLOSED


def test_reconnect_after_disconnect_is_a_new_generation(pair: Pair) -> None:
    sizes = [(1_000, 20), (3, 70_000), (0, 0), (5, 5)]
    client_end = pair.unconnected()
    with pair.listen() as listener:
        for sent, received in sizes:
            client_end.connect((pair.server.ipv4, PORT))
            server_end = pair.accept(listener)
            transfer(client_end, server_end, sent)
            transfer(server_end, client_end, received)
            disconnect(client_end)
            until(partial(closed, server_end))
            server_end.close()
    client_end.close()
    flows = pair.flows(2 * len(sizes))
    clients, servers = flows[: len(sizes)], flows[len(sizes) :]
    for client, server, (sent, received) in zip(clients, servers, sizes, strict=True):
        pair.check(client, server, sent=sent, received=received)
        assert (client.end, server.end) == ("rst_sent", "rst_received")
        assert client.pid == os.getpid()
    assert [flow.generation for flow in clients] == [0, 1, 2, 3]
    assert [flow.generation for flow in servers] == [0, 0, 0, 0]
    assert len({flow.cookie for flow in clients}) == 1
    assert len({flow.cookie for flow in servers}) == len(sizes)
    for before, after in itertools.pairwise(clients):
        assert before.time_end <= after.time_open


def test_refused_and_retried_on_the_same_socket(pair: Pair) -> None:
    client_end = pair.unconnected()
    client_end.setblocking(True)
    for _ in range(2):
        assert client_end.connect_ex((pair.server.ipv4, PORT)) == errno.ECONNREFUSED
    with pair.listen() as listener:
        client_end.connect((pair.server.ipv4, PORT))
        server_end = pair.accept(listener)
    transfer(client_end, server_end, 321)
    client_end.close()
    server_end.close()
    *refused, client, server = pair.flows(4)
    assert [flow.end for flow in refused] == ["refused", "refused"]
    assert [flow.generation for flow in (*refused, client)] == [0, 1, 2]
    assert {flow.cookie for flow in refused} == {client.cookie}
    assert [flow.connect_us for flow in refused] == [None, None]
    pair.check(client, server, sent=321, received=0)
    assert client.end == server.end == "fin"


def test_bound_port_is_kept(pair: Pair) -> None:
    with pair.listen() as listener:
        client_end = pair.unconnected()
        client_end.bind((pair.client.ipv4, 6001))
        client_end.connect((pair.server.ipv4, PORT))
        server_end = pair.accept(listener)
    linger_zero(client_end)
    client_end.close()
    server_end.close()
    client, _ = pair.ends(sent=0, received=0)
    assert client.local == (pair.client.ipv4, 6001)


def test_process_and_thread_name_of_the_client(pair: Pair) -> None:
    """The process is the connecting one; the one that closes, or is interrupted, does not matter."""
    script = (
        "import socket\n"
        "open('/proc/self/comm', 'w').write('fifteen-letters')\n"
        f"s = socket.create_connection(({pair.server.ipv4!r}, {PORT}))\n"
        "open('/proc/self/comm', 'w').write('renamed')\n"
        "s.recv(1)\n"
    )
    with pair.listen() as listener:
        process = subprocess.Popen(pair.client.command(sys.executable, "-I", "-c", script))
        server_end = pair.accept(listener)
    server_end.close()
    assert process.wait(20) == 0
    client, _ = pair.ends(sent=0, received=0)
    assert (client.pid, client.comm) == (process.pid, "fifteen-letters")


def test_v4_mapped_sockets_speak_ipv4(pair: Pair) -> None:
    with pair.listen(socket.AF_INET6) as listener:
        client_end = pair.unconnected(socket.AF_INET6)
        client_end.connect((f"::ffff:{pair.server.ipv4}", PORT))
        server_end = pair.accept(listener)
        assert server_end.getpeername()[0] == f"::ffff:{pair.client.ipv4}"
    transfer(client_end, server_end, 5_000)
    client_end.close()
    server_end.close()
    client, server = pair.ends(sent=5_000, received=0)
    assert client.local[0] == pair.client.ipv4
    assert server.local[0] == pair.server.ipv4


def test_v4_mapped_addresses_have_one_form(pair: Pair) -> None:
    """An AF_INET client and an AF_INET6 server: the 16 bytes of each end are the other's."""
    with pair.listen(socket.AF_INET6) as listener:
        client_end = pair.unconnected()
        client_end.connect((pair.server.ipv4, PORT))
        pair.accept(listener).close()
    client_end.close()
    pair.ends(sent=0, received=0)
    a, b = pair.watch.columns(pair.client, pair.server)
    assert a["local_address"].tobytes() == b["peer_address"].tobytes()
    assert a["peer_address"].tobytes() == b["local_address"].tobytes()
    assert a["local_address"].tobytes()[:12] == bytes(10) + b"\xff\xff"


def test_syn_cookies(pair: Pair) -> None:
    """The server's socket is made from the cookie in the ACK."""
    pair.server.sysctl("ipv4.tcp_syncookies", "2")
    client_end, server_end = pair.connect()
    assert _netstat(pair.server, "SyncookiesRecv") == 1
    transfer(client_end, server_end, 70_001)
    transfer(server_end, client_end, 30_011)
    client_end.close()
    server_end.close()
    client, server = pair.ends(sent=70_001, received=30_011)
    assert client.end == server.end == "fin"


def _netstat(namespace: Namespace, name: str) -> int:
    with namespace.entered():
        lines = Path("/proc/thread-self/net/netstat").read_text(encoding="ascii").splitlines()
    found = dict(zip(lines[0].split(), lines[1].split(), strict=True))
    return int(found[name])


def _fast_open(pair: Pair, *, cookie: bool) -> socket.socket:
    """A listener that takes data in the SYN, with or without the client's showing a cookie."""
    for namespace in (pair.client, pair.server):
        namespace.sysctl("ipv4.tcp_fastopen", "3" if cookie else str(0x207))
    listener = pair.listen()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
    return listener


@pytest.mark.parametrize("cookie", [True, False], ids=["cookie", "cookieless"])
def test_fast_open_data_in_the_syn(pair: Pair, cookie: bool) -> None:
    with _fast_open(pair, cookie=cookie) as listener:
        if cookie:  # the first connection fetches the cookie
            first = pair.unconnected()
            first.setblocking(True)
            first.sendto(bytes(11), MSG_FASTOPEN, (pair.server.ipv4, PORT))
            server_end = pair.accept(listener)
            assert server_end.recv(11, socket.MSG_WAITALL) == bytes(11)
            first.close()
            server_end.close()
            pair.ends(sent=11, received=0)
        client_end = pair.unconnected()
        assert client_end.sendto(bytes(500), MSG_FASTOPEN, (pair.server.ipv4, PORT)) == 500
        server_end = pair.accept(listener)
        assert server_end.recv(500, socket.MSG_WAITALL) == bytes(500)
    assert _netstat(pair.server, "TCPFastOpenPassive") == 1
    transfer(server_end, client_end, 3_000)
    transfer(client_end, server_end, 4_000)
    client_end.close()
    server_end.close()
    flows = pair.flows(4 if cookie else 2)
    client, server = (flows[1], flows[3]) if cookie else flows
    pair.check(client, server, sent=4_500, received=3_000)
    assert client.end == server.end == "fin"


def test_fast_open_server_that_closes_before_it_is_established(pair: Pair) -> None:
    """SYN_RECV to FIN_WAIT1: the socket never was ESTABLISHED."""
    with _fast_open(pair, cookie=False) as listener:
        pair.drop(pair.client, "tcp", "sport", str(PORT), "drop")
        claim = abi.ID.pack(own_cgroup_id())
        pair.watch.map("ft_cgroup").update(claim, abi.OWNER.pack(WORKLOAD, 0, 0, 0))
        client_end = pair.unconnected()
        client_end.sendto(bytes(500), MSG_FASTOPEN, (pair.server.ipv4, PORT))
        server_end = pair.accept(listener)
        assert server_end.recv(500, socket.MSG_WAITALL) == bytes(500)
        server_end.sendall(bytes(70))
        assert state(server_end) == SYN_RECV
        server_end.close()
        pair.undrop(pair.client)
        assert client_end.recv(70, socket.MSG_WAITALL) == bytes(70)
        assert client_end.recv(1) == b""
        client_end.close()
    client, server = pair.ends(sent=500, received=70, lost=True)
    assert client.end == server.end == "fin"
    pair.watch.map("ft_cgroup").delete(claim)
    assert server.owner == WORKLOAD
    assert not server.flags & abi.FLOW_ATTR_AT_CLOSE  # but when it left SYN_RECV


def test_fast_open_server_that_resets_before_it_is_established(pair: Pair) -> None:
    """SYN_RECV to CLOSE with a reset, which a client that is still in SYN_SENT takes as refused."""
    with _fast_open(pair, cookie=False) as listener:
        pair.drop(pair.client, "tcp", "flags", "syn,ack", "/", "syn,ack", "drop")
        client_end = pair.unconnected()
        client_end.sendto(bytes(500), MSG_FASTOPEN, (pair.server.ipv4, PORT))
        server_end = pair.accept(listener)
        assert (state(client_end), state(server_end)) == (SYN_SENT, SYN_RECV)
        linger_zero(server_end)
    server_end.close()
    until(lambda: state(client_end) == CLOSED)
    client_end.close()
    client, server = pair.flows(2)
    assert (server.end, server.bytes_received) == ("rst_sent", 500)
    assert (client.end, client.bytes_sent) == ("refused", 500)


def test_fast_open_data_that_the_server_did_not_take(pair: Pair) -> None:
    """The data is sent again after the handshake: it counts once."""
    pair.client.sysctl("ipv4.tcp_fastopen", str(0x207))
    with pair.listen() as listener:
        client_end = pair.unconnected()
        client_end.sendto(bytes(500), MSG_FASTOPEN, (pair.server.ipv4, PORT))
        server_end = pair.accept(listener)
        assert server_end.recv(500, socket.MSG_WAITALL) == bytes(500)
    client_end.close()
    server_end.close()
    client, server = pair.ends(sent=500, received=0, lost=True)
    assert client.segments_retransmitted >= 1  # the SYN too, where the machine is slow
    assert client.end == server.end == "fin"


def test_self_connect_is_one_socket_and_one_record(pair: Pair) -> None:
    with pair.unconnected() as both:
        both.bind(("127.0.0.1", 5555))
        both.connect(("127.0.0.1", 5555))
        transfer(both, both, 1_000)
    (flow,) = pair.flows(1)
    assert flow.local == flow.peer == ("127.0.0.1", 5555)
    assert (flow.bytes_sent, flow.bytes_received) == (1_000, 1_000)
    assert (flow.role, flow.end) == ("client", "fin")


def test_simultaneous_open(pair: Pair) -> None:
    """Both SYNs cross: each waits behind a datagram in a slow queue, so both sockets are in SYN_SENT."""
    addresses = ((pair.client.ipv4, 6001), (pair.server.ipv4, PORT))
    ends = []
    for namespace, address in zip((pair.client, pair.server), addresses, strict=True):
        slow = ("rate", "16kbit", "burst", "1540", "latency", "5s")
        namespace.run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *slow)
        with namespace.entered():
            end = socket.socket()
        end.bind(address)
        end.setblocking(False)
        ends.append(end)
    for namespace, to in zip((pair.client, pair.server), reversed(addresses), strict=True):
        with namespace.entered(), socket.socket(type=socket.SOCK_DGRAM) as filler:
            for _ in range(3):
                filler.sendto(bytes(1_000), to)
    for end, to in zip(ends, reversed(addresses), strict=True):
        assert end.connect_ex(to) == errno.EINPROGRESS
    until(lambda: [state(end) for end in ends] == [ESTABLISHED, ESTABLISHED])
    for namespace in (pair.client, pair.server):
        namespace.run("tc", "qdisc", "del", "dev", "eth0", "root")
    for end in ends:
        end.setblocking(True)
    transfer(ends[0], ends[1], 2_000)
    transfer(ends[1], ends[0], 3_000)
    ends[0].close()
    ends[1].close()
    assert _netstat(pair.client, "TCPSynRetrans") <= 2
    a, b = pair.flows(2)
    assert (a.role, b.role) == ("client", "client")
    assert (a.local, a.peer) == (b.peer, b.local) == addresses
    assert (a.bytes_sent, a.bytes_received) == (b.bytes_received, b.bytes_sent) == (2_000, 3_000)
    assert (a.end, b.end) == ("fin", "fin")
    assert a.connect_us is not None
    assert b.connect_us is not None


def _mptcp(pair: Pair) -> None:
    try:
        pair.unconnected(protocol=IPPROTO_MPTCP).close()
    except OSError as error:
        if error.errno not in (errno.EPROTONOSUPPORT, errno.ENOPROTOOPT, errno.EINVAL):
            raise
        pytest.skip("this kernel has no MPTCP")


def test_mptcp_reports_its_subflow_once(pair: Pair) -> None:
    """The socket of the application has protocol 262 and makes no record."""
    _mptcp(pair)
    with pair.listen(protocol=IPPROTO_MPTCP) as listener:
        client_end = pair.unconnected(protocol=IPPROTO_MPTCP)
        client_end.connect((pair.server.ipv4, PORT))
        server_end = pair.accept(listener)
    transfer(client_end, server_end, 50_000)
    transfer(server_end, client_end, 30_000)
    client_end.close()
    server_end.close()
    client, server = pair.ends(sent=50_000, received=30_000, lost=True)
    assert client.end == server.end == "fin"
    assert client.pid == os.getpid()
    assert pair.watch.counters()["lost_socket"] == 0  # the other socket was not even looked at


def test_mptcp_client_of_a_plain_server(pair: Pair) -> None:
    _mptcp(pair)
    with pair.listen() as listener:
        client_end = pair.unconnected(protocol=IPPROTO_MPTCP)
        client_end.connect((pair.server.ipv4, PORT))
        server_end = pair.accept(listener)
    transfer(client_end, server_end, 5_000)
    transfer(server_end, client_end, 3_000)
    client_end.close()
    server_end.close()
    pair.ends(sent=5_000, received=3_000)


def test_mptcp_second_subflow_is_a_flow_of_its_own(pair: Pair) -> None:
    """A kernel thread opens it, so no process is known."""
    _mptcp(pair)
    second = pair.client.ipv4.rpartition(".")[0] + ".200"
    pair.client.ip("addr", "add", f"{second}/24", "dev", "eth0")
    pair.client.ip("mptcp", "endpoint", "add", second, "dev", "eth0", "subflow")
    for namespace in (pair.client, pair.server):
        namespace.ip("mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
    with pair.listen(protocol=IPPROTO_MPTCP) as listener:
        client_end = pair.unconnected(protocol=IPPROTO_MPTCP)
        client_end.connect((pair.server.ipv4, PORT))
        server_end = pair.accept(listener)
        transfer(client_end, server_end, 50_000)
        until(lambda: _joined(pair))
        client_end.close()
        server_end.close()
        flows = pair.flows(4)
    clients = {flow.local[0]: flow for flow in flows[:2]}
    servers = {flow.peer[0]: flow for flow in flows[2:]}
    assert clients.keys() == servers.keys() == {pair.client.ipv4, second}
    assert sum(flow.bytes_sent for flow in clients.values()) >= 50_000
    assert clients[pair.client.ipv4].pid == os.getpid()
    assert (clients[second].pid, clients[second].comm) == (0, "")


def _joined(pair: Pair) -> bool:
    sockets = pair.server.run("ss", "-Htn", "state", "established", "sport", "=", str(PORT))
    return len(sockets.splitlines()) == 2


def test_many_threads_connect_at_once(pair: Pair) -> None:
    """Records of one instant do not mix: each has its own ports and bytes."""
    sizes = {}

    def one(size: int) -> None:
        with pair.client.entered(), socket.socket() as end:
            end.settimeout(20)
            end.connect((pair.server.ipv4, PORT))
            sizes[end.getsockname()[1]] = size
            end.sendall(bytes(size))
            assert end.recv(1) == b""

    with pair.listen() as listener:
        listener.listen(64)
        threads = [threading.Thread(target=one, args=(size,)) for size in range(1, 41)]
        for thread in threads:
            thread.start()
        for _ in threads:
            with pair.accept(listener) as end:
                end.recv(1, socket.MSG_PEEK)
                end.shutdown(socket.SHUT_WR)
                while end.recv(4096):
                    pass
        for thread in threads:
            thread.join()
    flows = pair.flows(80)
    assert {flow.local[1]: flow.bytes_sent for flow in flows[:40]} == sizes
    assert {flow.peer[1]: flow.bytes_received for flow in flows[40:]} == sizes
