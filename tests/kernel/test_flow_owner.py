# SPDX-License-Identifier: Apache-2.0
"""Who owns a socket: every row of the table in ARCHITECTURE.md, with real cgroups and namespaces.

A namespace of the test stands for the host's. Each connection has both ends in one namespace: the
client's socket is made in a cgroup of the test, the server's by the test itself, whose cgroup has no
claim.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from bpf import abi
from tests.kernel.cgroup import cgroup, cgroup_id, make_socket
from tests.kernel.pair import boottime, disconnect, linger_zero
from tests.rig.kernel import HOST_WORKLOAD, Flow, Watch, netns_cookie
from tests.rig.network import Namespace, Network

WORKLOAD = 0x1111_1111_1111_1111
OTHER_WORKLOAD = 0x2222_2222_2222_2222
HOUR = 3600 * 10**9
ADDRESS = ("127.0.0.1", 7001)


class Owner(NamedTuple):
    """What a record says about its owner."""

    workload: int
    rule: str
    reason: str


NOBODY_CLAIMS = Owner(0, "none", "no_claim")
FOREIGN = Owner(0, "none", "foreign_process")
UNCLAIMED = Owner(0, "none", "unclaimed_container")
CONTESTED = Owner(0, "none", "contested")
EXPIRED = Owner(0, "none", "expired")
DEGRADED = Owner(0, "none", "degraded")
ACTIVATED = Owner(0, "none", "activated")
HOST = Owner(HOST_WORKLOAD, "host", "none")
BY_CGROUP = Owner(WORKLOAD, "cgroup", "none")
BY_NETNS = Owner(WORKLOAD, "netns", "none")


def owner(flow: Flow) -> Owner:
    return Owner(flow.owner, flow.rule, flow.reason)


@dataclass(slots=True)
class Place:
    """A host of its own: three namespaces, a cgroup, and the watch."""

    watch: Watch
    host: Namespace
    container: Namespace
    other: Namespace
    cgroup: Path
    _seen: dict[str, int] = field(default_factory=dict)

    def claim(
        self,
        workload: int = WORKLOAD,
        *,
        since: int = 0,
        until: int = 0,
        path: Path | None = None,
    ) -> None:
        """Write the claim on a cgroup; since 0 is the beginning of time."""
        key = abi.ID.pack(cgroup_id(path or self.cgroup))
        self.watch.map("ft_cgroup").update(key, abi.OWNER.pack(workload, since, until, 0))

    def unclaim(self) -> None:
        self.watch.map("ft_cgroup").delete(abi.ID.pack(cgroup_id(self.cgroup)))

    def house(
        self, namespace: Namespace, *, flags: int = 0, since: int = 0, until: int = 0, kind: int = 1
    ) -> None:
        """Write the entry of a namespace."""
        value = abi.NETNS.pack(WORKLOAD, since, until, flags, kind)
        self.watch.map("ft_netns").update(abi.ID.pack(netns_cookie(namespace)), value)

    def flows(self, namespace: Namespace, count: int) -> list[Flow]:
        """The next `count` records of a namespace, clients first."""
        before = self._seen.get(namespace.name, 0)
        self._seen[namespace.name] = before + count
        found = self.watch.flows(namespace, count=before + count)[before:]
        return sorted(found, key=lambda flow: flow.role)

    def connection(self, namespace: Namespace, client: socket.socket | None = None) -> Connection:
        return Connection(self, namespace, client or make_socket(namespace, self.cgroup))

    def owners(self, namespace: Namespace) -> tuple[Owner, Owner]:
        """Of a whole connection in `namespace`: (client's, server's)."""
        return self.connection(namespace).close()


class Connection:
    """An established connection from `client` to a server of the test's own."""

    def __init__(self, place: Place, namespace: Namespace, client: socket.socket) -> None:
        self.place, self.namespace, self.client = place, namespace, client
        with namespace.entered():
            listener = socket.create_server(ADDRESS)
        with listener:
            client.connect(ADDRESS)
            self.server, _ = listener.accept()

    def close(self) -> tuple[Owner, Owner]:
        client, server = self.flows()
        return owner(client), owner(server)

    def flows(self) -> list[Flow]:
        linger_zero(self.client)
        self.client.close()
        self.server.close()
        return self.place.flows(self.namespace, 2)


