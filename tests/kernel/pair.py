# SPDX-License-Identifier: Apache-2.0
"""Two namespaces on one bridge, connections between them, and the records of both ends."""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bpf import abi
from tests.rig.kernel import Flow, Watch, netns_cookie
from tests.rig.network import Namespace

PORT = 7001
_libc = ctypes.CDLL(None, use_errno=True)
SECONDS = 20
"""How long a test waits for what must come: a deadline, never a measure."""

# States as TCP_INFO tells them (linux/include/net/tcp_states.h).
ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2 = 1, 2, 3, 4, 5
CLOSED, CLOSE_WAIT = 7, 8


def boottime() -> int:
    """The clock of the records, ns."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Pair:
    """A client's and a server's namespace, and the watch that sees both."""

    watch: Watch
    client: Namespace
    server: Namespace
    began: int = field(default_factory=boottime)

    def listen(self, family: int = socket.AF_INET, protocol: int = 0) -> socket.socket:
        """A listener on every address of the server's namespace; an AF_INET6 one takes IPv4 too."""
        with self.server.entered():
            listener = socket.socket(family, socket.SOCK_STREAM, protocol)
        listener.settimeout(SECONDS)
        listener.bind(("", PORT))
        listener.listen(16)
        return listener

    def unconnected(self, family: int = socket.AF_INET, protocol: int = 0) -> socket.socket:
        """A socket of the client's namespace."""
        with self.client.entered():
            made = socket.socket(family, socket.SOCK_STREAM, protocol)
        made.settimeout(SECONDS)
        return made

    def connect(self, family: int = socket.AF_INET) -> tuple[socket.socket, socket.socket]:
        """An established connection: (client's end, server's end)."""
        with self.listen(family) as listener:
            client = self.unconnected(family)
            client.connect((self.address(family), PORT))
            return client, self.accept(listener)

    def accept(self, listener: socket.socket) -> socket.socket:
        server, _ = listener.accept()
        server.settimeout(SECONDS)
        return server

    def address(self, family: int) -> str:
        return self.server.ipv6 if family == socket.AF_INET6 else self.server.ipv4

    def flows(self, count: int = 2) -> list[Flow]:
        """Exactly `count` records of both namespaces: the client's first, each side in ring order."""
        found = self.watch.flows(self.client, self.server, count=count, seconds=SECONDS)
        cookie = netns_cookie(self.client)
        return sorted(found, key=lambda flow: flow.netns != cookie)

    def ends(self, *, sent: int, received: int, lost: bool = False) -> tuple[Flow, Flow]:
        """The only two records, (client's, server's), which must agree with each other.

        sent and received are the client's bytes. Where segments were `lost` or a reset was not
        heard, the counts of segments differ; the bytes never do.
        """
        client, server = self.flows(2)
        self.check(client, server, sent=sent, received=received, lost=lost)
        assert client.generation == server.generation == 0
        return client, server

    def check(self, client: Flow, server: Flow, *, sent: int, received: int, lost: bool = False) -> None:
        """The two ends of one established connection."""
        assert (client.netns, client.role) == (netns_cookie(self.client), "client")
        assert (server.netns, server.role) == (netns_cookie(self.server), "server")
        assert client.local == server.peer
        assert client.peer == server.local
        assert client.local[1] not in (0, PORT)
        assert server.local[1] == PORT
        assert (client.bytes_sent, client.bytes_received) == (sent, received)
        assert (server.bytes_sent, server.bytes_received) == (received, sent)
        if not lost:
            # What comes after a socket's close meets a time-wait socket or none: two at the most.
            assert abs(client.segments_sent - server.segments_received) <= 2
            assert abs(server.segments_sent - client.segments_received) <= 2
            assert client.segments_retransmitted == server.segments_retransmitted == 0
        assert client.segments_sent >= max(2, sent // 65536)
        assert server.segments_sent >= max(1, received // 65536)
        assert client.connect_us is not None
        assert server.connect_us is None
        established = client.time_open + client.connect_us * 1000
        assert self.began <= client.time_open <= established <= client.time_end <= boottime()
        assert client.time_open <= server.time_open <= server.time_end <= boottime()
        assert client.rtt_us is not None
        for flow in (client, server):
            assert not flow.flags & abi.FLOW_ADOPTED
        assert (server.pid, server.comm) == (0, "")

    def drop(self, namespace: Namespace, *rule: str, hook: str = "input") -> None:
        """An nft rule in `namespace` at `hook`, for instance ("tcp", "dport", "7001", "drop")."""
        table = ("inet", "flowtag_test")
        chain = f"{{ type filter hook {hook} priority 0; }}"
        namespace.run("nft", "add", "table", *table)
        namespace.run("nft", "add", "chain", *table, hook, chain)
        namespace.run("nft", "add", "rule", *table, hook, *rule)

    def undrop(self, namespace: Namespace) -> None:
        """Remove every rule of drop()."""
        namespace.run("nft", "delete", "table", "inet", "flowtag_test")


def transfer(source: socket.socket, sink: socket.socket, size: int) -> None:
    """Send `size` bytes and receive them at the other end."""
    sender = threading.Thread(target=source.sendall, args=(bytes(size),))
    sender.start()
    missing = size
    while missing:
        part = len(sink.recv(min(missing, 1 << 18)))
        assert part, f"{missing} bytes of {size} did not come"
        missing -= part
    sender.join()


def state(of: socket.socket) -> int:
    """The TCP state, by TCP_INFO."""
    return of.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def until(condition: Callable[[], bool]) -> None:
    """Poll until `condition`; AssertionError after SECONDS."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def linger_zero(of: socket.socket) -> None:
    """close() will reset the connection."""
    of.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def disconnect(of: socket.socket) -> None:
    """connect(AF_UNSPEC): the socket forgets its connection and can make another."""
    if _libc.connect(of.fileno(), bytes(16), 16) != 0:
        raise OSError(ctypes.get_errno(), "connect(AF_UNSPEC)")
