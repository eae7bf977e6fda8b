# SPDX-License-Identifier: Apache-2.0
"""Sockets that were open before the programs, in every network namespace: taken in, and marked."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bpf import abi
from tests.kernel.cgroup import cgroup, cgroup_id, make_socket
from tests.kernel.pair import boottime, linger_zero
from tests.rig.kernel import HOST_WORKLOAD, Flow, Watch, netns_cookie, socket_cookie
from tests.rig.network import Namespace, Network

WORKLOAD, OTHER = 0x1111_1111_1111_1111, 0x2222_2222_2222_2222
CONTAINER, TRANSLATOR = 1, 2


class Before:
    """Namespaces and a cgroup, in which connections are made before there is a watch."""

    def __init__(self, network: Network, path: Path, stack: ExitStack) -> None:
        self.host, self.pod, self.nat, self.other = (
            network.namespace(name, bridge=False) for name in ("host", "pod", "nat", "other")
        )
        self.path, self.stack = path, stack

    def listener(self, namespace: Namespace, path: Path | None = None) -> socket.socket:
        found = self.stack.enter_context(make_socket(namespace, path))
        found.bind(("127.0.0.1", 0))
        found.listen()
        return found

    def connection(self, namespace: Namespace, path: Path | None) -> tuple[socket.socket, socket.socket]:
        """(the end that `path` made, the end that a listener of the test made)."""
        listener = self.listener(namespace)
        client = self.stack.enter_context(make_socket(namespace, path))
        client.connect(listener.getsockname())
        server = self.stack.enter_context(listener.accept()[0])
        return client, server

    def watch(self, *, activators: tuple[int, ...] = ()) -> Watch:
        return self.stack.enter_context(Watch(host=self.host, activator_cgroups=activators))

    def claim(self, watch: Watch, path: Path, workload: int = WORKLOAD, *, since: int = 1) -> None:
        value = abi.OWNER.pack(workload, since, 0, 0)
        watch.map("ft_cgroup").update(abi.ID.pack(cgroup_id(path)), value)

    def house(self, watch: Watch, namespace: Namespace, kind: int, flags: int = 0) -> None:
        value = abi.NETNS.pack(WORKLOAD, 1, 0, flags, kind)
        watch.map("ft_netns").update(abi.ID.pack(netns_cookie(namespace)), value)


@pytest.fixture
def before(kernel: None) -> Iterator[Before]:
    with (
        Network() as network,
        cgroup(f"flowtag-adopt-{os.getpid()}") as path,
        ExitStack() as stack,
    ):
        yield Before(network, path, stack)


def record(watch: Watch, before: Before, of: socket.socket) -> Flow:
    """The record of a socket that is closed now."""
    cookie = socket_cookie(of)
    linger_zero(of)
    of.close()
    watch.settle()
    spaces = before.host, before.pod, before.nat, before.other
    count = len(watch.columns(*spaces))
    (found,) = (flow for flow in watch.flows(*spaces, count=count) if flow.cookie == cookie)
    return found


def test_adopted_in_every_namespace_by_the_cgroup_rule(before: Before) -> None:
    spaces = before.host, before.pod, before.other
    ends = [before.connection(space, before.path) for space in spaces]
    watch = before.watch()
    before.house(watch, before.pod, CONTAINER)
    # Its claim is younger than the socket, but was there first: a cgroup's id is used only once.
    before.claim(watch, before.path, since=boottime())
    assert watch.programs.adopt() >= len(spaces)
    for space, (client, server) in zip(spaces, ends, strict=True):
        flow = record(watch, before, client)
        assert (flow.netns, flow.owner, flow.rule) == (netns_cookie(space), WORKLOAD, "cgroup")
        assert flow.flags & abi.FLOW_ADOPTED
        assert not flow.flags & abi.FLOW_ATTR_AT_CLOSE
        assert (flow.role, flow.connect_us, flow.pid, flow.comm) == ("unknown", None, 0, "")
        flow = record(watch, before, server)
        expected = {
            before.host: (HOST_WORKLOAD, "host", "none"),
            before.pod: (0, "none", "foreign_process"),
            before.other: (0, "none", "no_claim"),
        }[space]
        assert (flow.owner, flow.rule, flow.reason) == expected
        assert flow.flags & abi.FLOW_ADOPTED


def test_adopted_knows_addresses_and_bytes(before: Before) -> None:
    client, server = before.connection(before.host, before.path)
    client.sendall(b"x" * 1000)
    assert server.recv(2000) == b"x" * 1000
    local, peer = client.getsockname(), client.getpeername()
    watch = before.watch()
    before.claim(watch, before.path)
    watch.programs.adopt()
    server.sendall(b"y" * 500)
    assert client.recv(2000) == b"y" * 500
    flow = record(watch, before, client)
    assert (flow.local, flow.peer) == (local, peer)
    assert (flow.bytes_sent, flow.bytes_received) == (1000, 500)
    assert watch.counters()["missed_open"] == 0


def test_adopted_by_no_other_claim(before: Before) -> None:
    """Not by its namespace, its address or its own number: they may have been another's when it opened."""
    alone, _ = before.connection(before.pod, before.path)
    translated, _ = before.connection(before.nat, before.path)
    published, _ = before.connection(before.nat, before.path)
    watch = before.watch()
    before.house(watch, before.pod, CONTAINER, abi.FLAG_NO_CGROUP)
    before.house(watch, before.nat, TRANSLATOR)
    host, port = translated.getsockname()
    address = bytes(10) + b"\xff\xff" + socket.inet_aton(host)
    claim = abi.OWNER.pack(WORKLOAD, 1, 0, 0)
    watch.map("ft_port").update(abi.PORT_KEY.pack(address, 0, port, socket.IPPROTO_TCP), claim)
    watch.map("ft_socket").update(abi.ID.pack(socket_cookie(published)), claim)
    watch.programs.adopt()
    for client in (alone, translated, published):
        flow = record(watch, before, client)
        assert (flow.owner, flow.rule, flow.reason) == (0, "none", "expired")
        assert flow.flags & abi.FLOW_ADOPTED


