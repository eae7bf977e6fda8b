# SPDX-License-Identifier: Apache-2.0
"""The walk of the cgroup tree: what is marked, which containers are found, and what is left alone.

Its mount is a cgroup of the test's own, so "first level" means the children of that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bpf import abi, syscall
from exporter.config import Config, Host
from exporter.containers import RECONCILED, Walk
from identity.claim import CONTAINER_NETNS, Claim
from identity.pinned import open_map
from identity.workload import KIND_CONTAINER, Workload
from tests.hook_maps import WRITTEN, entry, make_map, make_maps
from tests.kernel.cgroup import cgroup, cgroup_id
from tests.kernel.own_host import resident
from tests.kernel.pair import boottime
from tests.rig.kernel import netns_cookie
from tests.rig.network import Network

HEX = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
UID = "pod3d1b7f8e_1c1d_4c6e_9a55_0c7f4d9d3b11"
ME = 0x1111_1111_1111_1111


@dataclass(slots=True)
class Tree:
    """Maps, and a cgroup that stands for the mount."""

    top: Path
    pins: Path
    config: Config
    waiting: int = field(default=0)

    def walk(self) -> int:
        """How many containers it found; the walk must be whole."""
        walk = Walk(self.config, str(self.top))
        assert walk.run()
        self.waiting = walk.waiting
        return walk.found

    def make(self, path: str) -> Path:
        (self.top / path).mkdir(parents=True, exist_ok=True)
        return self.top / path

    def put(self, path: str, claim: Claim) -> None:
        with open_map("ft_cgroup", str(self.pins)) as keys:
            keys.update(entry(cgroup_id(self.top / path)), claim.pack())

    def claim(self, path: str) -> Claim | None:
        return self.get("ft_cgroup", cgroup_id(self.top / path))

    def owner(self, path: str) -> int:
        claim = self.claim(path)
        assert claim is not None, path
        return claim.workload

    def get(self, name: str, number: int) -> Claim | None:
        with open_map(name, str(self.pins)) as keys:
            value = keys.get(entry(number))
        return Claim.unpack(value) if value else None

    def workload(self, number: int) -> Workload:
        with open_map("ft_workload", str(self.pins)) as workloads:
            value = workloads.get(entry(number))
        assert value is not None
        return Workload.unpack(value)


@pytest.fixture
def tree(pin_directory: Path, tmp_path: Path) -> Iterator[Tree]:
    make_maps(pin_directory)
    (tmp_path / "lock").mkdir()
    host = Host(pin_directory=str(pin_directory), run_directory=str(tmp_path), engine_roots=("mine",))
    with cgroup(f"flowtag-walk-{os.getpid()}") as top:
        yield Tree(top, pin_directory, Config(host=host))


@pytest.mark.parametrize(
    ("path", "container_id", "runtime"),
    [
        (f"docker/{HEX}", HEX, "docker"),
        ("runc/web", "web", "runc"),
        ("mine/web", "web", ""),
        ("k8s.io/web", "web", "containerd"),
        (f"system.slice/docker-{HEX}.scope", HEX, "docker"),
        (f"docker-{HEX}.scope", HEX, "docker"),
        (f"machine.slice/libpod-{HEX}.scope", HEX, "podman"),
        (f"user.slice/user-0.slice/user@0.service/user.slice/libpod-{HEX}.scope", HEX, "podman"),
        (f"kubepods/burstable/{UID}/{HEX}", HEX, ""),
        (
            f"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-{UID}.slice/crio-{HEX}.scope",
            HEX,
            "crio",
        ),
        (f"kubepods.slice/kubepods-{UID}.slice/cri-containerd-{HEX}.scope", HEX, "containerd"),
    ],
)
def test_walk_finds_container(tree: Tree, path: str, container_id: str, runtime: str) -> None:
    began = boottime()
    with resident(tree.make(path)):
        tree.make(f"{path}/init.scope/deep")
        assert tree.walk() == 1
    claim = tree.claim(path)
    assert claim is not None
    assert (claim.until, claim.flags) == (0, abi.FLAG_RECONCILED)
    assert began <= claim.since <= boottime()
    known = tree.workload(claim.workload)
    assert (known.container_id, known.runtime) == (container_id, runtime)
    assert (known.kind, known.source, known.start) == (KIND_CONTAINER, RECONCILED, claim.since)
    for below in ("init.scope", "init.scope/deep"):
        inner = tree.claim(f"{path}/{below}")
        assert inner is not None
        assert (inner.workload, inner.until) == (claim.workload, 0)
        assert inner.flags == abi.FLAG_RECONCILED | abi.FLAG_INHERITED
    assert tree.walk() == 0  # it is known now
    assert tree.owner(path) == claim.workload


@pytest.mark.parametrize(
    "path",
    [
        f"machine.slice/libpod-conmon-{HEX}.scope",
        f"system.slice/crio-conmon-{HEX}.scope",
        "docker",
        f"kubepods/{UID}",
        f"docker-{HEX[:-1]}.scope",  # not an id, but an engine's all the same
    ],
)
def test_walk_marks_engines_own_cgroups(tree: Tree, path: str) -> None:
    with resident(tree.make(path)):
        assert tree.walk() == 0
    claim = tree.claim(path)
    assert claim is not None
    assert (claim.workload, claim.until, claim.flags) == (abi.OWNER_UNCLAIMED, 0, 0)


@pytest.mark.parametrize("path", ["system.slice/ssh.service", "a/docker/b", "dockerx/b", "a/mine"])
def test_walk_leaves_services_alone(tree: Tree, path: str) -> None:
    with resident(tree.make(path)):
        assert tree.walk() == 0
    assert tree.claim(path) is None


def test_walk_waits_for_a_process(tree: Tree) -> None:
    tree.make("runc/web")
    assert tree.walk() == 0
    assert tree.owner("runc/web") == abi.OWNER_UNCLAIMED
    with resident(tree.top / "runc/web"):
        tree.put("runc/web", Claim(abi.OWNER_UNCLAIMED, boottime()))
        assert tree.walk() == 0  # the hook may be at work on it
        assert tree.waiting == 1
        tree.put("runc/web", Claim(abi.OWNER_UNCLAIMED, boottime() - 10**9))
        assert tree.walk() == 1
        assert tree.waiting == 0


def test_walk_knows_namespaces(tree: Tree) -> None:
    with Network() as network:
        pod = network.namespace("pod", bridge=False)
        one, two, three = (tree.make(f"runc/{name}") for name in ("one", "two", "three"))
        with resident(one, pod), resident(three):
            assert tree.walk() == 2
            with resident(two, pod):
                tree.put("runc/two", Claim(abi.OWNER_UNCLAIMED, 1))
                assert tree.walk() == 1
        house = tree.get("ft_netns", netns_cookie(pod))
    assert house is not None
    assert (house.workload, house.kind) == (tree.owner("runc/one"), CONTAINER_NETNS)  # the first keeps it
    assert house.flags == abi.FLAG_RECONCILED
    with open_map("ft_netns", str(tree.pins)) as spaces:
        assert len(list(spaces.keys())) == 1  # the host's is nobody's


def test_walk_keeps_what_the_hook_claimed(tree: Tree) -> None:
    with resident(tree.make("runc/web")):
        tree.make("runc/web/inner")
        tree.put("runc/web", Claim(ME, 5))
        assert tree.walk() == 0
    claim, inner = tree.claim("runc/web"), tree.claim("runc/web/inner")
    assert claim is not None
    assert inner is not None
    assert (claim.workload, claim.since, claim.flags) == (ME, 5, 0)
    assert (inner.workload, inner.since, inner.flags) == (ME, 5, abi.FLAG_INHERITED)


def test_walk_container_inside_a_container_keeps_its_own(tree: Tree) -> None:
    with resident(tree.make(f"docker/{HEX}/docker/{OTHER}/deep")):
        tree.put(f"docker/{HEX}", Claim(ME, 5))
        tree.put(f"docker/{HEX}/docker/{OTHER}", Claim(ME + 1, 6))
        assert tree.walk() == 0
    assert tree.owner(f"docker/{HEX}/docker") == ME
    assert tree.owner(f"docker/{HEX}/docker/{OTHER}") == ME + 1
    assert tree.owner(f"docker/{HEX}/docker/{OTHER}/deep") == ME + 1


def test_walk_never_revives_an_ended_claim(tree: Tree) -> None:
    """What was made below it before it was claimed ends with it."""
    with resident(tree.make("runc/web/inner")):
        tree.put("runc/web", Claim(ME, 5, 6))
        tree.put("runc/web/inner", Claim(abi.OWNER_UNCLAIMED, 4))
        assert tree.walk() == 0
    claim, inner = tree.claim("runc/web"), tree.claim("runc/web/inner")
    assert claim is not None
    assert inner is not None
    assert (claim.workload, claim.until) == (ME, 6)
    assert (inner.workload, inner.until) == (ME, 6)


@pytest.mark.parametrize("owner", [abi.OWNER_CONTESTED, abi.OWNER_TRANSLATOR])
def test_walk_special_owners_are_inherited(tree: Tree, owner: int) -> None:
    with resident(tree.make("runc/web/inner")):
        tree.put("runc/web", Claim(owner, 5))
        assert tree.walk() == 0
    assert tree.owner("runc/web/inner") == owner


@pytest.mark.parametrize("full", WRITTEN)
def test_walk_with_a_full_map_is_not_whole(tree: Tree, full: str) -> None:
    (tree.pins / full).unlink()
    make_map(tree.pins, full, entries=1)
    with open_map(full, str(tree.pins)) as keys:
        keys.update(entry(1), bytes(keys.value_size), syscall.NOEXIST)
    with Network() as network:
        pod = network.namespace("pod", bridge=False)
        with resident(tree.make("runc/web"), pod):
            assert not Walk(tree.config, str(tree.top)).run()
            with open_map(full, str(tree.pins)) as keys:
                keys.delete(entry(1))
            if full == "ft_cgroup":  # one entry is not enough for root and container
                assert not Walk(tree.config, str(tree.top)).run()
            else:
                tree.walk()


def test_walk_while_cgroups_come_and_go(tree: Tree) -> None:
    """What vanishes between being listed and being read is no error."""
    stop = False
    count = 0

    def churn() -> None:
        nonlocal count
        while not stop:
            path = tree.make(f"runc/c{count % 7}/inner")
            path.rmdir()
            path.parent.rmdir()
            count += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            tree.walk()
    finally:
        stop = True
        thread.join()
    assert count > 10