_serial = itertools.count()


def cgroup_name() -> str:
    return f"flowtag-kernel-{os.getpid()}-{next(_serial)}"


@pytest.fixture(scope="module")
def module_place(kernel: None) -> Iterator[Place]:
    with Network() as network:
        host, container, other = (
            network.namespace(name, bridge=False) for name in ("host", "container", "other")
        )
        with Watch(host=host, activators=("ft-activator",)) as watch:
            yield Place(watch, host, container, other, Path())


@pytest.fixture
def place(module_place: Place) -> Iterator[Place]:
    """The namespaces and the watch are the module's; the cgroup and all entries are the test's."""
    with cgroup(cgroup_name()) as path:
        module_place.cgroup = path
        yield module_place
        for name in ("ft_cgroup", "ft_netns"):
            for key in list(module_place.watch.map(name).keys()):
                module_place.watch.map(name).delete(key)


def test_host_without_a_claim(place: Place) -> None:
    assert place.owners(place.host) == (HOST, HOST)


def test_host_network_workload(place: Place) -> None:
    place.claim()
    assert place.owners(place.host) == (BY_CGROUP, HOST)


def test_host_whose_identity_is_not_known(place: Place) -> None:
    place.watch.programs.host.begin(0)
    try:
        assert place.owners(place.host) == (NOBODY_CLAIMS, NOBODY_CLAIMS)
    finally:
        place.watch.programs.host.begin(HOST_WORKLOAD)


def test_record_names_cgroup_and_namespace(place: Place) -> None:
    client, server = place.connection(place.host).flows()
    assert client.cgroup_id == cgroup_id(place.cgroup)
    assert server.cgroup_id != client.cgroup_id
    assert client.netns == server.netns == netns_cookie(place.host)


@pytest.mark.parametrize("where", ["host", "container", "other"])
@pytest.mark.parametrize(
    ("workload", "wanted"),
    [
        (WORKLOAD, BY_CGROUP),
        (abi.OWNER_UNCLAIMED, UNCLAIMED),
        (abi.OWNER_CONTESTED, CONTESTED),
    ],
    ids=["claimed", "unclaimed", "contested"],
)
def test_claim_on_the_cgroup(place: Place, where: str, workload: int, wanted: Owner) -> None:
    namespace: Namespace = getattr(place, where)
    place.house(place.container)
    place.claim(workload)
    client, _ = place.owners(namespace)
    assert client == wanted


@pytest.mark.parametrize("where", ["host", "container", "other"])
@pytest.mark.parametrize(
    ("since", "until", "wanted"),
    [
        (-HOUR, 0, BY_CGROUP),
        (-HOUR, HOUR, BY_CGROUP),  # ended after the socket opened
        (HOUR, 0, EXPIRED),  # began after it
        (-HOUR, -1, EXPIRED),  # ended before it
    ],
)
def test_time_of_the_claim(place: Place, where: str, since: int, until: int, wanted: Owner) -> None:
    now = boottime()
    place.claim(since=max(0, now + since), until=now + until if until else 0)
    assert place.owners(getattr(place, where))[0] == wanted


def test_claim_between_open_and_established_does_not_count(place: Place) -> None:
    """What counts is the time at which the socket opened, not the time of the look-up."""
    client = make_socket(place.other, place.cgroup)
    drop = ("add table inet t", "add chain inet t i { type filter hook input priority 0; }")
    for command in (*drop, "add rule inet t i tcp dport 7001 drop"):
        place.other.run("nft", command)
    client.setblocking(False)
    assert client.connect_ex(ADDRESS) == errno.EINPROGRESS
    place.claim(since=boottime())
    with place.other.entered():
        listener = socket.create_server(ADDRESS)
    place.other.run("nft", "delete table inet t")
    listener.settimeout(20)
    server, _ = listener.accept()  # the SYN is sent again after a second
    listener.close()
    client.close()
    server.close()
    assert [owner(flow) for flow in place.flows(place.other, 2)] == [EXPIRED, NOBODY_CLAIMS]


