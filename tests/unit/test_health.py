# SPDX-License-Identifier: Apache-2.0
"""What a row of samples says is wrong, each rule at its limits."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.health.health import Health
from exporter.health.rules import judge
from exporter.health.sample import Sample

NOW = 1000.0


def told(first: dict[str, Any], last: dict[str, Any], seconds: float = 60) -> list[str]:
    """The problems that two samples so far apart tell; the same values hold in between."""
    then = Sample(at=NOW - seconds, beat=NOW - seconds, **first)
    now = Sample(**{"at": NOW, "beat": NOW, **last})
    return [one.name for one in judge([then, now], 30, 0.1, 500 * 10**9)]


FAILING = {"file": (NOW - 31, "OSError")}


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ({}, {}, []),
        ({}, {"changed": ("link_state",)}, ["detached"]),
        ({"host_opens": 5}, {"host_opens": 25}, ["blind"]),
        ({"host_opens": 5}, {"host_opens": 24}, []),
        ({"host_opens": 5}, {"host_opens": 99, "opened": (1, 1)}, []),
        ({"host_opens": 5, "opened": (0, 20)}, {"host_opens": 25, "opened": (20, 20)}, []),
        ({"host_opens": None}, {"host_opens": 99}, []),
        ({}, {"beat": NOW - 31}, ["stalled"]),
        ({}, {"beat": NOW - 30}, []),
        ({}, {"dead": ("spool",)}, ["thread_dead"]),
        ({"lost": 1}, {"lost": 2}, ["losing"]),
        ({"lost": 2}, {"lost": 2}, []),
        ({"ring": 0.6}, {"ring": 0.6}, ["ring_behind"]),
        ({"ring": 0.4}, {"ring": 0.6}, []),
        ({"incomplete": True}, {"incomplete": True}, ["cgroups_incomplete"]),
        ({"incomplete": True}, {}, []),
        ({}, {"missing_since": 469 * 10**9}, ["claim_missing"]),
        ({}, {"missing_since": 471 * 10**9}, []),
        ({}, {"unclaimed": 20}, ["containers_unclaimed"]),
        ({}, {"unclaimed": 20, "owned": 1}, []),
        ({}, {"unclaimed": 19}, []),
        ({"trouble": "full"}, {"trouble": "full"}, ["spool_unwritable"]),
        ({}, {"trouble": "full"}, []),
        ({}, {"failing": FAILING}, ["sink_failing"]),
        ({}, {"stale": True}, ["identity_stale"]),
    ],
)
def test_rule_at_its_limit(first: dict[str, Any], last: dict[str, Any], expected: list[str]) -> None:
    assert told(first, last) == expected


def test_losses_of_long_ago_are_no_problem() -> None:
    assert told({"lost": 1}, {"lost": 2}, seconds=61) == []


def test_asking_in_a_loop_samples_seldom() -> None:
    taken = []

    def take() -> Sample:
        taken.append(1)
        import time

        return Sample(at=time.monotonic(), beat=time.monotonic())

    health = Health(take, 30, 0.1)
    for _ in range(100):
        assert health.problems() == []
    assert len(taken) <= 2
