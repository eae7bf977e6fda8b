# SPDX-License-Identifier: Apache-2.0
"""What the hook missed: unhooked containers, identities left in pending/, poststops that never came."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bpf import abi
from exporter import orphans
from exporter.containers import HOOK_NS, RECONCILED
from identity import cgroup, claim, gap, incarnation
from identity.claim import STRIPES
from identity.incarnation import Incarnation
from identity.workload import KIND_POD
from tests.kernel.cgroup import cgroup as new_cgroup
from tests.kernel.cgroup import cgroup_id, make_socket
from tests.kernel.own_host import OwnHost, resident
from tests.kernel.pair import boottime, until
from tests.rig.kernel import netns_cookie, socket_cookie

NOWHERE = "/sys/fs/bpf/nowhere"


@pytest.fixture
def host(kernel: None, tmp_path: Path) -> Iterator[OwnHost]:
    with OwnHost(tmp_path) as host:
        host.tick()  # the exporter's start
        yield host


def found(host: OwnHost, name: str) -> bool:
    """Whether the exporter has found the container by itself, in another turn of its loop."""
    host.tick()
    return host.owner(name).flags == abi.FLAG_RECONCILED


def turns(host: OwnHost, condition: Callable[[], bool]) -> None:
    """Let the exporter's loop turn until `condition`."""

    def turned() -> bool:
        host.tick()
        return condition()

    until(turned)


def test_unhooked_container_is_noticed_within_a_second(host: OwnHost) -> None:
    began = time.monotonic()
    with host.container("web"), ExitStack() as stack:
        early = make_socket(host.space, host.root / "web")
        slow = stack.enter_context(make_socket(host.space, host.root / "web"))
        with host.space.entered():
            server = stack.enter_context(early.__class__())
        server.bind(("127.0.0.1", 0))
        server.listen()
        slow.connect(server.getsockname())
        assert host.flow(early)[6:9] == (0, "none", "unclaimed_container")
        until(lambda: found(host, "web"))
        assert time.monotonic() - began < 1
        late = host.flow(make_socket(host.space, host.root / "web"))
        known = host.workload(late.owner)
        assert known is not None
        assert (known.container_id, known.source, late.rule) == ("web", RECONCILED, "cgroup")
        # Opened before it was known whose it is, closed after: nobody's, and never the host's.
        cookie = socket_cookie(slow)
        slow.close()
        server.accept()[0].close()
        record = host.record(cookie)
        assert (record.owner, record.reason) == (0, "unclaimed_container")


def test_hook_quicker_than_the_walk(host: OwnHost) -> None:
    with host.container("web", host.pod) as pid:
        host.tick()
        mine = host.create_runtime("web", pid)
        time.sleep(HOOK_NS / 1e9)
        host.tick()
        assert (host.owner("web").workload, host.owner("web").flags) == (mine.id, 0)
        assert [known.id for known in host.workloads()] == [mine.id]


def test_hook_later_than_the_walk_replaces_its_finding(host: OwnHost) -> None:
    with host.container("web", host.pod) as pid:
        until(lambda: found(host, "web"))
        before = host.owner("web").workload
        (host.root / "web" / "inner").mkdir()
        mine = host.create_runtime("web", pid)
        claim, inner = host.owner("web"), host.owner("web/inner")
        assert (claim.workload, claim.since, claim.flags) == (mine.id, mine.start, 0)
        assert (inner.workload, inner.flags) == (mine.id, abi.FLAG_INHERITED)
        house = host.claim("ft_netns", netns_cookie(host.pod))
        assert house is not None
        assert (house.workload, house.flags) == (mine.id, 0)
        host.collect()  # nothing names the finding any more
        old = host.workload(before)
        assert old is not None
        assert old.end != 0
        assert host.owner("web").until == 0


def test_another_container_in_a_found_ones_cgroup_contests(host: OwnHost) -> None:
    with host.container("web") as pid:
        until(lambda: found(host, "web"))
        host.create_runtime("other", pid)
        assert host.owner("web").workload == abi.OWNER_CONTESTED
        host.tick()
        assert host.owner("web").workload == abi.OWNER_CONTESTED
        flow = host.flow(make_socket(host.space, host.root / "web"))
        assert (flow.owner, flow.reason) == (0, "contested")


def test_pending_is_replayed_with_its_time(host: OwnHost) -> None:
    with host.container("web", host.pod) as pid:
        mine = host.create_runtime("web", pid, pins=NOWHERE)
        assert [left.workload.id for left in host.files("pending")] == [mine.id]
        (host.root / "web" / "inner").mkdir()
        between, inner = (
            make_socket(host.space, path) for path in (host.root / "web", host.root / "web/inner")
        )
        with host.space.entered():
            server = between.__class__()
        server.bind(("127.0.0.1", 0))
        server.listen()
        for client in (between, inner):
            client.connect(server.getsockname())
        host.tick()
        claim = host.owner("web")
        assert (claim.workload, claim.since, claim.flags) == (mine.id, mine.start, 0)
        house = host.claim("ft_netns", netns_cookie(host.pod))
        assert house is not None
        assert (house.workload, house.since) == (mine.id, mine.start)
        assert host.files("pending") == []
        assert [left.workload.id for left in host.files("live")] == [mine.id]
        cookies = [socket_cookie(client) for client in (between, inner)]
        for client in (between, inner):
            client.close()
        for _ in cookies:
            server.accept()[0].close()
        server.close()
        for cookie in cookies:
            record = host.record(cookie)
            assert (record.owner, record.rule) == (mine.id, "cgroup")
            assert record.flags & abi.FLOW_ATTR_AT_CLOSE
    host.poststop("web")  # it is like any other now
    assert host.owner("web").until != 0
    assert host.files("live") == []