def test_new_generation_is_judged_by_its_own_time(place: Place) -> None:
    """One socket: its first flow opened before the claim, its second after."""
    connection = place.connection(place.other)
    place.claim(since=boottime())
    disconnect(connection.client)
    connection.server.close()
    again = place.connection(place.other, connection.client)
    again.client.close()
    again.server.close()
    first, second, *_ = place.flows(place.other, 4)
    assert (first.generation, owner(first)) == (0, NOBODY_CLAIMS)
    assert (second.generation, owner(second)) == (1, BY_CGROUP)


def test_claim_that_was_written_late_counts_if_it_was_alive(place: Place) -> None:
    before = boottime()
    connection = place.connection(place.other)
    place.claim(since=before)
    client, server = connection.flows()
    assert owner(client) == BY_CGROUP
    assert client.flags & abi.FLOW_ATTR_AT_CLOSE
    assert owner(server) == NOBODY_CLAIMS


def test_claim_that_began_late_does_not_count(place: Place) -> None:
    connection = place.connection(place.other)
    place.claim(since=boottime())
    client, _ = connection.close()
    assert client == NOBODY_CLAIMS  # the reason is the one from when it opened


def test_owner_stays_once_it_is_known(place: Place) -> None:
    place.claim()
    connection = place.connection(place.other)
    place.claim(OTHER_WORKLOAD)
    client, _ = connection.flows()
    assert owner(client) == BY_CGROUP
    assert not client.flags & abi.FLOW_ATTR_AT_CLOSE


def test_survivor_of_a_contest_gets_nothing_from_its_time(place: Place) -> None:
    place.claim(abi.OWNER_CONTESTED)
    connection = place.connection(place.host)
    place.claim(WORKLOAD)
    assert connection.close()[0] == CONTESTED


def test_unclaimed_cgroup_that_is_claimed_before_the_close(place: Place) -> None:
    before = boottime()
    place.claim(abi.OWNER_UNCLAIMED)
    connection = place.connection(place.host)
    place.claim(since=before)
    assert connection.close()[0] == BY_CGROUP


def test_refused_connect_is_owned_too(place: Place) -> None:
    """It is never established, so it is looked up at its close."""
    place.claim()
    with make_socket(place.other, place.cgroup) as client:
        assert client.connect_ex(ADDRESS) == errno.ECONNREFUSED
    (flow,) = place.flows(place.other, 1)
    assert (owner(flow), flow.end) == (BY_CGROUP, "refused")
    assert flow.flags & abi.FLOW_ATTR_AT_CLOSE


def test_accepted_socket_is_its_listeners(place: Place) -> None:
    """Whoever accepts: the kernel copies the cgroup of the listener's creator."""
    place.claim()
    listener = make_socket(place.host, place.cgroup)
    listener.bind(ADDRESS)
    listener.listen()
    with place.host.entered():
        client = socket.create_connection(ADDRESS)
    server, _ = listener.accept()
    for end in (client, server, listener):
        end.close()
    flows = place.flows(place.host, 2)
    assert [(flow.role, owner(flow)) for flow in flows] == [("client", HOST), ("server", BY_CGROUP)]


def test_degraded_host_owns_nothing(place: Place) -> None:
    programs = place.watch.programs
    programs.close_gaps(programs.gaps.get() + 1)
    try:
        assert programs.degraded()
        assert place.owners(place.host) == (DEGRADED, DEGRADED)
        place.claim()
        assert place.owners(place.host) == (BY_CGROUP, DEGRADED)
        assert place.owners(place.other) == (BY_CGROUP, NOBODY_CLAIMS)
    finally:
        programs.close_gaps(programs.gaps.get())


