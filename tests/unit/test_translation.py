# SPDX-License-Identifier: Apache-2.0
"""Publications and marks on real maps: what translators write."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf import abi
from bpf.error import FlowtagError
from bpf.syscall import Map
from exporter.programs import create_maps
from identity import address, claim, netns, port_block, translation
from identity.claim import Claim
from identity.pinned import open_map
from identity.workload import Workload
from tests.hook_maps import entry

ME, OTHER = 0x1_0001, 0x2_0002
SECOND = 1_000_000_000
CONTAINER = claim.CONTAINER_NETNS


@pytest.fixture
def pins(pin_directory: Path) -> str:
    create_maps(str(pin_directory), 4096)
    return str(pin_directory)


def opened(name: str, pins: str) -> Iterator[Map]:
    with open_map(name, pins) as found:
        yield found


@pytest.fixture
def sockets(pins: str) -> Iterator[Map]:
    yield from opened("ft_socket", pins)


@pytest.fixture
def ports(pins: str) -> Iterator[Map]:
    yield from opened("ft_port", pins)


@pytest.fixture
def spaces(pins: str) -> Iterator[Map]:
    yield from opened("ft_netns", pins)


@pytest.fixture
def cgroups(pins: str) -> Iterator[Map]:
    yield from opened("ft_cgroup", pins)


@pytest.fixture
def locks(tmp_path: Path) -> str:
    return str(tmp_path)


def at(keys: Map, key: bytes) -> Claim:
    value = keys.get(key)
    assert value is not None
    return Claim.unpack(value)


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_socket_published_and_withdrawn(sockets: Map) -> None:
    with socket.socket() as made:
        number = translation.cookie(made)
    before = now()
    translation.publish_socket(sockets, number, ME)
    found = at(sockets, entry(number))
    assert (found.workload, found.until, found.flags) == (ME, 0, 0)
    assert before <= found.since <= now()
    translation.publish_socket(sockets, number, OTHER)  # the last word counts
    assert at(sockets, entry(number)).workload == OTHER
    assert translation.withdraw_socket(sockets, number)
    assert not translation.withdraw_socket(sockets, number)


def test_port_published_and_withdrawn(ports: Map) -> None:
    for space in (0, 77):
        translation.publish_port(ports, "100.64.0.7", 4000, ME, space)
        key = abi.PORT_KEY.pack(address.from_text("::ffff:100.64.0.7"), space, 4000, socket.IPPROTO_TCP)
        assert (at(ports, key).workload, at(ports, key).flags) == (ME, abi.FLAG_ONCE)
    assert translation.withdraw_port(ports, "100.64.0.7", 4000, 77)
    assert not translation.withdraw_port(ports, "100.64.0.7", 4000, 77)
    assert len(list(ports.items())) == 1


def test_port_claimed_for_life_is_not_published_for_another(ports: Map) -> None:
    key = port_block.port_key(address.from_text("100.64.0.7"), 4000)
    ports.update(key, Claim(ME, 5).pack())
    with pytest.raises(FlowtagError, match="claimed by workload 0x10001"):
        translation.publish_port(ports, "100.64.0.7", 4000, OTHER)
    translation.publish_port(ports, "100.64.0.7", 4000, ME)
    assert not translation.withdraw_port(ports, "100.64.0.7", 4000)
    assert (at(ports, key).since, at(ports, key).flags) == (5, 0)
    ports.update(key, Claim(ME, 5, 6).pack())  # ended
    translation.publish_port(ports, "100.64.0.7", 4000, OTHER)
    assert at(ports, key).workload == OTHER


@pytest.mark.parametrize("workload", [-1, 0, abi.OWNER_TRANSLATOR, abi.OWNER_SPECIAL, 1 << 64])
def test_publish_no_workload(sockets: Map, workload: int) -> None:
    with pytest.raises(FlowtagError, match="no workload's id"):
        translation.publish_socket(sockets, 7, workload)


@pytest.mark.parametrize("number", [-1, 0, 1 << 64])
def test_publish_no_cookie(sockets: Map, number: int) -> None:
    with pytest.raises(FlowtagError, match="not a socket's cookie"):
        translation.publish_socket(sockets, number, ME)


@pytest.mark.parametrize(
    ("place", "port"), [("100.64.0.7", 0), ("100.64.0.7", 65536), ("127.0.0.1", 1), ("100.64.0", 1), ("", 1)]
)
def test_publish_no_place(ports: Map, place: str, port: int) -> None:
    with pytest.raises(FlowtagError) as caught:
        translation.publish_port(ports, place, port, ME)
    assert caught.value.hint


def test_age_out_takes_what_nobody_took(sockets: Map, ports: Map) -> None:
    claimed = port_block.port_key(address.from_text("100.64.0.7"), 80)
    ports.update(claimed, Claim(ME, 1).pack())
    translation.publish_socket(sockets, 7, ME)
    translation.publish_port(ports, "100.64.0.7", 4000, ME)
    assert translation.age_out(sockets, ports, now(), 60) == 0
    assert translation.age_out(sockets, ports, now() + 61 * SECOND, 60) == 2
    assert [key for keys in (sockets, ports) for key, _ in keys.items()] == [claimed]


def test_find_workload_living_and_only_one(pins: str) -> None:
    with open_map("ft_workload", pins) as workloads:
        for number, name, end in (
            (ME, "web", 0),
            (OTHER, "web", 9),
            (3 << 20, "two", 0),
            (4 << 20, "two", 0),
        ):
            workloads.update(entry(number), Workload(id=number, container_id=name, end=end).pack())
        assert translation.find_workload(workloads, "web") == ME
        for name, count in (("two", 2), ("none", 0), ("", 0)):
            with pytest.raises(FlowtagError, match=f"{count} are alive"):
                translation.find_workload(workloads, name)


def test_mark_netns(spaces: Map, locks: str) -> None:
    translation.mark_netns(spaces, 7, locks)
    first = at(spaces, entry(7))
    assert (first.workload, first.until, first.kind) == (
        abi.OWNER_TRANSLATOR,
        0,
        translation.TRANSLATOR_NETNS,
    )
    translation.mark_netns(spaces, 7, locks)
    assert at(spaces, entry(7)).since == first.since
    assert claim.claim_netns(spaces, 7, Claim(ME, 9), locks) == claim.KEPT
    assert translation.unmark(spaces, 7, locks)
    assert not translation.unmark(spaces, 7, locks)
    assert claim.claim_netns(spaces, 7, Claim(ME, 9), locks) == claim.CLAIMED
    with pytest.raises(FlowtagError, match="claimed by workload 0x10001"):
        translation.mark_netns(spaces, 7, locks)
    assert claim.release(spaces, 7, ME, 10, locks)
    translation.mark_netns(spaces, 7, locks)


def test_mark_netns_of_the_host(spaces: Map, locks: str) -> None:
    with pytest.raises(FlowtagError, match="the host's"):
        translation.mark_netns(spaces, netns.host_cookie(), locks)
    assert not list(spaces.items())


@pytest.mark.parametrize(
    ("old", "marked"),
    [
        (None, True),
        (Claim(abi.OWNER_UNCLAIMED, 1), True),
        (Claim(ME, 1, 0, abi.FLAG_INHERITED), True),
        (Claim(ME, 1, 2), True),
        (Claim(abi.OWNER_TRANSLATOR, 1, 0, abi.FLAG_INHERITED), True),
        (Claim(ME, 1), False),
        (Claim(ME, 1, 0, abi.FLAG_RECONCILED), False),
        (Claim(abi.OWNER_CONTESTED, 1), False),
    ],
)
def test_mark_cgroup(cgroups: Map, locks: str, old: Claim | None, marked: bool) -> None:
    if old:
        cgroups.update(entry(7), old.pack())
    if not marked:
        with pytest.raises(FlowtagError, match="is claimed by"):
            translation.mark_cgroup(cgroups, 7, locks)
        return
    translation.mark_cgroup(cgroups, 7, locks)
    found = at(cgroups, entry(7))
    assert (found.workload, found.until, found.flags) == (abi.OWNER_TRANSLATOR, 0, 0)
