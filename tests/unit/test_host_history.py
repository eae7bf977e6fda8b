# SPDX-License-Identifier: Apache-2.0
"""The identities as the kernel reads them: what is in the shared memory after each step."""

from __future__ import annotations

import mmap

import pytest

from bpf import abi
from exporter import host_history
from exporter.host_history import LEAD_NS, HostHistory


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, mmap.PAGESIZE)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time that the history sees, the first element."""
    time = [1_000 * LEAD_NS]
    monkeypatch.setattr(host_history, "now", lambda: time[0])
    return time


def slots(memory: mmap.mmap) -> tuple[int, list[tuple[int, int]]]:
    state = dict(zip(abi.STATE.names, abi.STATE.unpack(memory[: abi.STATE.size]), strict=True))
    return state["host_last"], [
        abi.HOST.unpack_from(state["host"], at) for at in range(0, len(state["host"]), abi.HOST.size)
    ]


def test_first_identity_is_the_only_one(memory: mmap.mmap) -> None:
    HostHistory(memory).begin(7, 5)
    last, found = slots(memory)
    assert (last, found[0]) == (0, (7, 5))


def test_successors_fill_the_ring(memory: mmap.mmap, clock: list[int]) -> None:
    history = HostHistory(memory)
    history.begin(1)
    for number in range(2, 13):
        clock[0] += LEAD_NS
        assert history.succeed(number, clock[0] + LEAD_NS)
        assert history.current() == number
    last, found = slots(memory)
    assert last == 11
    assert found[last % abi.HOST_MAX] == (12, clock[0] + LEAD_NS)
    assert sorted(workload for workload, _ in found) == list(range(5, 13))


def test_time_that_has_nearly_come_changes_nothing_yet(memory: mmap.mmap, clock: list[int]) -> None:
    """A reader must not meet an identity whose time began before it could be seen."""
    history = HostHistory(memory)
    history.begin(1)
    assert not history.succeed(2, clock[0] + LEAD_NS // 4)
    assert slots(memory)[1][:2] == [(1, 0), (2, abi.HOST_NEVER)]
    assert history.succeed(2, clock[0] + LEAD_NS)
    assert slots(memory) == (1, [(1, 0), (2, clock[0] + LEAD_NS), *[(0, 0)] * 6])
