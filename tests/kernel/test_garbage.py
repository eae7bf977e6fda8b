# SPDX-License-Identifier: Apache-2.0
"""Garbage collection with an advanced clock: what is ended, what is kept and for how long."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf import abi
from exporter import garbage
from identity.workload import KIND_CONTAINER, SOURCE_HOOK, Workload, new_id
from tests.kernel.cgroup import cgroup_id, make_socket
from tests.kernel.own_host import OwnHost
from tests.kernel.pair import boottime, until
from tests.rig.kernel import HOST_WORKLOAD, netns_cookie
from tests.rig.network import Network

ME = 0x1111_1111_1111_1111
GRACE = garbage.KEY_GRACE / garbage.SECOND
HOUR = garbage.WORKLOAD_GRACE / garbage.SECOND
TRANSLATOR = abi.NETNS_KINDS.index("translator")


@pytest.fixture
def host(kernel: None, tmp_path: Path) -> Iterator[OwnHost]:
    with OwnHost(tmp_path) as host:
        yield host


def put(host: OwnHost, name: str, number: int, *, workload: int = ME, ended: int = 0, kind: int = 0) -> None:
    value = abi.OWNER.pack(workload, 1, ended, 0)
    if name == "ft_netns":
        value = abi.NETNS.pack(workload, 1, ended, 0, kind or 1)
    host.watch.map(name).update(abi.ID.pack(number), value)


def add(host: OwnHost, *, start: int = 1, end: int = 0, **fields: int) -> int:
    """A workload that nothing names."""
    known = Workload(
        id=new_id(), start=start, end=end, kind=KIND_CONTAINER, **{"source": SOURCE_HOOK, **fields}
    )
    host.watch.map("ft_workload").update(abi.ID.pack(known.id), known.pack())
    return known.id


def test_tombstone_is_kept_for_the_grace(host: OwnHost) -> None:
    with host.container("web") as pid:
        mine = host.create_runtime("web", pid)
    host.poststop("web")
    number = cgroup_id(host.root / "web")
    (host.root / "web").rmdir()
    claim = host.claim("ft_cgroup", number)
    assert claim is not None
    since_end = (boottime() - claim.until) / garbage.SECOND
    assert host.collect(GRACE - since_end - 2).removed["ft_cgroup"] == 0
    claim = host.claim("ft_cgroup", number)
    assert claim is not None
    assert claim.workload == mine.id
    assert host.collect(GRACE).removed["ft_cgroup"] == 1
    assert host.claim("ft_cgroup", number) is None
    # Its name is kept longer: records of its last sockets may be on their way.
    assert host.workload(mine.id) is not None
    assert host.collect(HOUR - 5).removed["ft_workload"] == 0
    assert host.collect(HOUR + 1).removed["ft_workload"] == 1
    assert host.workload(mine.id) is None


@pytest.mark.parametrize("ended", [0, 2], ids=["living", "ended"])
def test_claim_on_a_living_cgroup_is_never_removed(host: OwnHost, ended: int) -> None:
    number = cgroup_id(host.root)
    put(host, "ft_cgroup", number, ended=ended)
    for seconds in (0, GRACE + 1, 2 * HOUR):
        assert host.collect(seconds).removed["ft_cgroup"] == 0
        claim = host.claim("ft_cgroup", number)
        assert claim is not None
        assert (claim.workload, claim.until) == (ME, ended)


def test_claim_on_a_cgroup_that_nobody_saw_go(host: OwnHost) -> None:
    """Removed while no program was attached: it ends when that is noticed, and goes a grace later."""
    number = 1 << 40
    put(host, "ft_cgroup", number)
    began = boottime()
    assert host.collect().removed["ft_cgroup"] == 0
    claim = host.claim("ft_cgroup", number)
    assert claim is not None
    assert began <= claim.until <= boottime()
    assert host.collect(GRACE - 5).removed["ft_cgroup"] == 0
    assert host.collect(GRACE + 1).removed["ft_cgroup"] == 1


def test_namespaces(host: OwnHost) -> None:
    """One that a mount keeps lives without a process; a translator's stays in any case."""
    with Network() as network:
        gone = netns_cookie(network.namespace("gone", bridge=False))
        put(host, "ft_netns", gone)
        kept = netns_cookie(host.pod)
        put(host, "ft_netns", kept)
        put(host, "ft_netns", 1 << 40, kind=TRANSLATOR)
        host.collect()
        for number in (gone, kept):
            claim = host.claim("ft_netns", number)
            assert claim is not None
            assert claim.until == 0
    host.collect()
    claim = host.claim("ft_netns", gone)
    assert claim is not None
    assert claim.until != 0
    assert host.collect(GRACE + 1).removed["ft_netns"] == 1
    assert host.claim("ft_netns", gone) is None
    for number in (kept, 1 << 40):
        claim = host.claim("ft_netns", number)
        assert claim is not None
        assert claim.until == 0