@pytest.mark.parametrize(
    ("workload", "reason"),
    [(abi.OWNER_UNCLAIMED, "unclaimed_container"), (abi.OWNER_CONTESTED, "contested")],
)
def test_adopted_of_nobody(before: Before, workload: int, reason: str) -> None:
    client, _ = before.connection(before.host, before.path)
    watch = before.watch()
    before.claim(watch, before.path, workload)
    watch.programs.adopt()
    if workload == abi.OWNER_CONTESTED:  # who owned it is lost for good
        before.claim(watch, before.path)
    flow = record(watch, before, client)
    assert (flow.owner, flow.reason) == (0, reason)


def test_adopted_unclaimed_is_looked_up_again_at_close(before: Before) -> None:
    """Its container is found by the walk, which comes after the adoption of a second exporter."""
    client, _ = before.connection(before.host, before.path)
    watch = before.watch()
    before.claim(watch, before.path, abi.OWNER_UNCLAIMED)
    watch.programs.adopt()
    before.claim(watch, before.path)
    flow = record(watch, before, client)
    assert (flow.owner, flow.rule) == (WORKLOAD, "cgroup")
    assert flow.flags & abi.FLOW_ADOPTED
    assert flow.flags & abi.FLOW_ATTR_AT_CLOSE


def test_adoption_leaves_sockets_that_were_seen(before: Before) -> None:
    watch = before.watch()
    before.claim(watch, before.path)
    client, _ = before.connection(before.host, before.path)
    before.claim(watch, before.path, OTHER)
    watch.programs.adopt()
    flow = record(watch, before, client)
    assert (flow.owner, flow.role) == (WORKLOAD, "client")
    assert not flow.flags & abi.FLOW_ADOPTED


def test_listeners_of_activators_are_marked(before: Before) -> None:
    """What they accept later is nobody's; another listener's is its maker's."""
    (before.path / "engine").mkdir()
    activated = before.listener(before.host, before.path / "engine")
    inside = before.listener(before.pod, before.path / "engine")  # counts in the host's namespace only
    plain = before.listener(before.host)
    old = before.stack.enter_context(make_socket(before.host))
    old.connect(activated.getsockname())
    accepted = before.stack.enter_context(activated.accept()[0])
    watch = before.watch(activators=(cgroup_id(before.path / "engine"),))
    before.house(watch, before.pod, CONTAINER)
    watch.programs.adopt()

    def served(listener: socket.socket, space: Namespace) -> Flow:
        with make_socket(space) as client:
            client.connect(listener.getsockname())
            return record(watch, before, listener.accept()[0])

    flow = served(activated, before.host)
    assert (flow.owner, flow.reason, flow.role) == (0, "activated", "server")
    assert flow.flags & abi.FLOW_ACTIVATED
    assert not flow.flags & abi.FLOW_ADOPTED
    flow = served(plain, before.host)
    assert (flow.owner, flow.rule) == (HOST_WORKLOAD, "host")
    flow = served(inside, before.pod)
    assert (flow.owner, flow.reason) == (0, "foreign_process")
    flow = record(watch, before, accepted)  # accepted before: the same, and adopted
    assert (flow.owner, flow.reason) == (0, "activated")
    assert flow.flags & abi.FLOW_ADOPTED
