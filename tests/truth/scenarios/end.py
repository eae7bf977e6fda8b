# SPDX-License-Identifier: Apache-2.0
"""Containers that go before their sockets do, and the next one with the same address."""

from __future__ import annotations

import time
from pathlib import Path

from tests.truth.payload import LATE
from tests.truth.stage import HUB, Evidence, Stage
from tests.truth.succession import successor, without_time_wait


def late_close(directory: Path, size: float) -> Evidence:
    """Orphans in FIN_WAIT1 (the far end does not read) and FIN_WAIT2 (it does not close)."""
    count = max(10, round(100 * size))
    with Stage("late_close", directory) as stage:
        hub = stage.hub()
        place = stage.network.namespace("first")
        # Beyond 60 s an orphan stays in FIN_WAIT2 itself, for what is more than 60 s.
        place.sysctl("ipv4.tcp_fin_timeout", str(60 + LATE - 1))
        first = stage.container("first", place)
        first.do("listen :: 8080")
        first.do(f"connect {hub.ipv4} {HUB} {count} end=late port=40000")
        first.do(f"connect {hub.ipv4} {HUB} {count} end=full port=41000")
        first.do(f"connect {hub.ipv6} {HUB} {count} end=late port=42000")
        stage.leave(first)
        second = stage.container("second", place)
        second.do(f"connect {hub.ipv4} {HUB} {count} port=43000")
        second.do(f"connect {hub.ipv6} {HUB} {count} port=44000 end=late")
        stage.leave(second)
        third = stage.container("third", place)
        third.do(f"connect {hub.ipv4} {HUB} {count} port=45000 end=server")
        time.sleep(2 * LATE + 1)  # the last of them has closed
    return stage.evidence


def killed(directory: Path, size: float) -> Evidence:
    """SIGKILL in the midst of it, again and again, and the address goes to the next at once."""
    count = max(5, round(60 * size))
    with Stage("killed", directory) as stage:
        hub = without_time_wait(stage.hub())
        place = without_time_wait(stage.network.namespace("life0"))
        for life in range(5):
            if life:
                place = without_time_wait(successor(stage.network, place, f"life{life}"))
            victim = stage.container(f"victim-{life}", place)
            caller = stage.container(f"caller-{life}", place)
            victim.do("listen :: 8080")
            caller.do(f"connect {place.ipv4} 8080 {count} end=hold")
            victim.do(f"connect {hub.ipv4} {HUB} {count} port=40000 end=hold")
            victim.do(f"connect {hub.ipv6} {HUB} {count} port=41000")
            stage.kill(victim)
            caller.do(f"connect {place.ipv4} 8080 {count} from={place.ipv4}")  # refused
            caller.do("release")
            stage.kill(caller)
    return stage.evidence