@pytest.mark.parametrize("collected", [False, True])
def test_late_socket_of_a_cgroup_that_is_gone(host: OwnHost, collected: bool) -> None:
    """Made by a container, passed to a process outside, connected when the container is long gone."""
    with host.container("web") as pid:
        mine = host.create_runtime("web", pid)
        early = make_socket(host.space, host.root / "web")
        late = make_socket(host.space, host.root / "web")
        assert host.flow(early).owner == mine.id
    host.poststop("web")
    number = cgroup_id(host.root / "web")
    (host.root / "web").rmdir()
    host.collect(GRACE + 1 if collected else 0)
    assert (host.claim("ft_cgroup", number) is None) == collected
    flow = host.flow(late)
    assert (flow.owner, flow.rule, flow.reason) == (0, "none", "expired")
    assert host.flow(make_socket(host.space)).owner == HOST_WORKLOAD


def test_found_container_ends_with_its_cgroup(host: OwnHost) -> None:
    host.tick()
    with host.container("web", host.pod):

        def found() -> bool:
            host.tick()
            return host.owner("web").flags == abi.FLAG_RECONCILED

        until(found)
        number, owner = cgroup_id(host.root / "web"), host.owner("web").workload
        host.collect()
        known = host.workload(owner)
        assert known is not None
        assert known.end == 0
    (host.root / "web").rmdir()
    host.collect()
    claim = host.claim("ft_cgroup", number)
    known = host.workload(owner)
    house = host.claim("ft_netns", netns_cookie(host.pod))
    assert claim is not None
    assert known is not None
    assert house is not None
    assert claim.until == known.end == house.until != 0  # the moment at which the kernel removed it


def test_workload_that_nothing_names_ends(host: OwnHost) -> None:
    """Its file was lost, and its keys are gone. A young one's keys may be on their way."""
    old, young = add(host), add(host, start=boottime())
    host.collect()
    for number, ended in ((old, True), (young, False)):
        known = host.workload(number)
        assert known is not None
        assert (known.end != 0) == ended


def test_workload_of_a_file_is_kept(host: OwnHost) -> None:
    with host.container("web") as pid:
        mine = host.create_runtime("web", pid)
        host.watch.map("ft_cgroup").delete(abi.ID.pack(cgroup_id(host.root / "web")))
        host.collect(2 * HOUR)
        known = host.workload(mine.id)
        assert known is not None
        assert known.end == 0
        os.unlink(f"{host.run}/live/{host.file_name('web')}")
        host.collect(2 * HOUR)
        known = host.workload(mine.id)
        assert known is not None
        assert known.end != 0


def test_workload_names_make_room(host: OwnHost) -> None:
    workloads = host.watch.map("ft_workload")
    ended = boottime()
    count = int(workloads.max_entries * garbage.CROWDED) + 1
    value = Workload(id=ME, start=1, end=ended, kind=KIND_CONTAINER).pack()
    for number in range(count - 1):
        workloads.update(abi.ID.pack(1 << 30 | number), value)
    assert host.collect(GRACE + 1).removed["ft_workload"] == 0
    add(host, end=ended)
    assert host.collect(GRACE - 10).removed["ft_workload"] == 0
    assert host.collect(GRACE + 1).removed["ft_workload"] == count


def test_hosts_identity_is_kept(host: OwnHost) -> None:
    number = host.identify()
    for _ in range(2):
        host.collect(2 * HOUR)
    known, slot = host.workload(number), host.workload(abi.OWNER_HOST_SLOT)
    assert known == slot
    assert known is not None
    assert known.end == 0