def test_pending_of_a_container_that_has_gone_claims_nothing(host: OwnHost) -> None:
    with host.container("web") as pid:
        host.create_runtime("web", pid, pins=NOWHERE)
    host.tick()
    assert host.owner("web").workload == abi.OWNER_UNCLAIMED
    assert host.files("pending") == host.files("live") == []


def test_pending_end_is_made_good(host: OwnHost) -> None:
    """What poststop could not end: the file says when, also if another runs in the same cgroup by now."""
    with host.container("web") as pid:
        mine = host.create_runtime("web", pid)
    path = f"{host.run}/live/{host.file_name('web')}"
    (left,) = host.files("live")
    left.workload.end = ended = boottime()
    incarnation.write(path, left)
    with host.container("web"):
        host.new_reconciler().tick()
        assert (host.owner("web").workload, host.owner("web").until) == (mine.id, ended)
        known = host.workload(mine.id)
        assert known is not None
        assert known.end == ended
        assert host.files("live") == []


def test_replay_of_a_restarted_container_ends_the_earlier_one(host: OwnHost) -> None:
    with host.container("web") as pid:
        old = host.create_runtime("web", pid)
    with host.container("web") as pid:
        new = host.create_runtime("web", pid, pins=NOWHERE)
        host.tick()
        assert (host.owner("web").workload, host.owner("web").since) == (new.id, new.start)
        known = host.workload(old.id)
        assert known is not None
        assert known.end == new.start
        assert [left.workload.id for left in host.files("live")] == [new.id]


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "started anew"])
def test_poststop_that_never_came(host: OwnHost, restarted: bool) -> None:
    with host.container("web", host.pod) as pid:
        mine = host.create_runtime("web", pid)
        for _ in range(3):
            host.new_reconciler().tick()  # it lives: nothing happens
        assert host.owner("web").until == 0
    number = cgroup_id(host.root / "web")
    (host.root / "web").rmdir()
    died = time.monotonic()
    if restarted:
        host.new_reconciler().tick()
    else:
        turns(host, lambda: not host.files("live"))
        assert time.monotonic() - died < orphans.CHECK_SECONDS + 1
    for name, key in (("ft_cgroup", number), ("ft_netns", netns_cookie(host.pod))):
        claim = host.claim(name, key)
        assert claim is not None
        assert claim.workload == mine.id
        assert 0 < claim.until <= boottime()
    known = host.workload(mine.id)
    assert known is not None
    assert 0 < known.end <= boottime()
    assert host.files("live") == []
    host.poststop("web")  # very late


def test_poststop_that_never_came_with_a_nested_cgroup_left(host: OwnHost) -> None:
    """Its cgroup is used again, with what is in it: none of that is the earlier container's."""
    with host.container("web") as pid:
        host.create_runtime("web", pid)
        (host.root / "web" / "inner").mkdir()
    host.new_reconciler().tick()
    flow = host.flow(make_socket(host.space, host.root / "web" / "inner"))
    assert (flow.owner, flow.reason) == (0, "expired")
    with host.container("web") as pid:
        other = host.create_runtime("other", pid)
        flow = host.flow(make_socket(host.space, host.root / "web" / "inner"))
        assert (flow.owner, flow.rule) == (other.id, "cgroup")


def test_a_hook_that_hangs_does_not_stop_the_exporter(host: OwnHost) -> None:
    with host.container("web") as pid, host.container("plain"):
        mine = host.create_runtime("web", pid, pins=NOWHERE)
        time.sleep(HOOK_NS / 1e9)
        held = [os.open(host.run / "lock" / f"{i:02x}", os.O_CREAT) for i in range(STRIPES)]
        for fd in held:
            fcntl.flock(fd, fcntl.LOCK_EX)
        for _ in range(3):
            host.tick()
            host.collect(61)
        assert [left.workload.id for left in host.files("pending")] == [mine.id]
        for fd in held:
            os.close(fd)
        until(lambda: found(host, "plain"))
        turns(host, lambda: host.owner("web").workload == mine.id)


