# SPDX-License-Identifier: Apache-2.0
"""Whose a translator's socket is: publications by cookie and by port, blocks, and when each counts."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf import abi
from identity import address, port_block, translation
from identity.claim import Claim
from tests.kernel.cgroup import cgroup, cgroup_id, make_socket
from tests.kernel.pair import PORT, SECONDS, boottime, disconnect, linger_zero
from tests.rig.kernel import Watch, netns_cookie
from tests.rig.network import Namespace, Network

WORKLOAD, OTHER = 0x1111_1111_1111_1111, 0x2222_2222_2222_2222
CLOSED = 9  # refuses
BOUND = 40_000
Owner = tuple[int, str, str]
NOBODY: Owner = (0, "none", "unpublished")
EXPIRED: Owner = (0, "none", "expired")
BY_SOCKET: Owner = (WORKLOAD, "socket", "none")
BY_PORT: Owner = (WORKLOAD, "port", "none")
BY_BLOCK: Owner = (WORKLOAD, "block", "none")


class Shared:
    """A translator's namespace with one address, a server elsewhere, and what the watch says of the first."""

    def __init__(self, watch: Watch, home: Namespace, far: Namespace, locks: Path) -> None:
        self.watch, self.home, self.far, self.locks = watch, home, far, locks
        self.netns = netns_cookie(home)
        self.address = address.from_text(home.ipv4)
        self.sockets, self.ports = watch.map("ft_socket"), watch.map("ft_port")
        self._seen = 0
        with far.entered():
            self._listener = socket.create_server((far.ipv4, PORT))
        self._listener.settimeout(SECONDS)

    def close(self) -> None:
        self._listener.close()

    def made(self, port: int = 0) -> socket.socket:
        """One of the translator's, bound if a port is named."""
        with self.home.entered():
            made = socket.socket()
        made.settimeout(SECONDS)
        if port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((self.home.ipv4, port))
        linger_zero(made)  # so that the port is free at once
        return made

    def connect(self, made: socket.socket) -> None:
        made.connect((self.far.ipv4, PORT))
        self._listener.accept()[0].close()

    def refused(self, made: socket.socket) -> None:
        made.setblocking(True)  # else Linux aborts the next connect, once
        assert made.connect_ex((self.far.ipv4, CLOSED)) == errno.ECONNREFUSED

    def talk(self, made: socket.socket) -> None:
        """A whole connection."""
        with made:
            self.connect(made)

    def publish(self, made: socket.socket, workload: int = WORKLOAD) -> None:
        translation.publish_socket(self.sockets, translation.cookie(made), workload)

    def publish_port(self, port: int, workload: int = WORKLOAD, netns: int = 0) -> None:
        translation.publish_port(self.ports, self.home.ipv4, port, workload, netns)

    def claim(self, first: int, last: int, claim: Claim) -> None:
        block = port_block.Block(self.address, first, last)
        maps = self.watch.map("ft_addr"), self.ports
        assert port_block.claim(*maps, [block], claim, str(self.locks)) == []

    def owners(self, count: int = 1) -> list[Owner]:
        """Of the next `count` flows of the translator's namespace."""
        found = self.watch.flows(self.home, count=self._seen + count)[self._seen :]
        self._seen += count
        return [(flow.owner, flow.rule, flow.reason) for flow in found]

    def left(self) -> int:
        """Publications that nobody took."""
        return len([*self.sockets.items(), *self.ports.items()])


@pytest.fixture
def shared(session_watch: Watch, tmp_path: Path) -> Iterator[Shared]:
    with Network() as network:
        found = Shared(session_watch, network.namespace("home"), network.namespace("far"), tmp_path)
        translation.mark_netns(session_watch.map("ft_netns"), found.netns, str(tmp_path))
        yield found
        found.close()
        for name in ("ft_socket", "ft_port", "ft_addr"):
            for key in list(session_watch.map(name).keys()):
                session_watch.map(name).delete(key)


def test_socket_published(shared: Shared) -> None:
    made = shared.made()
    shared.publish(made)
    shared.talk(made)
    assert shared.owners() == [BY_SOCKET]
    assert shared.left() == 0


def test_socket_not_published(shared: Shared) -> None:
    shared.talk(shared.made())
    assert shared.owners() == [NOBODY]


def test_socket_published_and_never_connected(shared: Shared) -> None:
    made = shared.made()
    shared.publish(made)
    made.close()
    shared.talk(shared.made())
    assert shared.owners() == [NOBODY]
    assert shared.left() == 1


def test_socket_refused_and_connected_again(shared: Shared) -> None:
    made = shared.made()
    shared.publish(made)
    shared.refused(made)
    shared.connect(made)
    disconnect(made)
    shared.talk(made)
    assert shared.owners(3) == [BY_SOCKET] * 3


def test_socket_published_late_counts_for_its_next_connection_only(shared: Shared) -> None:
    made = shared.made()
    shared.connect(made)
    shared.publish(made)
    disconnect(made)
    shared.talk(made)
    assert shared.owners(2) in ([NOBODY, BY_SOCKET], [EXPIRED, BY_SOCKET])
    assert shared.left() == 0


def test_socket_published_again_for_another(shared: Shared) -> None:
    made = shared.made()
    for workload in (WORKLOAD, OTHER):
        shared.publish(made, workload)
        shared.connect(made)
        disconnect(made)
    made.close()
    assert shared.owners(2) == [BY_SOCKET, (OTHER, "socket", "none")]


