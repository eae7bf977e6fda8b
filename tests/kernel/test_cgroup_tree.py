# SPDX-License-Identifier: Apache-2.0
"""ft_cgroup follows the real cgroup tree: inheritance, engine roots, removal, and no room left."""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bpf import abi, loaded
from bpf.syscall import Map
from exporter.programs import link_path
from tests.kernel.cgroup import cgroup, cgroup_id, make_socket
from tests.kernel.pair import boottime
from tests.rig.kernel import HOST_WORKLOAD, Watch
from tests.rig.network import Namespace, Network

WORKLOAD = 0x1111_1111_1111_1111
ROOT = f"flowtag-root-{os.getpid()}"
PREFIX = f"flowtag-{os.getpid()}-scope-"
_serial = itertools.count()


class Claim(NamedTuple):
    """A value of ft_cgroup."""

    workload: int
    since: int
    until: int
    flags: int


class Tree:
    """A watch whose engine roots are ROOT and PREFIX, and its ft_cgroup."""

    def __init__(self, watch: Watch, host: Namespace) -> None:
        self.watch, self.host = watch, host
        self.map: Map = watch.map("ft_cgroup")

    def claim(self, path: Path, workload: int = WORKLOAD, until: int = 0, flags: int = 0) -> None:
        value = abi.OWNER.pack(workload, 1, until, flags)
        self.map.update(abi.ID.pack(cgroup_id(path)), value)

    def __getitem__(self, cgroup_id: int) -> Claim | None:
        value = self.map.get(abi.ID.pack(cgroup_id))
        return Claim(*abi.OWNER.unpack(value)) if value else None

    def owner(self, path: Path) -> tuple[int, str, str]:
        """Of a refused connect from a cgroup, in the host's namespace."""
        with make_socket(self.host, path) as client:
            cookie = client.getsockopt(socket.SOL_SOCKET, 57, 8)
            client.connect_ex(("127.0.0.1", 9))
        self.watch.settle()
        columns = self.watch.columns(self.host)
        (record,) = columns[columns["cookie"] == int.from_bytes(cookie, "little")]
        return int(record["owner"]), abi.RULES[record["rule"]], abi.REASONS[record["reason"]]


def misses(tree: Tree) -> int:
    """How often the kernel skipped the program that follows mkdir."""
    return loaded.link(link_path(str(tree.watch.directory), "flowtag_mkdir")).misses


@pytest.fixture(scope="module")
def tree(kernel: None) -> Iterator[Tree]:
    with Network() as network:
        host = network.namespace("host", bridge=False)
        with Watch(host=host, roots=((ROOT, False), (PREFIX, True))) as watch:
            yield Tree(watch, host)


@pytest.fixture
def top(tree: Tree) -> Iterator[Path]:
    """A first-level cgroup that no rule knows."""
    with cgroup(f"flowtag-tree-{os.getpid()}-{next(_serial)}") as path:
        yield path


def test_unknown_cgroup_gets_no_entry(tree: Tree, top: Path) -> None:
    (top / "child").mkdir()
    assert tree[cgroup_id(top)] is None
    assert tree[cgroup_id(top / "child")] is None
    assert tree.owner(top / "child") == (HOST_WORKLOAD, "host", "none")


@pytest.mark.parametrize("flags", [0, abi.FLAG_RECONCILED])
def test_nested_cgroups_inherit_at_every_level(tree: Tree, top: Path, flags: int) -> None:
    before = tree.watch.counters()["cgroup_inherited"]
    tree.claim(top, flags=flags)
    start = boottime()
    path = top
    for level in range(8):
        path = path / f"level-{level}"
        path.mkdir()
        claim = tree[cgroup_id(path)]
        assert claim is not None, (level, misses(tree), tree.watch.counters())
        assert claim == (WORKLOAD, claim.since, 0, flags | abi.FLAG_INHERITED)
        assert start <= claim.since <= boottime()
    assert tree.owner(path) == (WORKLOAD, "cgroup", "none")
    assert tree.watch.counters()["cgroup_inherited"] == before + 8


def test_nothing_is_inherited_from_a_cgroup_that_is_shared(tree: Tree, top: Path) -> None:
    """A container without a cgroup of its own has a claim there; what is made below is not its."""
    tree.claim(top, flags=abi.FLAG_NO_CGROUP)
    (top / "child").mkdir()
    assert tree[cgroup_id(top / "child")] is None


def test_cgroups_beside_a_claimed_one_inherit_nothing(tree: Tree, top: Path) -> None:
    (top / "claimed").mkdir()
    tree.claim(top / "claimed")
    (top / "beside").mkdir()
    assert tree[cgroup_id(top / "beside")] is None


def test_child_of_an_ended_claim_is_nobodys(tree: Tree, top: Path) -> None:
    """A cgroup that stays behind when its container is gone does not bring it back to life."""
    tree.claim(top, until=boottime())
    (top / "child").mkdir()
    assert tree.owner(top / "child") == (0, "none", "expired")


