# SPDX-License-Identifier: Apache-2.0
"""Blocks of ports: the annotation, the split into prefixes, and claims on real maps against a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpf import abi
from bpf.error import FlowtagError
from bpf.syscall import Map
from exporter.programs import create_maps
from identity import address, port_block, translation
from identity.claim import Claim
from identity.pinned import open_map
from identity.port_block import Block

SHARED = address.from_text("100.64.0.7")
SHARED6 = address.from_text("2001:db8::7")
BOTH = frozenset([SHARED, SHARED6])
ME, OTHER = 0x1_0001, 0x2_0002

ranges = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda two: (min(two), max(two)))


class Maps:
    """ft_addr and ft_port, and the lock's directory."""

    def __init__(self, addresses: Map, ports: Map, locks: str) -> None:
        self.addresses, self.ports, self.locks = addresses, ports, locks

    def claim(self, workload: int, *blocks: Block, since: int = 5) -> list[Block]:
        return port_block.claim(self.addresses, self.ports, list(blocks), Claim(workload, since), self.locks)

    def release(self, workload: int, *blocks: Block, now: int = 9) -> int:
        return port_block.release(self.addresses, self.ports, list(blocks), workload, now, self.locks)

    def owner(self, port: int, where: bytes = SHARED) -> int:
        """Who owns a port, looked up as the kernel does: ft_port, else the longest prefix; 0 if ended."""
        key = abi.ADDR_KEY.pack(144, where, port.to_bytes(2, "big"))
        value = self.ports.get(port_block.port_key(where, port)) or self.addresses.get(key)
        if value is None:
            return 0
        found = Claim.unpack(value)
        return 0 if found.until else found.workload

    def clear(self) -> None:
        for keys in (self.addresses, self.ports):
            for key in list(keys.keys()):
                keys.delete(key)


@pytest.fixture
def maps(pin_directory: Path, tmp_path: Path) -> Iterator[Maps]:
    create_maps(str(pin_directory), 4096)
    with (
        open_map("ft_addr", str(pin_directory)) as addresses,
        open_map("ft_port", str(pin_directory)) as ports,
    ):
        yield Maps(addresses, ports, str(tmp_path))


@given(ranges)
def test_split_covers_exactly_the_range(bounds: tuple[int, int]) -> None:
    first, last = bounds
    following = first
    pieces = port_block.split(first, last)
    for port, bits in pieces:
        size = 1 << (16 - bits)
        assert (port, port % size) == (following, 0)
        following += size
    assert following == last + 1
    assert len(pieces) <= 30


def test_split_aligned_block_is_one_prefix() -> None:
    assert port_block.split(32768, 33791) == [(32768, 6)]
    assert port_block.split(0, 65535) == [(0, 0)]
    assert port_block.split(80, 80) == [(80, 16)]


@given(st.lists(ranges, min_size=1, max_size=4), st.sampled_from([SHARED, SHARED6]))
def test_parse_reads_what_a_block_prints(bounds: list[tuple[int, int]], where: bytes) -> None:
    blocks = [Block(where, *pair) for pair in bounds]
    text = ",".join(map(str, blocks))
    if any(a.meets(b) for i, a in enumerate(blocks) for b in blocks[:i]):
        with pytest.raises(FlowtagError, match="overlap"):
            port_block.parse(text, BOTH)
    else:
        assert port_block.parse(text, BOTH) == blocks


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "100.64.0.7", "100.64.0.7:", ":80", "100.64.0.7:0", "100.64.0.7:65536", "100.64.0.7:080"),
        *("100.64.0.7:2-1", "100.64.0.7:1-", "100.64.0.7:-1", "100.64.0.7:1-2-3", "100.64.0.7:1,", "x:1"),
        *(" 100.64.0.7:1", "100.64.0.7:1 ", "100.64.0.7:+1", "100.64.0.7:\u0661", "[100.64.0.7]:1"),
        *("2001:db8::7:1", "[2001:db8::7:1", "[2001:db8::7]", "[2001:db8::7]1", "100.64.0.7:1\0"),
        "100.64.0.7:1,100.64.0.8:1",  # one that is not shared spoils all
        ",".join(f"100.64.0.7:{port}" for port in range(1, 18)),
        "100.64.0.7:1" + " " * 2000,
    ],
)
def test_parse_malformed_or_not_shared(text: str) -> None:
    with pytest.raises(FlowtagError, match=r"flowtag\.io/translated|for a block") as caught:
        port_block.parse(text, BOTH)
    assert caught.value.hint


