# SPDX-License-Identifier: Apache-2.0
"""The host's identity changes: each socket gets the one that was in force when it opened, by the kernel."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from bpf import abi
from exporter.host_history import LEAD_NS, now
from tests.kernel.pair import SECONDS
from tests.rig.kernel import Flow, Watch
from tests.rig.network import Namespace, Network

OLD, NEW = 0xAAAA_0001, 0xAAAA_0002
PORT = 7003


class Place:
    """A host's namespace under a watch that begins with the identity OLD."""

    def __init__(self, watch: Watch, space: Namespace) -> None:
        self.watch, self.space = watch, space
        self._before = 0

    def rotate(self, workload: int = NEW) -> int:
        """Announce the next identity; the time from which it is in force."""
        since = now() + LEAD_NS
        assert self.watch.programs.host.succeed(workload, since)
        return since

    def socket(self) -> socket.socket:
        with self.space.entered():
            return socket.socket()

    def refused(self) -> None:
        """A flow that opens now and ends at once."""
        with self.socket() as made:
            assert made.connect_ex(("127.0.0.1", 9)) == errno.ECONNREFUSED

    def flows(self, count: int) -> list[Flow]:
        found = self.watch.flows(self.space, count=self._before + count)[self._before :]
        self._before += count
        return found


@pytest.fixture
def place(kernel: None) -> Iterator[Place]:
    with Network() as network:
        space = network.namespace("host", bridge=False)
        with Watch(host=space) as watch:
            watch.programs.host.begin(OLD)
            yield Place(watch, space)


def wait_until(when: int) -> None:
    while now() <= when:
        time.sleep(0.001)


def test_rotation_splits_flows_by_the_nanosecond(place: Place) -> None:
    """Two threads open flows all the while: by its opening alone each is the one's or the other's."""
    stop = threading.Event()
    made = [0, 0]

    def storm(index: int) -> None:
        with place.space.entered():
            while not stop.is_set():
                with socket.socket() as one:
                    one.connect_ex(("127.0.0.1", 9))
                made[index] += 1

    threads = [threading.Thread(target=storm, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    times = []
    for workload in range(NEW, NEW + 4):
        times.append(place.rotate(workload))
        wait_until(times[-1])
    time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    flows = place.flows(sum(made))
    wanted = [OLD, *range(NEW, NEW + 4)]
    for flow in flows:
        assert flow.owner == wanted[sum(since <= flow.time_open for since in times)]
    assert {flow.owner for flow in flows} == set(wanted)


def test_connect_from_before_the_rotation_is_the_old_ones(place: Place) -> None:
    """It is looked up long after, when it is established: the opening counts."""
    place.space.run("nft", "add", "table", "inet", "t")
    place.space.run("nft", "add", "chain", "inet", "t", "input", "{ type filter hook input priority 0; }")
    place.space.run("nft", "add", "rule", "inet", "t", "input", "tcp", "dport", str(PORT), "drop")
    with place.space.entered():
        listener = socket.create_server(("127.0.0.1", PORT))
    with listener, place.socket() as slow:
        slow.setblocking(False)
        assert slow.connect_ex(("127.0.0.1", PORT)) == errno.EINPROGRESS
        wait_until(place.rotate())
        place.space.run("nft", "delete", "table", "inet", "t")
        listener.settimeout(SECONDS)
        accepted, _ = listener.accept()
        accepted.close()
    server, client = sorted(place.flows(2), key=lambda flow: flow.role, reverse=True)
    assert (client.role, client.owner, client.rule) == ("client", OLD, "host")
    assert (server.role, server.owner, server.rule) == ("server", NEW, "host")


def test_open_flow_keeps_the_identity_that_it_opened_under(place: Place) -> None:
    with place.space.entered():
        listener = socket.create_server(("127.0.0.1", PORT))
    with listener, place.socket() as client:
        client.connect(("127.0.0.1", PORT))
        accepted, _ = listener.accept()
        wait_until(place.rotate())
        client.close()
        accepted.close()
    assert {flow.owner for flow in place.flows(2)} == {OLD}


def test_announced_identity_is_not_in_force_yet(place: Place) -> None:
    since = place.rotate()
    place.refused()
    wait_until(since)
    place.refused()
    assert [flow.owner for flow in place.flows(2)] == [OLD, NEW]


def test_identity_that_is_older_than_the_history_is_expired(place: Place) -> None:
    """A connect that is looked up after more rotations than are kept is nobody's, not a later one's."""
    place.space.run("nft", "add", "table", "inet", "t")
    place.space.run("nft", "add", "chain", "inet", "t", "input", "{ type filter hook input priority 0; }")
    place.space.run("nft", "add", "rule", "inet", "t", "input", "tcp", "dport", str(PORT), "drop")
    with place.space.entered():
        listener = socket.create_server(("127.0.0.1", PORT))
    with listener, place.socket() as slow:
        slow.setblocking(False)
        assert slow.connect_ex(("127.0.0.1", PORT)) == errno.EINPROGRESS
        for number in range(abi.HOST_MAX - 1):
            wait_until(place.rotate(NEW + number))
        place.space.run("nft", "delete", "table", "inet", "t")
        listener.settimeout(SECONDS)
        listener.accept()[0].close()
    client = next(flow for flow in place.flows(2) if flow.role == "client")
    assert (client.owner, client.reason) == (0, "expired")


@pytest.mark.parametrize(("rotated", "wanted"), [(False, (OLD, "none")), (True, (0, "expired"))])
def test_adopted_socket_is_only_the_first_identitys(
    kernel: None, rotated: bool, wanted: tuple[int, str]
) -> None:
    """It may have opened under any: the first that this exporter knew has it while there was no other."""
    with Network() as network:
        space = network.namespace("host", bridge=False)
        with space.entered():
            listener = socket.create_server(("127.0.0.1", PORT))
            client = socket.create_connection(("127.0.0.1", PORT))
            server, _ = listener.accept()
        listener.close()
        with Watch(host=space) as watch:
            place = Place(watch, space)
            watch.programs.host.begin(OLD)
            if rotated:
                wait_until(place.rotate())
            watch.programs.adopt()
            if not rotated:
                wait_until(place.rotate())
            client.close()
            server.close()
            flows = place.flows(2)
    assert {(flow.owner, flow.reason) for flow in flows} == {wanted}
    assert all(flow.flags & abi.FLOW_ADOPTED for flow in flows)