@pytest.mark.parametrize(
    ("workload", "reason"),
    [(abi.OWNER_UNCLAIMED, "unclaimed_container"), (abi.OWNER_CONTESTED, "contested")],
)
def test_special_owners_are_inherited(tree: Tree, top: Path, workload: int, reason: str) -> None:
    tree.claim(top, workload)
    (top / "child").mkdir()
    assert tree.owner(top / "child") == (0, "none", reason)


def test_engine_root_is_unclaimed_at_the_first_level(tree: Tree) -> None:
    before = tree.watch.counters()["cgroup_unclaimed"]
    with cgroup(ROOT) as path:
        root = tree[cgroup_id(path)]
        assert root is not None
        assert root == (abi.OWNER_UNCLAIMED, root.since, 0, 0)
        (path / "a" / "b").mkdir(parents=True)
        inner = tree[cgroup_id(path / "a" / "b")]
        assert inner is not None
        assert inner == (abi.OWNER_UNCLAIMED, inner.since, 0, abi.FLAG_INHERITED)
        assert tree.owner(path / "a" / "b") == (0, "none", "unclaimed_container")
        assert tree.watch.counters()["cgroup_unclaimed"] == before + 3
        # The hook claims one of them; what it makes from then on is its own.
        tree.claim(path / "a")
        (path / "a" / "c").mkdir()
        assert tree.owner(path / "a" / "c") == (WORKLOAD, "cgroup", "none")
        assert tree.owner(path / "a" / "b") == (0, "none", "unclaimed_container")


@pytest.mark.parametrize("name", [ROOT + "x", ROOT[:-1], "x" + ROOT])
def test_engine_root_is_the_whole_name(tree: Tree, name: str) -> None:
    with cgroup(name) as path:
        assert tree[cgroup_id(path)] is None


def test_engine_root_counts_at_the_first_level_only(tree: Tree, top: Path) -> None:
    (top / ROOT).mkdir()
    assert tree[cgroup_id(top / ROOT)] is None


def test_engine_scope_is_known_by_its_prefix_at_any_level(tree: Tree, top: Path) -> None:
    for path in (top / f"{PREFIX}1.scope", top / "system.slice" / f"{PREFIX}{'0' * 64}.scope"):
        path.mkdir(parents=True)
        claim = tree[cgroup_id(path)]
        assert claim is not None
        assert claim.workload == abi.OWNER_UNCLAIMED
        assert tree.owner(path) == (0, "none", "unclaimed_container")
    (top / PREFIX[:-1]).mkdir()
    assert tree[cgroup_id(top / PREFIX[:-1])] is None
    with cgroup(f"{PREFIX}top") as path:
        assert tree[cgroup_id(path)] is not None


def test_removal_ends_the_claim(tree: Tree, top: Path) -> None:
    before = tree.watch.counters()["cgroup_tombstoned"]
    path = top / "short-lived"
    path.mkdir()
    tree.claim(path)
    key = cgroup_id(path)
    start = boottime()
    path.rmdir()
    claim = tree[key]
    assert claim is not None
    assert claim == (WORKLOAD, 1, claim.until, 0)
    assert start <= claim.until <= boottime()
    assert tree.watch.counters()["cgroup_tombstoned"] == before + 1


def test_removal_keeps_an_earlier_end(tree: Tree, top: Path) -> None:
    path = top / "ended"
    path.mkdir()
    tree.claim(path, until=77)
    key = cgroup_id(path)
    path.rmdir()
    claim = tree[key]
    assert claim is not None
    assert claim.until == 77


def _fill(map_: Map) -> list[bytes]:
    """Write entries until there is no room; their keys, which no cgroup has."""
    filled: list[bytes] = []
    value = abi.OWNER.pack(WORKLOAD, 1, 0, 0)
    while True:
        key = abi.ID.pack((1 << 40) + len(filled))
        try:
            map_.update(key, value)
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
            return filled
        filled.append(key)


def test_full_map_degrades_until_the_next_whole_walk(tree: Tree, top: Path) -> None:
    """The cgroup without an entry is nobody's, and so is all of the host that has none."""
    programs = tree.watch.programs
    tree.claim(top)
    (top / "before").mkdir()
    filled = _fill(tree.map)
    try:
        assert not programs.degraded()
        (top / "after").mkdir()
        assert tree[cgroup_id(top / "after")] is None
        assert programs.degraded()
        assert tree.watch.counters()["cgroup_full"] == 1
        assert tree.owner(top / "after") == (0, "none", "degraded")
        assert tree.owner(top / "before") == (WORKLOAD, "cgroup", "none")
    finally:
        for key in filled:
            tree.map.delete(key)
    tree.claim(top / "after", abi.OWNER_UNCLAIMED)  # what the walk finds
    programs.close_gaps(programs.gaps.get())
    assert tree.owner(top / "after") == (0, "none", "unclaimed_container")
    (top / "again").mkdir()
    assert not programs.degraded()
