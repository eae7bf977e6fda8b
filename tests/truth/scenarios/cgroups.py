# SPDX-License-Identifier: Apache-2.0
"""Hosts whose cgroups are other than this machine's: version 1 only, version 2 only; a full ft_cgroup."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bpf import abi
from bpf.syscall import NOEXIST, Map
from identity.claim import Claim
from tests.rig.bundle import HOST as HOST_NETWORK
from tests.truth import view
from tests.truth.owner import HOST, Expectation, nobodys
from tests.truth.stage import HUB, Evidence, Stage, boottime

PORT = 7380


def v1_only(directory: Path, size: float) -> Evidence:
    """No cgroup v2 at all: the namespace tells the container, and nothing tells the host's network."""
    return view.play(view.V1_ONLY, __name__, "without_v2", directory, size)


def without_v2(directory: Path, size: float) -> Evidence:
    count = max(10, round(150 * size))
    with Stage("v1_only", directory) as stage:
        hub = stage.hub()
        places = [stage.network.namespace(f"place{n}") for n in range(2)]
        actors = [stage.container(f"c{n}", place) for n, place in enumerate(places)]
        for actor in actors:
            actor.do("listen :: 8080")
        for actor, other in zip(actors, reversed(places), strict=True):
            actor.do(f"connect {hub.ipv4} {HUB} {count}")
            actor.do(f"connect {other.ipv6} 8080 {count} end=server")
        # The first one's address and namespace go to the next, and the names of ports with them.
        stage.leave(actors[0])
        heir = stage.container("heir", places[0])
        heir.do(f"connect {hub.ipv4} {HUB} {count}")
        # On the host's network there is nothing to tell containers from the host by.
        guest = stage.container("guest", HOST_NETWORK, expect=nobodys("guest", "degraded"))
        host = stage.process(expect=nobodys(HOST, "degraded"))
        host.do(f"listen 127.0.0.1 {PORT}")
        for actor in (guest, host):
            actor.do(f"connect 127.0.0.1 {PORT} {count}")
    return stage.evidence


def pure_v2(directory: Path, size: float) -> Evidence:
    """Nothing but cgroup v2, mounted where the hybrid host has its version 1 folders."""
    return view.play(view.PURE_V2, __name__, "only_v2", directory, size)


def only_v2(directory: Path, size: float) -> Evidence:
    count = max(10, round(100 * size))
    with Stage("pure_v2", directory) as stage:
        hub = stage.hub()
        place = stage.network.namespace("pod")
        web, sidecar = stage.container("web", place), stage.container("sidecar", place)
        guest = stage.container("guest", HOST_NETWORK)
        host = stage.process()
        stray = stage.container("stray", HOST_NETWORK, hook=False)
        for port, actor in enumerate((web, sidecar), 8080):
            actor.do(f"listen :: {port}")
        for port, actor in enumerate((guest, host, stray), PORT):
            actor.do(f"listen 127.0.0.1 {port}")
        for actor in (web, sidecar):
            actor.do(f"connect {hub.ipv4} {HUB} {count}")
            actor.do(f"connect 127.0.0.1 8080 {count}")
            actor.do(f"connect {place.ipv6} 8081 {count} end=server")
        for actor in (guest, host, stray):
            for port in range(PORT, PORT + 3):
                actor.do(f"connect 127.0.0.1 {port} {count // 2}")
    return stage.evidence


def degraded(directory: Path, size: float) -> Evidence:
    """ft_cgroup is full, so a cgroup that is not in it may be anybody's: the host's flows are nobody's."""
    count = max(20, round(200 * size))
    with Stage("degraded", directory) as stage:
        host = stage.process()
        host.do(f"listen 127.0.0.1 {PORT}")
        host.do(f"connect 127.0.0.1 {PORT} {count}")
        web = stage.container("web", stage.network.namespace("web"))
        web.do("listen :: 8080")
        with Map.open(str(stage.exporter.pin_directory / "ft_cgroup")) as cgroups:
            filler = _fill(cgroups)
            missed = stage.container(
                "missed",
                HOST_NETWORK,
                hook=False,
                expect=nobodys("missed", "degraded", "unclaimed_container"),
            )
            host.become(nobodys(HOST, "degraded"))
            host.do(f"listen 127.0.0.1 {PORT + 1}")
            for actor in (host, missed):
                actor.do(f"connect 127.0.0.1 {PORT + 1} {count}")
            web.do(f"connect 127.0.0.1 8080 {count}")  # who has a claim keeps it
            stage.leave(missed)
            for key in filler:
                cgroups.delete(key)
        time.sleep(2.5)  # a whole walk has closed the gap
        host.become(Expectation(HOST))
        host.do(f"listen 127.0.0.1 {PORT + 2}")
        host.do(f"connect 127.0.0.1 {PORT + 2} {count}")
    return stage.evidence


def missing_claim(directory: Path, size: float) -> Evidence:
    """The same, and a container on the host's network whose cgroup lies below no engine's root.

    Only its hook knows of it, and cannot write the claim.
    """
    count = max(20, round(200 * size))
    with Stage("missing_claim", directory) as stage:
        host = stage.process()
        host.do(f"listen 127.0.0.1 {PORT}")
        with Map.open(str(stage.exporter.pin_directory / "ft_cgroup")) as cgroups:
            filler = _fill(cgroups)
            guest = stage.container(
                "guest",
                HOST_NETWORK,
                cgroup=f"/truth-guest-{os.getpid()}",
                expect=nobodys("guest", "degraded"),
            )
            host.become(nobodys(HOST, "degraded"))
            host.do(f"listen 127.0.0.1 {PORT + 1}")
            for actor in (host, guest):
                actor.do(f"connect 127.0.0.1 {PORT + 1} {count}")
            for key in filler:
                cgroups.delete(key)
        time.sleep(2.5)  # the exporter has written the claim
        guest.become(Expectation("guest"))
        host.become(Expectation(HOST))
        host.do(f"listen 127.0.0.1 {PORT + 2}")
        for actor in (host, guest):
            actor.do(f"connect 127.0.0.1 {PORT + 2} {count}")
    return stage.evidence


def _fill(cgroups: Map) -> list[bytes]:
    """Claims of cgroups that do not exist, until there is no room; their keys."""
    value = Claim(abi.OWNER_UNCLAIMED, boottime()).pack()
    keys: list[bytes] = []
    for number in range(1 << 62, (1 << 62) + cgroups.max_entries):
        key = abi.ID.pack(number)
        try:
            cgroups.update(key, value, NOEXIST)
        except OSError:
            break
        keys.append(key)
    return keys
