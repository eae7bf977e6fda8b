# SPDX-License-Identifier: Apache-2.0
"""Who has which address: asked of real namespaces, kept in ft_addr, and attributing nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bpf import abi
from exporter.address_lookup import of_address
from exporter.addresses import Addresses
from exporter.config import Config, Translation
from exporter.surroundings import look_around
from identity import address
from identity.claim import Claim
from tests.kernel.cgroup import make_socket
from tests.kernel.own_host import OwnHost, resident
from tests.rig.kernel import netns_cookie, socket_cookie
from tests.rig.network import Namespace, Network


@pytest.fixture
def host(kernel: None, tmp_path: Path) -> Iterator[OwnHost]:
    with OwnHost(tmp_path) as host:
        yield host


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


def holder(host: OwnHost, text: str) -> Claim | None:
    """The entry that ft_addr has for exactly this address."""
    wanted = abi.ADDR_KEY.pack(128, address.from_text(text), bytes(2))
    found = [value for key, value in host.watch.map("ft_addr").items() if key == wanted]
    return Claim.unpack(found[0]) if found else None


def held_by(host: OwnHost, text: str) -> int:
    """The workload that has the address; 0 if nobody has it now."""
    found = holder(host, text)
    return 0 if found is None or found.until else found.workload


def configure(place: Namespace, text: str) -> None:
    place.run("ip", "address", "add", f"{text}/{128 if ':' in text else 32}", "dev", "lo")


def forget(place: Namespace, text: str) -> None:
    place.run("ip", "address", "del", f"{text}/{128 if ':' in text else 32}", "dev", "lo")


def test_addresses_of_a_container_are_its_own(host: OwnHost, network: Network) -> None:
    place = network.namespace("web")
    with host.container("web", place) as pid:
        mine = host.create_runtime("web", pid)
        host.tick()
        for text in (place.ipv4, place.ipv6):
            found = holder(host, text)
            assert found is not None
            assert (found.workload, found.until, found.flags) == (mine.id, 0, abi.FLAG_ADDRESS)
        for text in ("127.0.0.1", "::1"):
            assert holder(host, text) is None
    host.poststop("web")
    asked = Addresses(host.config)
    asked.tick()
    assert held_by(host, place.ipv4) == 0
    ended = holder(host, place.ipv4)
    assert ended is not None
    assert ended.until > mine.start


def test_address_that_comes_after_the_hook_is_found_within_seconds(host: OwnHost) -> None:
    host.tick()  # the first look at all namespaces is over
    with host.container("web", host.pod) as pid:
        mine = host.create_runtime("web", pid)
        host.tick()
        time.sleep(0.3)
        host.tick()
        configure(host.pod, "10.99.0.7")
        deadline = time.monotonic() + 5
        while not held_by(host, "10.99.0.7") and time.monotonic() < deadline:
            host.tick()
            time.sleep(0.05)
        assert held_by(host, "10.99.0.7") == mine.id


def test_address_of_two_namespaces_is_contested_until_one_leaves(host: OwnHost, network: Network) -> None:
    """A tenant may configure its neighbour's."""
    places = network.namespace("one"), network.namespace("two")
    with ExitStack() as stack:
        owners = [
            host.create_runtime(name, stack.enter_context(host.container(name, place))).id
            for name, place in zip(("one", "two"), places, strict=True)
        ]
        asked = Addresses(host.config)
        for change, place, expected in (
            (configure, places[0], owners[0]),
            (configure, places[1], abi.OWNER_CONTESTED),
            (forget, places[1], owners[0]),
        ):
            change(place, "fd99::9")
            asked.ask_all()
            assert held_by(host, "fd99::9") == expected
        # Its successor knows what it left.
        forget(places[0], "fd99::9")
        Addresses(host.config).ask_all()
        assert held_by(host, "fd99::9") == 0


def test_no_hook_yet_is_nothing_to_tell(host: OwnHost, capsys: pytest.CaptureFixture[str]) -> None:
    asked = Addresses(host.config)
    assert not (host.run / "live").exists()
    for _ in range(3):
        asked.tick()
    assert "addresses" not in capsys.readouterr().out


def test_shared_address_is_nobodys(host: OwnHost) -> None:
    with host.container("web", host.pod) as pid:
        host.create_runtime("web", pid)
        configure(host.pod, "100.64.0.7")
        config = Config(host=host.config.host, translation=Translation(shared_addresses=("100.64.0.7",)))
        Addresses(config).ask_all()
        assert holder(host, "100.64.0.7") is None


def test_entry_of_a_translator_is_left_alone(host: OwnHost) -> None:
    key = abi.ADDR_KEY.pack(128, address.from_text("10.99.0.7"), bytes(2))
    theirs = Claim(1 << 40, 1).pack()
    host.watch.map("ft_addr").update(key, theirs)
    with host.container("web", host.pod) as pid:
        host.create_runtime("web", pid)
        configure(host.pod, "10.99.0.7")
        Addresses(host.config).ask_all()
        assert dict(host.watch.map("ft_addr").items())[key] == theirs


def test_address_attributes_no_flow(host: OwnHost, network: Network) -> None:
    """A translator's socket that has the address of a container belongs to whom it was published for."""
    place = network.namespace("web")
    home = abi.NETNS.pack(abi.OWNER_TRANSLATOR, 1, 0, 0, abi.NETNS_KINDS.index("translator"))
    with host.container("web", place) as pid:
        host.create_runtime("web", pid)
        Addresses(host.config).ask_all()
        assert held_by(host, place.ipv4)
        configure(host.space, place.ipv4)
        host.watch.map("ft_netns").update(abi.ID.pack(netns_cookie(host.space)), home)
        asking = make_socket(host.space, host.root)
        host.watch.map("ft_cgroup").update(
            abi.ID.pack(host.root.stat().st_ino), Claim(abi.OWNER_TRANSLATOR, 1).pack()
        )
        cookie = socket_cookie(asking)
        asking.bind((place.ipv4, 0))
        with pytest.raises(ConnectionRefusedError):
            asking.connect((place.ipv4, 9))
        asking.close()
        flow = host.record(cookie)
        assert (flow.owner, flow.reason) == (0, "unpublished")


def test_lookup_says_who_has_an_address(host: OwnHost, network: Network) -> None:
    place = network.namespace("web")
    with host.container("web", place) as pid, resident(host.root, place):
        mine = host.create_runtime("web", pid)
        Addresses(host.config).ask_all()
        found = of_address(place.ipv4, host.config, look_around(host.pins))
        assert found.claim is not None
        assert (found.claim["workload"], found.rule) == (str(mine.id), "address")
