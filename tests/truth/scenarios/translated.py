# SPDX-License-Identifier: Apache-2.0
"""IPv6-only containers behind one shared IPv4 address, by the real interceptor of tests/rig."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from identity import translation
from tests.rig.container import Runc
from tests.rig.interceptor import (
    InterceptedRunc,
    Interceptor,
    Publisher,
    Way,
    by_port,
    by_socket,
    in_block,
    not_at_all,
)
from tests.rig.network import Namespace
from tests.truth.actor import Actor
from tests.truth.owner import Expectation, hooked, nobodys
from tests.truth.scenarios.slow import SLOW, await_lines, drop, undrop
from tests.truth.stage import HUB, Evidence, Stage

SHARED = "100.64.0.7"
FIRST, SIZE = 32768, 4096  # a block of ports; the second container's follows
TABLES = f'[translation]\nshared_addresses = ["{SHARED}"]\n'
NAMES = ("socket-a", "socket-b", "port-a", "port-b", "block-a", "block-b", "never", "late")
ANNOTATION = "flowtag.io/translated"


class Transition:
    """The namespace with the shared address, the interceptor in it, and containers without IPv4."""

    def __init__(self, stage: Stage, interceptor: Interceptor, runc: Runc) -> None:
        self.stage = stage
        self.interceptor = interceptor
        self._runc = runc

    def container(self, name: str, way: Way, *, expect: Expectation | None = None, ports: str = "") -> Actor:
        """One that publishes by `way`; `ports` are its own for life, by annotation."""
        place = self.stage.network.namespace(name)
        place.ip("-4", "addr", "flush", "dev", "eth0")
        self.interceptor.ways[name] = way
        return self.stage.container(
            name,
            Namespace(place.name, "", place.ipv6),
            addresses=(SHARED, place.ipv6),
            expect=expect,
            runc=self._runc,
            cgroup=f"{self.stage.runc.cgroup_root}/{name}",
            annotations={ANNOTATION: f"{SHARED}:{ports}"} if ports else {},
        )


@contextmanager
def transition(stage: Stage, hub: Namespace) -> Iterator[Transition]:
    place = stage.network.namespace("transition")
    subnet = f"{hub.ipv4.rpartition('.')[0]}.0/24"
    place.ip("addr", "add", f"{SHARED}/32", "dev", "eth0")
    place.ip("route", "replace", subnet, "dev", "eth0", "src", SHARED)
    hub.ip("route", "add", SHARED, "dev", "eth0")
    # docs/translation.md: the kernel may choose no port that is in somebody's block.
    place.sysctl("ipv4.ip_local_reserved_ports", f"{FIRST}-{FIRST + 2 * SIZE - 1}")
    where = stage.exporter.pin_directory, stage.exporter.run_directory
    path = stage.directory / "seccomp"
    with (
        Interceptor(path, Namespace(place.name, SHARED, place.ipv6), *where) as interceptor,
        InterceptedRunc(stage.directory / "intercepted", path) as runc,
    ):
        yield Transition(stage, interceptor, runc)
    assert not interceptor.errors, interceptor.errors


def translated(directory: Path, size: float) -> Evidence:
    """Published by socket, by port or by a block before connect; late; never; refused and retried; reused."""
    count = max(10, round(150 * size))
    with Stage("translated", directory, tables=TABLES) as stage:
        hub = stage.hub()
        with transition(stage, hub) as shared:
            late = Late()
            blocks = [(FIRST, FIRST + SIZE - 1), (FIRST + SIZE, FIRST + 2 * SIZE - 1)]
            actors = [
                shared.container("socket-a", by_socket),
                shared.container("socket-b", by_socket),
                shared.container("port-a", by_port),
                shared.container("port-b", by_port),
                shared.container("block-a", in_block(*blocks[0]), ports="{}-{}".format(*blocks[0])),
                shared.container("block-b", in_block(*blocks[1]), ports="{}-{}".format(*blocks[1])),
                shared.container("never", not_at_all, expect=nobodys("never", "unpublished")),
                shared.container("late", late, expect=nobodys("late", "unpublished", "expired")),
            ]
            jobs = []
            for actor in actors:
                # The second ones are refused first, and the same socket tries again.
                jobs.append((actor, actor.begin(f"connect {hub.ipv4} {HUB} {count} end=hold")))
                jobs.append((actor, actor.begin(f"connect {hub.ipv4} {HUB} {count} first=9 local={SHARED}")))
                jobs.append((actor, actor.begin(f"connect {hub.ipv4} {HUB} {count} mapped=1 end=server")))
                jobs.append((actor, actor.begin(f"connect {hub.ipv4} {HUB} {count // 2} again=1")))
            for actor, job in jobs:
                actor.end(job)
            for actor, name in zip(actors, NAMES, strict=True):  # what needs no translation is their own
                actor.become(hooked(name))
                actor.do(f"connect {hub.ipv6} {HUB} {count // 2}")
            late.publish(shared.interceptor.publisher)
            for actor in actors:
                actor.do("release")
                stage.leave(actor)
    return stage.evidence


class Late:
    """A way that publishes nothing until it is too late: the connections are there already."""

    def __init__(self) -> None:
        self._cookies: list[int] = []

    def __call__(self, publisher: Publisher, container: str, made: socket.socket) -> Callable[[], object]:
        self._cookies.append(translation.cookie(made))
        return lambda: None

    def publish(self, publisher: Publisher) -> None:
        for cookie in self._cookies:
            translation.publish_socket(publisher.sockets, cookie, publisher.workload("late"))


def slow_translated(directory: Path, size: float) -> Evidence:
    """A port block goes to the next container while the former one's connects are under way."""
    count = max(20, round(100 * size))
    ports = f"{FIRST}-{FIRST + SIZE - 1}"
    with Stage("slow_translated", directory, tables=TABLES) as stage:
        place = stage.network.namespace("hub")
        stage.far(place).do(f"listen :: {SLOW}")
        drop(place)
        helper = stage.process()
        helper.do(f"take {stage.shared}/helper")
        with transition(stage, place) as shared:
            way = in_block(FIRST, FIRST + SIZE - 1)
            first = shared.container("first", way, ports=ports, expect=nobodys("first", "expired"))
            first.do(f"offer /shared/helper {place.ipv4} {SLOW} {count} slow=1")
            stage.leave(first)
            second = shared.container("second", way, ports=ports, expect=hooked("second"))
            undrop(place)
            second.do(f"connect {place.ipv4} {SLOW} {count}")
            await_lines(stage, helper, count)
            helper.do("release")
            stage.leave(second)
    return stage.evidence