@given(st.text(max_size=60) | st.text("0123456789.:-,[]", max_size=60))
def test_parse_anything_else_is_an_error(text: str) -> None:
    try:
        blocks = port_block.parse(text, BOTH)
    except FlowtagError:
        return
    assert blocks
    assert {block.address for block in blocks} <= BOTH


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "127.255.0.1", "169.254.169.254", "192.0.0.1", "192.0.0.7", "0.0.0.0", "224.0.0.1"),
        *("255.255.255.255", "::", "::1", "fe80::1", "febf::1", "ff02::1"),
    ],
)
def test_address_that_is_not_unique_on_a_host(text: str) -> None:
    with pytest.raises(FlowtagError, match="not unique"):
        Block(address.from_text(text), 1, 2)


@pytest.mark.parametrize("text", ["192.0.0.8", "169.253.0.1", "10.0.0.1", "223.1.1.1", "::2", "fec0::1"])
def test_address_that_is_unique_on_a_host(text: str) -> None:
    port_block.require_unique(address.from_text(text))


def test_claim_of_a_block_is_found_by_each_port(maps: Maps) -> None:
    assert maps.claim(ME, Block(SHARED, 1000, 1999), Block(SHARED, 80, 80), Block(SHARED6, 1000, 1000)) == []
    assert [maps.owner(port) for port in (999, 1000, 1999, 2000, 79, 80, 81)] == [0, ME, ME, 0, 0, ME, 0]
    assert (maps.owner(1000, SHARED6), maps.owner(1001, SHARED6)) == (ME, 0)


def test_claim_that_overlaps_anothers_is_refused_whole(maps: Maps) -> None:
    mine = Block(SHARED, 1000, 1999)
    assert maps.claim(ME, mine, Block(SHARED, 80, 80)) == []
    refused = [Block(SHARED, *pair) for pair in ((1999, 3000), (1, 1000), (1500, 1500), (1, 9999), (80, 80))]
    elsewhere = Block(SHARED6, 1000, 1999)
    assert maps.claim(OTHER, *refused, elsewhere) == refused
    assert [maps.owner(port) for port in (1, 79, 80, 1000, 1999, 2000, 3000)] == [0, 0, ME, ME, ME, 0, 0]
    assert maps.owner(1000, SHARED6) == OTHER
    assert maps.claim(ME, mine) == []  # once more is no contest


def test_release_ends_only_our_own(maps: Maps) -> None:
    block, single = Block(SHARED, 1000, 1999), Block(SHARED, 80, 80)
    maps.claim(ME, block, single)
    assert maps.release(OTHER, block, single) == 0
    assert maps.release(ME, block, single) == len(block.prefixes()) + 1
    assert maps.release(ME, block, single) == 0
    assert maps.owner(1500) == maps.owner(80) == 0
    ended = [Claim.unpack(value) for keys in (maps.addresses, maps.ports) for _, value in keys.items()]
    assert {(claim.workload, claim.since, claim.until) for claim in ended} == {(ME, 5, 9)}


def test_publication_for_one_connect_is_no_claim(maps: Maps) -> None:
    translation.publish_port(maps.ports, "100.64.0.7", 1500, OTHER)
    block = Block(SHARED, 1000, 1999)
    assert maps.claim(ME, block) == []
    assert maps.release(ME, block) == len(block.prefixes())
    assert maps.owner(1500) == OTHER


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(100, 131), st.integers(0, 20)).map(lambda two: (two[0], two[0] + two[1]))
        | st.integers(0, 30),
        max_size=25,
    )
)
def test_claims_against_a_plain_model(maps: Maps, steps: list[tuple[int, int] | int]) -> None:
    """A pair claims a block for a new workload; a number releases the workload of that step."""
    maps.clear()
    model: dict[int, int] = {}
    blocks: dict[int, Block] = {}
    for step, what in enumerate(steps):
        workload = abi.OWNER_SPECIAL + 1 + step
        if isinstance(what, tuple):
            block = blocks[workload] = Block(SHARED, *what)
            wanted = range(what[0], what[1] + 1)
            free = not any(port in model for port in wanted)
            assert maps.claim(workload, block) == ([] if free else [block])
            model.update(dict.fromkeys(wanted, workload) if free else {})
        elif (gone := abi.OWNER_SPECIAL + 1 + what) in blocks:
            held = {port for port, owner in model.items() if owner == gone}
            assert bool(maps.release(gone, blocks[gone])) == bool(held)
            model = {port: owner for port, owner in model.items() if owner != gone}
        assert [maps.owner(port) for port in range(99, 153)] == [
            model.get(port, 0) for port in range(99, 153)
        ]
