# SPDX-License-Identifier: Apache-2.0
"""What flowtag says about every socket, and what simpler methods would have said on the same run.

current_cgroup      the cgroup of the task that is running when the socket closes
address_at_read     who has the local address when the record is read
polled_containers   who had it in a list of containers that is made once a second
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from tests.truth.current import Close
from tests.truth.join import Joined, join
from tests.truth.living import Living
from tests.truth.log import Key, Socket
from tests.truth.owner import HOST
from tests.truth.stage import Evidence
from tests.truth.tap import Verdict

FLOWTAG = "flowtag"
METHODS = (FLOWTAG, "current_cgroup", "address_at_read", "polled_containers")
POLL = 1_000_000_000
HOST_CGROUP = 1  # the root: id of the hierarchy's first inode


@dataclass(frozen=True, slots=True)
class Answer:
    """One method on one socket: every owner it named (None: nobody), with rule and reason if it has any."""

    socket: Socket
    owners: tuple[str | None, ...]
    verdicts: tuple[Verdict, ...] = ()


def answers(evidence: Evidence) -> dict[str, list[Answer]]:
    """By method, one answer for every socket."""
    joined = join(evidence.sockets, evidence.verdicts, lambda v: v.key, lambda v: v.time)
    living = evidence.living

    def read(when: Callable[[int], int]) -> list[Answer]:
        return [
            Answer(one.socket, tuple(living.at(one.socket.key[1][0], when(v.read)) for v in one.seen))
            for one in joined
        ]

    return {
        FLOWTAG: [Answer(one.socket, tuple(v.owner for v in one.seen), tuple(one.seen)) for one in joined],
        "current_cgroup": _current(evidence, joined),
        "address_at_read": read(lambda moment: moment),
        "polled_containers": read(lambda moment: moment - moment % POLL),
    }


def _current(evidence: Evidence, joined: list[Joined[Verdict]]) -> list[Answer]:
    """Both programs see the same closes at the same time, so a verdict's end tells which close it is."""
    closes: dict[Key, list[Close]] = defaultdict(list)
    for close in evidence.closes:
        closes[close.netns, close.local, close.peer].append(close)

    def nearest(verdict: Verdict) -> list[Close]:
        return sorted(closes[verdict.key], key=lambda close: abs(close.time - verdict.ended))[:1]

    return [
        Answer(one.socket, tuple(_whose(evidence.living, close) for v in one.seen for close in nearest(v)))
        for one in joined
    ]


def _whose(living: Living, close: Close) -> str | None:
    """Kernel threads and interrupted idle tasks are in the root cgroup: the host's, to this method."""
    if close.cgroup_id == HOST_CGROUP:
        return HOST
    return living.cgroups.get(close.cgroup_id)
