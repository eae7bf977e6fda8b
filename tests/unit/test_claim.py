# SPDX-License-Identifier: Apache-2.0
"""Claims on real maps: every rule, and many processes that claim at once."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf import abi
from bpf.error import FlowtagError
from bpf.syscall import Map
from identity import claim
from identity.claim import CLAIMED, CONTESTED, KEPT, Claim
from identity.pinned import open_map
from identity.workload import Workload
from tests.hook_maps import entry, make_map, make_maps

ME, OTHER, THIRD = 0x1_0001, 0x2_0002, 0x3_0003
HOST = abi.NETNS_KINDS.index("host")
TRANSLATOR = abi.NETNS_KINDS.index("translator")


@pytest.fixture
def locks(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def cgroups(pin_directory: Path) -> Iterator[Map]:
    make_maps(pin_directory)
    with open_map("ft_cgroup", str(pin_directory)) as found:
        yield found


@pytest.fixture
def spaces(cgroups: Map, pin_directory: Path) -> Iterator[Map]:
    with open_map("ft_netns", str(pin_directory)) as found:
        yield found


def at(keys: Map, number: int = 7) -> tuple[int, int, int, int, int]:
    value = keys.get(entry(number))
    assert value is not None
    found = Claim.unpack(value)
    return found.workload, found.since, found.until, found.flags, found.kind


def put(keys: Map, old: Claim) -> None:
    keys.update(entry(7), old.pack())


@pytest.mark.parametrize(
    "old",
    [
        None,
        Claim(abi.OWNER_UNCLAIMED, 1),
        Claim(OTHER, 1, 0, abi.FLAG_INHERITED),
        Claim(abi.OWNER_CONTESTED, 1, 0, abi.FLAG_INHERITED),
        Claim(abi.OWNER_TRANSLATOR, 1, 0, abi.FLAG_INHERITED),
        Claim(OTHER, 1, 2),
        Claim(abi.OWNER_CONTESTED, 1, 2),
        Claim(ME, 1),
    ],
)
def test_claim_cgroup_replaces(cgroups: Map, locks: str, old: Claim | None) -> None:
    if old:
        put(cgroups, old)
    assert claim.claim_cgroup(cgroups, 7, Claim(ME, 5), locks) == CLAIMED
    assert at(cgroups) == (ME, 5, 0, 0, 0)


def test_claim_cgroup_of_another_is_contested_for_good(cgroups: Map, locks: str) -> None:
    put(cgroups, Claim(OTHER, 1))
    for _ in range(2):
        assert claim.claim_cgroup(cgroups, 7, Claim(ME, 5), locks) == CONTESTED
        assert at(cgroups)[:3] == (abi.OWNER_CONTESTED, 5, 0)
    assert not claim.release(cgroups, 7, ME, 9, locks)
    assert not claim.release(cgroups, 7, OTHER, 9, locks)


def test_claim_cgroup_of_a_translator_is_kept(cgroups: Map, locks: str) -> None:
    put(cgroups, Claim(abi.OWNER_TRANSLATOR, 1))
    assert claim.claim_cgroup(cgroups, 7, Claim(ME, 5), locks) == KEPT
    assert at(cgroups)[0] == abi.OWNER_TRANSLATOR


def test_claim_replaces_what_the_exporter_found_of_the_same_container(
    cgroups: Map, spaces: Map, pin_directory: Path, locks: str
) -> None:
    known = Workload(id=OTHER, container_id="web")
    put(cgroups, Claim(OTHER, 1, 0, abi.FLAG_RECONCILED))
    put(spaces, Claim(OTHER, 1, 0, abi.FLAG_RECONCILED, claim.CONTAINER_NETNS))
    with open_map("ft_workload", str(pin_directory)) as workloads:
        assert claim.found(workloads, cgroups, 8, "web") == 0
        assert claim.found(workloads, cgroups, 7, "web") == 0  # of a workload that nobody knows
        workloads.update(entry(OTHER), known.pack())
        assert claim.found(workloads, cgroups, 7, "another") == 0
        before = claim.found(workloads, cgroups, 7, "web")
    assert before == OTHER
    assert claim.claim_cgroup(cgroups, 7, Claim(ME, 5), locks, before) == CLAIMED
    assert at(cgroups) == (ME, 5, 0, 0, 0)
    assert claim.claim_netns(spaces, 7, Claim(ME, 5), locks, before) == CLAIMED
    assert at(spaces)[0] == ME


def test_claim_of_what_the_exporter_found_of_another_is_contested(cgroups: Map, locks: str) -> None:
    put(cgroups, Claim(OTHER, 1, 0, abi.FLAG_RECONCILED))
    assert claim.claim_cgroup(cgroups, 7, Claim(ME, 5), locks) == CONTESTED


def test_found_is_never_what_the_hook_wrote(cgroups: Map, pin_directory: Path) -> None:
    with open_map("ft_workload", str(pin_directory)) as workloads:
        workloads.update(entry(OTHER), Workload(id=OTHER, container_id="web").pack())
        for flags in (0, abi.FLAG_INHERITED | abi.FLAG_RECONCILED):
            put(cgroups, Claim(OTHER, 1, 0, flags))
            assert claim.found(workloads, cgroups, 7, "web") == 0


def test_claim_by_the_exporter_never_contests_the_hooks(cgroups: Map, locks: str) -> None:
    put(cgroups, Claim(OTHER, 1))
    found = Claim(ME, 5, 0, abi.FLAG_RECONCILED)
    assert claim.claim_cgroup(cgroups, 7, found, locks) == KEPT
    assert at(cgroups)[0] == OTHER


def test_claim_netns_first_one_keeps_it(spaces: Map, locks: str) -> None:
    assert claim.claim_netns(spaces, 7, Claim(ME, 5), locks) == CLAIMED
    assert at(spaces) == (ME, 5, 0, 0, claim.CONTAINER_NETNS)
    assert claim.claim_netns(spaces, 7, Claim(OTHER, 6), locks) == KEPT
    assert at(spaces)[0] == ME
    assert claim.release(spaces, 7, ME, 8, locks)
    assert at(spaces) == (ME, 5, 8, 0, claim.CONTAINER_NETNS)
    assert claim.claim_netns(spaces, 7, Claim(OTHER, 9), locks) == CLAIMED
    assert at(spaces)[:3] == (OTHER, 9, 0)


def test_claim_netns_without_cgroups_is_contested(spaces: Map, locks: str) -> None:
    for workload, outcome in ((ME, CLAIMED), (ME, CLAIMED), (OTHER, CONTESTED), (THIRD, CONTESTED)):
        new = Claim(workload, 5, 0, abi.FLAG_NO_CGROUP)
        assert claim.claim_netns(spaces, 7, new, locks) == outcome
    assert at(spaces)[0] == abi.OWNER_CONTESTED


@pytest.mark.parametrize("kind", [HOST, TRANSLATOR])
@pytest.mark.parametrize("flags", [0, abi.FLAG_NO_CGROUP])
def test_claim_netns_of_host_or_translator_is_kept(spaces: Map, locks: str, kind: int, flags: int) -> None:
    put(spaces, Claim(OTHER, 1, 0, 0, kind))
    assert claim.claim_netns(spaces, 7, Claim(ME, 5, 0, flags), locks) == KEPT
    assert at(spaces) == (OTHER, 1, 0, 0, kind)


def test_release_only_our_own_and_once(cgroups: Map, locks: str) -> None:
    assert not claim.release(cgroups, 7, ME, 8, locks)
    assert cgroups.get(entry(7)) is None
    claim.claim_cgroup(cgroups, 7, Claim(ME, 5), locks)
    assert not claim.release(cgroups, 7, OTHER, 8, locks)
    assert at(cgroups) == (ME, 5, 0, 0, 0)
    assert claim.release(cgroups, 7, ME, 8, locks)
    assert not claim.release(cgroups, 7, ME, 9, locks)
    assert at(cgroups) == (ME, 5, 8, 0, 0)


def test_claim_lock_held_by_another_fails_in_time(cgroups: Map, locks: str) -> None:
    fd = os.open(f"{locks}/07", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    began = time.monotonic()
    cgroups.update(entry(7), Claim(abi.OWNER_UNCLAIMED, 1).pack())
    with pytest.raises(FlowtagError, match=r"locking .*/07"):
        claim.claim_cgroup(cgroups, 7, Claim(ME, 5), locks)
    assert claim.LOCK_SECONDS <= time.monotonic() - began < 3 * claim.LOCK_SECONDS
    assert at(cgroups) == (abi.OWNER_UNCLAIMED, 1, 0, 0, 0)
    assert claim.claim_cgroup(cgroups, 8, Claim(ME, 5), locks) == CLAIMED  # another stripe
    os.close(fd)
    assert claim.claim_cgroup(cgroups, 7, Claim(ME, 5), locks) == CLAIMED


def test_claim_of_an_absent_key_needs_no_lock(cgroups: Map, locks: str) -> None:
    """A stopped process that holds the lock keeps no container's flows from it."""
    fd = os.open(f"{locks}/07", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert claim.claim_cgroup(cgroups, 7, Claim(ME, 5), locks) == CLAIMED
    claim.mark_shared(cgroups, 71, 5, locks)
    os.close(fd)
    assert at(cgroups) == (ME, 5, 0, 0, 0)


def test_claim_map_full(pin_directory: Path, locks: str, spaces: Map) -> None:
    spaces.close()
    (pin_directory / "ft_netns").unlink()
    make_map(pin_directory, "ft_netns", entries=1)
    with open_map("ft_netns", str(pin_directory)) as small:
        claim.claim_netns(small, 1, Claim(ME, 5), locks)
        with pytest.raises(OSError, match=r"ft_netns") as caught:
            claim.claim_netns(small, 2, Claim(ME, 5), locks)
    assert caught.value.errno == 7  # E2BIG: the hook writes to pending/ then


CONTENDER = """
import sys
from identity.claim import Claim, claim_cgroup
from identity.pinned import open_map
pins, locks, workload, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
cgroups = open_map("ft_cgroup", pins)
print("ready", flush=True)
sys.stdin.readline()
print(*(claim_cgroup(cgroups, key, Claim(workload, 5), locks) for key in range(count)))
"""


@pytest.mark.parametrize("old", [None, Claim(abi.OWNER_UNCLAIMED, 1)], ids=["absent", "unclaimed"])
def test_claim_by_many_processes_has_one_winner(
    cgroups: Map, pin_directory: Path, locks: str, old: Claim | None
) -> None:
    contenders, count = 8, 64
    if old:
        for number in range(count):
            cgroups.update(entry(number), old.pack())
    argv = [sys.executable, "-c", CONTENDER, str(pin_directory), locks]
    processes = [
        subprocess.Popen(
            [*argv, str(ME + i), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(contenders)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    present = [old is not None] * count
    while any(process.poll() is None for process in processes):
        for number in range(count):
            there = cgroups.get(entry(number)) is not None
            assert there or not present[number], f"key {number} was absent for a moment"
            present[number] = there
    outcomes = [process.communicate()[0].split() for process in processes]
    for number in range(count):
        said = sorted(outcome[number] for outcome in outcomes)
        assert said == [CLAIMED] + [CONTESTED] * (contenders - 1)
        assert at(cgroups, number)[0] == abi.OWNER_CONTESTED