def test_port_published_is_for_one_connection(shared: Shared) -> None:
    for number in range(2):
        made = shared.made(BOUND)
        if number == 0:
            shared.publish_port(BOUND)
        shared.talk(made)
    assert shared.owners(2) == [BY_PORT, NOBODY]


def test_port_published_stays_with_its_socket(shared: Shared) -> None:
    made = shared.made(BOUND)
    shared.publish_port(BOUND)
    shared.refused(made)
    shared.talk(made)
    assert shared.owners(2) == [BY_PORT] * 2


def test_port_published_late_is_not_left_for_the_next(shared: Shared) -> None:
    made = shared.made(BOUND)
    shared.connect(made)
    shared.publish_port(BOUND)
    made.close()
    assert shared.owners() in ([NOBODY], [EXPIRED])
    shared.talk(shared.made(BOUND))
    assert shared.owners() == [NOBODY]


def test_port_published_again_for_another(shared: Shared) -> None:
    made = shared.made(BOUND)
    for workload in (WORKLOAD, OTHER):
        shared.publish_port(BOUND, workload)
        shared.connect(made)
        disconnect(made)
    made.close()
    assert shared.owners(2) == [BY_PORT, (OTHER, "port", "none")]


def test_port_of_the_namespace_goes_before_that_of_any(shared: Shared) -> None:
    made = shared.made(BOUND)
    shared.publish_port(BOUND, OTHER)
    shared.publish_port(BOUND, WORKLOAD, shared.netns)
    shared.publish_port(BOUND, OTHER, shared.netns + (1 << 40))
    shared.talk(made)
    assert shared.owners() == [BY_PORT]


def test_socket_goes_before_port_and_port_before_block(shared: Shared) -> None:
    shared.claim(BOUND - 5, BOUND + 5, Claim(OTHER, boottime()))
    made = shared.made(BOUND)
    shared.publish(made)
    shared.publish_port(BOUND, OTHER)
    shared.talk(made)
    translation.withdraw_port(shared.ports, shared.home.ipv4, BOUND)
    made = shared.made(BOUND)
    shared.publish_port(BOUND)
    shared.talk(made)
    shared.talk(shared.made(BOUND))
    assert shared.owners(3) == [BY_SOCKET, BY_PORT, (OTHER, "block", "none")]


@pytest.mark.parametrize("last", [BOUND, BOUND + 63], ids=["port", "block"])
def test_ports_claimed_for_life(shared: Shared, last: int) -> None:
    now = boottime()
    wanted = BY_PORT if last == BOUND else BY_BLOCK
    shared.claim(BOUND, last, Claim(WORKLOAD, now))
    for _ in range(2):
        shared.talk(shared.made(BOUND))
    shared.talk(shared.made(last + 1))
    assert shared.owners(3) == [wanted, wanted, NOBODY]
    shared.claim(BOUND, last, Claim(WORKLOAD, now, boottime()))
    shared.talk(shared.made(BOUND))
    shared.claim(BOUND, last, Claim(WORKLOAD, boottime() + 10**12))
    shared.talk(shared.made(BOUND))
    assert shared.owners(2) == [EXPIRED] * 2


def test_block_given_to_the_next(shared: Shared) -> None:
    shared.claim(BOUND, BOUND + 7, Claim(OTHER, 1, boottime()))
    shared.claim(BOUND, BOUND + 63, Claim(WORKLOAD, boottime()))
    shared.talk(shared.made(BOUND))
    assert shared.owners() == [BY_BLOCK]


def test_connect_that_spans_two_owners_of_a_block_is_nobodys(shared: Shared) -> None:
    shared.claim(BOUND, BOUND + 63, Claim(OTHER, 1))
    made = shared.made(BOUND)
    made.setblocking(False)
    gone = ("inet", "flowtag_test")
    shared.home.run("nft", "add", "table", *gone)
    shared.home.run("nft", "add", "chain", *gone, "output", "{ type filter hook output priority 0; }")
    shared.home.run("nft", "add", "rule", *gone, "output", "tcp", "dport", str(PORT), "drop")
    assert made.connect_ex((shared.far.ipv4, PORT)) == errno.EINPROGRESS
    shared.claim(BOUND, BOUND + 63, Claim(OTHER, 1, boottime()))
    shared.claim(BOUND, BOUND + 63, Claim(WORKLOAD, boottime()))
    made.close()
    assert shared.owners() == [EXPIRED]


def test_cgroup_of_a_translator(shared: Shared) -> None:
    with cgroup(f"flowtag-kernel-translator-{os.getpid()}") as path:
        translation.mark_cgroup(shared.watch.map("ft_cgroup"), cgroup_id(path), str(shared.locks))
        shared.watch.map("ft_netns").delete(abi.ID.pack(shared.netns))
        for published in (True, False):
            made = make_socket(shared.home, path)
            if published:
                shared.publish(made)
            shared.talk(made)
        assert shared.owners(2) == [BY_SOCKET, NOBODY]
        shared.watch.map("ft_cgroup").delete(abi.ID.pack(cgroup_id(path)))


def test_publications_elsewhere_say_nothing(shared: Shared) -> None:
    """A tenant can make a namespace and give it the shared address."""
    shared.watch.map("ft_netns").delete(abi.ID.pack(shared.netns))
    shared.claim(BOUND, BOUND + 63, Claim(WORKLOAD, 1))
    made = shared.made(BOUND)
    shared.publish(made)
    shared.publish_port(BOUND + 64)
    shared.talk(made)
    assert shared.owners() == [(0, "none", "no_claim")]
