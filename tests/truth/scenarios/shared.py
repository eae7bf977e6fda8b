# SPDX-License-Identifier: Apache-2.0
"""What containers share: a pod's network namespace, a cgroup, each other's insides."""

from __future__ import annotations

from pathlib import Path

from tests.truth.owner import HOST, hooked, nobodys
from tests.truth.stage import HUB, Evidence, Stage

# Who may make a user namespace without any capability: uid 1000, root inside.
TENANT = (
    *("/usr/bin/setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"),
    *("/usr/bin/unshare", "-Urn"),
)


def pod(directory: Path, size: float) -> Evidence:
    """A pause container makes the namespace; an app and a sidecar share it, and an unhooked one."""
    count = max(5, round(120 * size))
    with Stage("pod", directory) as stage:
        hub = stage.hub()
        place = stage.network.namespace("pod")
        pause = stage.container("pause", place)
        app = stage.container("app", place)
        sidecar = stage.container("sidecar", place)
        stray = stage.container("stray", place, hook=False)
        for port, actor in enumerate((pause, app, sidecar, stray), 8080):
            actor.do(f"listen :: {port}")
        for port, actor in enumerate((app, sidecar, stray, pause), 8080):
            actor.do(f"connect 127.0.0.1 {port} {count}")
            actor.do(f"connect {place.ipv6} {port} {count} end=server")
            actor.do(f"connect {hub.ipv4} {HUB} {count} again=1")
        # The app is restarted under its own name; the pod's namespace stays.
        stage.leave(app)
        again = stage.container("app", place)
        again.do("listen :: 8081")
        sidecar.do(f"connect 127.0.0.1 8081 {count}")
        again.do(f"connect {hub.ipv4} {HUB} {count}")
    return stage.evidence


def nested(directory: Path, size: float) -> Evidence:
    """An engine inside a container: its containers are the outer one's, overlapping addresses or not."""
    count = max(5, round(150 * size))
    with Stage("nested", directory) as stage:
        place = stage.network.namespace("outer")
        rival_place = stage.network.namespace("rival")
        outer = stage.container("outer", place)
        rival = stage.container("rival", rival_place)
        # The inner bridge: the same network and addresses as the outer one's rival has.
        bridge = stage.network.namespace("inner-bridge", bridge=False)
        bridge.ip("addr", "add", f"{rival_place.ipv4}/24", "dev", "lo")
        bridge.ip("addr", "add", f"{rival_place.ipv6}/64", "dev", "lo", "nodad")
        inner = stage.container(
            "inner",
            bridge,
            hook=False,
            expect=hooked("outer"),
            addresses=(rival_place.ipv4, rival_place.ipv6),
            cgroup=f"{stage.runc.cgroup_root}/outer/docker/inner",
        )
        # Its own network is its outer one's: `docker run --network host` inside.
        guest = stage.container(
            "guest",
            place,
            hook=False,
            expect=hooked("outer"),
            cgroup=f"{stage.runc.cgroup_root}/outer/docker/guest",
        )
        for actor in (outer, rival, inner):
            actor.do("listen :: 8080")
        guest.do("listen :: 8081")
        inner.do(f"connect {rival_place.ipv4} 8080 {count}")
        inner.do(f"connect {rival_place.ipv6} 8080 {count} end=server")
        rival.do(f"connect {rival_place.ipv4} 8080 {count}")
        guest.do(f"connect {rival_place.ipv4} 8080 {count}")
        outer.do(f"connect 127.0.0.1 8081 {count}")
    return stage.evidence


def two_in_one_cgroup(directory: Path, size: float) -> Evidence:
    """Two hooked containers in one cgroup: nobody can tell them apart, so nobody owns their flows."""
    count = max(20, round(150 * size))
    with Stage("two_in_one_cgroup", directory) as stage:
        hub = stage.hub()
        cgroup = f"{stage.runc.cgroup_root}/both"
        first_place, second_place = stage.network.namespace("first"), stage.network.namespace("second")
        first = stage.container("first", first_place, cgroup=cgroup)
        first.do("listen :: 8080")
        first.do(f"connect {hub.ipv4} {HUB} {count} end=server")  # alone: its own
        second = stage.container("second", second_place, cgroup=cgroup, expect=nobodys("second", "contested"))
        first.become(nobodys("first", "contested"))
        first.do("listen :: 8081")
        for actor in (first, second):
            actor.do(f"connect {hub.ipv4} {HUB} {count}")
            actor.do(f"connect {hub.ipv6} {HUB} {count} end=reset")
        second.do(f"connect {first_place.ipv4} 8081 {count}")
    return stage.evidence


def nsenter(directory: Path, size: float) -> Evidence:
    """Processes of the host that enter a container's namespace are not the container."""
    count = max(20, round(200 * size))
    with Stage("nsenter", directory) as stage:
        hub = stage.hub()
        place = stage.network.namespace("web")
        web = stage.container("web", place)
        web.do("listen :: 8080")
        stranger = stage.process(place, expect=nobodys(HOST, "foreign_process"))
        stranger.do("listen :: 8081")
        stranger.do(f"connect 127.0.0.1 8080 {count}")
        stranger.do(f"connect {hub.ipv4} {HUB} {count}")
        web.do(f"connect {place.ipv4} 8081 {count}")
        web.do(f"connect {hub.ipv4} {HUB} {count}")
    return stage.evidence


def unshare(directory: Path, size: float) -> Evidence:
    """A tenant makes a user and network namespace and configures another's address in it: still itself."""
    count = max(10, round(150 * size))
    with Stage("unshare", directory) as stage:
        place, victim_place = stage.network.namespace("tenant"), stage.network.namespace("victim")
        victim = stage.container("victim", victim_place)
        victim.do("listen :: 8080")
        tenants = [
            stage.container(
                f"tenant-{number}",
                place,
                addresses=(place.ipv4,),
                prefix=TENANT,
            )
            for number in range(2)
        ]
        for tenant in tenants:
            tenant.do("run ip link set lo up")
            tenant.do(f"run ip addr add {victim_place.ipv4}/32 dev lo")
            tenant.do(f"run ip addr add {place.ipv4}/32 dev lo")
            tenant.do("listen :: 8080")
            tenant.do(f"connect {victim_place.ipv4} 8080 {count} port=40000")
            tenant.do(f"connect {place.ipv4} 8080 {count} from={victim_place.ipv4} end=server")
        victim.do(f"connect {victim_place.ipv4} 8080 {count} port=40000")
        # The same by a process of the host: in no container, and not in the host's namespace.
        stranger = stage.process(prefix=("unshare", "-Urn"), expect=nobodys(HOST, "no_claim"))
        stranger.do("run ip link set lo up")
        stranger.do(f"run ip addr add {victim_place.ipv4}/32 dev lo")
        stranger.do("listen :: 8080")
        stranger.do(f"connect {victim_place.ipv4} 8080 {count}")
    return stage.evidence