def test_degradation_that_ends_before_the_close(place: Place) -> None:
    programs = place.watch.programs
    programs.close_gaps(programs.gaps.get() + 1)
    connection = place.connection(place.host)
    programs.close_gaps(programs.gaps.get())
    assert connection.close() == (HOST, HOST)


def test_host_where_containers_have_no_cgroup(kernel: None, place: Place) -> None:
    with Watch(host=place.host, host_needs_claim=True) as watch:
        here = Place(watch, place.host, place.container, place.other, place.cgroup)
        assert here.owners(here.host) == (DEGRADED, DEGRADED)
        here.claim()
        assert here.owners(here.host) == (BY_CGROUP, DEGRADED)
    place.flows(place.host, 4)


def test_container_without_a_claim(place: Place) -> None:
    """nsenter, a CNI plugin: a foreign process in somebody's namespace is not that somebody."""
    place.house(place.container)
    assert place.owners(place.container) == (FOREIGN, FOREIGN)


def test_container_without_a_usable_cgroup(place: Place) -> None:
    place.house(place.container, flags=abi.FLAG_NO_CGROUP)
    assert place.owners(place.container) == (BY_NETNS, BY_NETNS)
    place.claim(OTHER_WORKLOAD)
    assert place.owners(place.container)[0] == (OTHER_WORKLOAD, "cgroup", "none")


@pytest.mark.parametrize(("since", "until"), [(HOUR, 0), (0, -1)], ids=["later", "earlier"])
def test_time_of_the_namespaces_claim(place: Place, since: int, until: int) -> None:
    now = boottime()
    place.house(
        place.container,
        flags=abi.FLAG_NO_CGROUP,
        since=now + since if since else 0,
        until=now + until if until else 0,
    )
    assert place.owners(place.container) == (EXPIRED, EXPIRED)


def test_namespace_that_nobody_knows(place: Place) -> None:
    assert place.owners(place.other) == (NOBODY_CLAIMS, NOBODY_CLAIMS)


def test_host_entry_does_not_make_a_namespace_the_hosts(place: Place) -> None:
    """Which namespace is the host's is fixed at load; an entry cannot say so."""
    place.house(place.other, kind=abi.NETNS_KINDS.index("host"))
    assert place.owners(place.other) == (NOBODY_CLAIMS, NOBODY_CLAIMS)


def test_socket_that_outlives_its_cgroup(place: Place) -> None:
    """Without an entry a dead cgroup says nothing: never the host's."""
    with cgroup(cgroup_name()) as path:
        place.claim(path=path)
        key = abi.ID.pack(cgroup_id(path))
        first, second = make_socket(place.host, path), make_socket(place.host, path)
    # The kernel ended the claim when the cgroup went.
    assert place.connection(place.host, first).close() == (EXPIRED, HOST)
    assert place.watch.map("ft_cgroup").delete(key)
    assert place.connection(place.host, second).close() == (EXPIRED, HOST)


def test_socket_that_opened_before_its_cgroup_went(place: Place) -> None:
    with cgroup(cgroup_name()) as path:
        place.claim(path=path)
        key = abi.ID.pack(cgroup_id(path))
        first = place.connection(place.host, make_socket(place.host, path))
        second = place.connection(place.host, make_socket(place.host, path))
    assert first.close() == (BY_CGROUP, HOST)
    assert place.watch.map("ft_cgroup").delete(key)
    assert second.close() == (BY_CGROUP, HOST)


def _listen(made: socket.socket) -> None:
    made.bind(ADDRESS)
    made.listen()


def _accepted(place: Place, listener: socket.socket, namespace: Namespace) -> Owner:
    with namespace.entered():
        client = socket.create_connection(ADDRESS)
    server, _ = listener.accept()
    for end in (client, server, listener):
        end.close()
    return owner(place.flows(namespace, 2)[1])


