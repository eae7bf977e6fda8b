# SPDX-License-Identifier: Apache-2.0
"""Connects that take longer than their owner's claim: whoever comes after must not get them."""

from __future__ import annotations

import time
from pathlib import Path

from tests.rig.network import Namespace
from tests.truth import view
from tests.truth.actor import Actor
from tests.truth.owner import Expectation, hooked, nobodys
from tests.truth.stage import HUB, Evidence, Stage

SLOW = HUB + 1


def drop(place: Namespace) -> None:
    """No SYN to port SLOW arrives; the kernel of who sends it tries again after 1, 3 and 7 s."""
    place.run("nft", "add", "table", "inet", "truth")
    place.run("nft", "add", "chain", "inet", "truth", "input", "{ type filter hook input priority 0; }")
    place.run("nft", "add", "rule", "inet", "truth", "input", "tcp", "dport", str(SLOW), "drop")


def undrop(place: Namespace) -> None:
    place.run("nft", "delete", "table", "inet", "truth")


def slow_connect(directory: Path, size: float) -> Evidence:
    """The cgroup's claim changes meanwhile: found by the exporter, contested, and unchanged."""
    count = max(20, round(100 * size))
    with Stage("slow_connect", directory) as stage:
        place = stage.network.namespace("hub")
        hub = stage.far(place)
        hub.do(f"listen :: {SLOW}")
        drop(place)
        helper = stage.process()
        helper.do(f"take {stage.shared}/helper")
        cgroup = f"{stage.runc.cgroup_root}/both"
        # What is established after the second claim is contested, whenever it began.
        first = stage.container(
            "first",
            stage.network.namespace("first"),
            cgroup=cgroup,
            expect=Expectation("first", frozenset({"contested"})),
        )
        steady = stage.container("steady", stage.network.namespace("steady"))
        stray = stage.container("stray", stage.network.namespace("stray"), hook=False)
        for actor in (first, steady, stray):
            actor.do(f"offer /shared/helper {place.ipv4} {SLOW} {count} slow=1")
        second = stage.container(
            "second", stage.network.namespace("second"), cgroup=cgroup, expect=nobodys("second", "contested")
        )
        time.sleep(1.5)  # the stray one has been found by now
        undrop(place)
        second.do(f"connect {place.ipv4} {SLOW} {count}")
        await_lines(stage, helper, 3 * count)
        helper.do("release")
    return stage.evidence


def slow_netns(directory: Path, size: float) -> Evidence:
    """The namespace goes to the next container meanwhile, where nothing but the namespace tells owners."""
    return view.play(view.V1_ONLY, __name__, "slow_without_v2", directory, size)


def slow_without_v2(directory: Path, size: float) -> Evidence:
    count = max(20, round(100 * size))
    with Stage("slow_netns", directory) as stage:
        place, shared = stage.network.namespace("hub"), stage.network.namespace("shared")
        hub = stage.far(place)
        hub.do(f"listen :: {SLOW}")
        drop(place)
        helper = stage.process()
        helper.do(f"take {stage.shared}/helper")
        first = stage.container("first", shared, expect=nobodys("first", "expired"))
        first.do(f"offer /shared/helper {place.ipv4} {SLOW} {count} slow=1")
        stage.leave(first)
        second = stage.container("second", shared, expect=hooked("second"))
        undrop(place)
        second.do(f"connect {place.ipv4} {SLOW} {count}")
        await_lines(stage, helper, count)
        helper.do("release")
    return stage.evidence


def await_lines(stage: Stage, helper: Actor, count: int, seconds: float = 20) -> None:
    """Wait until the helper has noted so many connections, which were given to it unfinished."""
    deadline = time.monotonic() + seconds
    while stage.log_of(helper).read_text(encoding="ascii").count("\n") < count:
        assert time.monotonic() < deadline, "the slow connections were not established"
        time.sleep(0.1)