def test_full_map_is_walked_again_and_again(host: OwnHost) -> None:
    programs = host.watch.programs
    keys = host.watch.map("ft_cgroup")
    filled = []
    value = abi.OWNER.pack(1 << 20, 1, 0, 0)
    number = 1 << 40  # no cgroup has such an id
    try:
        while True:
            keys.update(abi.ID.pack(number), value)
            filled.append(number)
            number += 1
    except OSError as error:
        full = error.errno
    assert full == 7  # E2BIG
    with host.container("web"):
        assert programs.degraded()
        host.tick()
        assert programs.degraded()
        for number in filled:
            keys.delete(abi.ID.pack(number))
        turns(host, lambda: not programs.degraded())
        assert found(host, "web")  # it was there before the entry: no hook is at work on it
        assert cgroup.populated(str(host.root / "web"))


def test_missing_claim_on_the_hosts_network_makes_the_host_nobodys(host: OwnHost) -> None:
    """Its cgroup lies below no engine's root: without the gap its flows would be the host's."""
    host.settings["host_netns"] = str(netns_cookie(host.space))
    host.watch.programs.host.begin(77_777)
    with new_cgroup(f"flowtag-outside-{os.getpid()}") as outside, resident(outside, host.space) as pid:
        assert host.flow(make_socket(host.space, outside)).rule == "host"
        with pytest.MonkeyPatch.context() as patch:  # for a map that is full
            patch.setattr(claim, "claim_cgroup", refuse)
            mine = host.create_runtime("outside", pid)
            assert gap.read(host.pins).since == mine.start
            host.tick()
            flow = host.flow(make_socket(host.space, outside))
            assert (flow.owner, flow.reason) == (0, "degraded")
            assert gap.read(host.pins).since
        turns(host, lambda: not gap.read(host.pins).since)
        flow = host.flow(make_socket(host.space, outside))
        assert (flow.owner, flow.rule) == (mine.id, "cgroup")
        assert host.flow(make_socket(host.space)).rule == "host"


def test_gap_stays_if_the_identity_is_lost(host: OwnHost) -> None:
    gap.open_gap(host.pins, boottime(), gap.LOST, str(host.run / "lock"))
    gap.open_gap(host.pins, boottime(), 1 << 40, str(host.run / "lock"))
    host.tick()
    assert gap.read(host.pins).by == gap.LOST


def test_gap_of_a_hook_that_came_meanwhile_stays(host: OwnHost) -> None:
    gap.open_gap(host.pins, 10, 1 << 40, str(host.run / "lock"))
    seen = gap.read(host.pins)
    gap.open_gap(host.pins, 20, 1 << 41, str(host.run / "lock"))
    assert not gap.close_gap(host.pins, seen, str(host.run / "lock"))
    assert gap.read(host.pins).since == 10


def test_hook_killed_after_its_claims_leaves_its_identity(host: OwnHost) -> None:
    """Nobody else would end them while the cgroup stands."""
    with host.container("web", host.pod) as pid, pytest.MonkeyPatch.context() as patch:
        patch.setattr(incarnation, "write", killed_at(2))
        with pytest.raises(KeyboardInterrupt):
            host.create_runtime("web", pid)
        (left,) = host.files("pending")
        assert host.owner("web").workload == left.workload.id
    (host.root / "web" / "cgroup.procs").read_text(encoding="ascii")  # it stands
    time.sleep(HOOK_NS / 1e9)
    turns(host, lambda: not host.files("pending"))
    assert host.owner("web").until != 0


def test_hook_at_work_is_left_alone(host: OwnHost) -> None:
    with host.container("web", host.pod) as pid, pytest.MonkeyPatch.context() as patch:
        patch.setattr(incarnation, "write", killed_at(2))
        with pytest.raises(KeyboardInterrupt):
            host.create_runtime("web", pid)
        host.tick()
        assert len(host.files("pending")) == 1
        turns(host, lambda: not host.files("pending"))
        assert len(host.files("live")) == 1


def test_pod_without_cgroups_is_the_pods(host: OwnHost) -> None:
    """Its containers share the namespace, which alone tells the owner: as much as it can tell."""
    with ExitStack() as stack:
        pids = [stack.enter_context(resident(host.root.parent, host.pod)) for _ in range(3)]
        uid = {"pod": "p", "namespace": "n", "pod_uid": "u"}
        pod = host.create_runtime("sandbox", pids[0], kind=KIND_POD, **uid)
        for name, pid in zip(("one", "two"), pids[1:], strict=True):
            host.create_runtime(name, pid, **uid)
        house = host.claim("ft_netns", netns_cookie(host.pod))
        assert house is not None
        assert (house.workload, house.flags) == (pod.id, abi.FLAG_NO_CGROUP)
        host.create_runtime("stranger", pids[1], **{**uid, "pod_uid": "v"})
        house = host.claim("ft_netns", netns_cookie(host.pod))
        assert house is not None
        assert house.workload == abi.OWNER_CONTESTED


def refuse(*_: object) -> str:
    raise OSError(errno.E2BIG, "Argument list too long", "ft_cgroup")


def killed_at(call: int) -> Callable[[str, Incarnation], None]:
    """The hook's write of a file, until the hook is killed at this one."""
    real, calls = incarnation.write, itertools.count(1)

    def write(path: str, new: Incarnation) -> None:
        if next(calls) == call:
            raise KeyboardInterrupt
        real(path, new)

    return write