@pytest.mark.parametrize(
    ("comm", "wanted"),
    [
        ("ft-activator", ACTIVATED),
        ("ft-activato", HOST),
        ("ft-activators", HOST),
        ("server", HOST),
    ],
)
def test_listener_made_for_others(place: Place, comm: str, wanted: Owner) -> None:
    """By the name of the process that listens."""
    listener = make_socket(place.host, comm=comm, prepare=_listen)
    assert _accepted(place, listener, place.host) == wanted


def test_listener_made_for_others_in_a_claimed_cgroup(place: Place) -> None:
    place.claim()
    listener = make_socket(place.host, place.cgroup, comm="ft-activator", prepare=_listen)
    assert _accepted(place, listener, place.host) == BY_CGROUP


def test_listener_made_for_others_in_another_namespace(place: Place) -> None:
    listener = make_socket(place.other, comm="ft-activator", prepare=_listen)
    assert _accepted(place, listener, place.other) == NOBODY_CLAIMS


def test_connection_of_a_process_that_listens_for_others(place: Place) -> None:
    def listen_and_connect(made: socket.socket) -> None:
        with socket.create_server(ADDRESS) as listener:
            made.connect(ADDRESS)
            listener.accept()[0].close()

    with place.host.entered():
        client = make_socket(place.host, comm="ft-activator", prepare=listen_and_connect)
    client.close()
    flows = place.flows(place.host, 2)
    assert [owner(flow) for flow in flows] == [HOST, ACTIVATED]


def _adopted(flow: Flow) -> None:
    assert flow.flags & abi.FLOW_ADOPTED
    assert flow.connect_us is None


def test_adopted_socket_passes_the_time_test_of_its_cgroup(place: Place) -> None:
    """A cgroup id is not used again, so a claim that was there first can only be its own."""
    by_cgroup = make_socket(place.other, place.cgroup)
    foreign = make_socket(place.container)
    connections = [
        Connection(place, place.other, by_cgroup),
        Connection(place, place.container, foreign),
    ]
    for connection in connections:
        connection.client.sendall(bytes(500))
    with Watch(host=place.host) as watch:
        here = Place(watch, place.host, place.container, place.other, place.cgroup)
        here.claim(since=boottime())
        here.house(here.container, flags=abi.FLAG_NO_CGROUP)
        for connection in connections:
            assert connection.server.recv(500, socket.MSG_WAITALL) == bytes(500)
            connection.client.close()
            connection.server.close()
        claimed = here.flows(here.other, 2)
        housed = here.flows(here.container, 2)
    assert {owner(flow) for flow in claimed} == {BY_CGROUP, NOBODY_CLAIMS}
    assert {owner(flow) for flow in housed} == {EXPIRED}
    for flow in (*claimed, *housed):
        _adopted(flow)
        assert flow.end == "fin"
        assert flow.bytes_sent + flow.bytes_received == 500
    place.flows(place.other, 2)
    place.flows(place.container, 2)


def test_adopted_socket_is_not_the_next_containers(place: Place) -> None:
    """A claim that came after the socket was first seen: the cgroup was left standing and used again."""
    connection = Connection(place, place.other, make_socket(place.other, place.cgroup))
    with Watch(host=place.host) as watch:
        here = Place(watch, place.host, place.container, place.other, place.cgroup)
        watch.programs.adopt()
        here.claim(since=boottime())
        connection.client.close()
        connection.server.close()
        flows = here.flows(here.other, 2)
    assert {flow.owner for flow in flows} == {0}
    place.flows(place.other, 2)


def test_adopted_socket_in_an_ended_cgroup_claim(place: Place) -> None:
    """First seen when its claim had ended: by then the cgroup may have been another's."""
    client = make_socket(place.other, place.cgroup)
    connection = Connection(place, place.other, client)
    with Watch(host=place.host) as watch:
        here = Place(watch, place.host, place.container, place.other, place.cgroup)
        here.claim(until=boottime())
        connection.client.close()
        connection.server.close()
        flows = here.flows(here.other, 2)
    assert {owner(flow) for flow in flows} == {EXPIRED, NOBODY_CLAIMS}
    place.flows(place.other, 2)
