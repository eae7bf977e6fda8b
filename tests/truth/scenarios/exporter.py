# SPDX-License-Identifier: Apache-2.0
"""The exporter comes late, or dies in the midst of it: the kernel's part goes on without it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.rig.bundle import HOST as HOST_NETWORK
from tests.rig.container import cgroup_mounts
from tests.truth import view
from tests.truth.owner import HOST, Expectation, hooked, nobodys
from tests.truth.stage import HUB, Evidence, Stage

PORT = 7480


def restart(directory: Path, size: float) -> Evidence:
    """Killed with SIGKILL while connections open and close, and started again; twice."""
    count = max(20, round(150 * size))
    with Stage("restart", directory) as stage:
        hub = stage.hub()
        place = stage.network.namespace("web")
        web = stage.container("web", place)
        guest = stage.container("guest", HOST_NETWORK)
        host = stage.process()
        host.do(f"listen 127.0.0.1 {PORT}")
        for life in range(2):
            web.do(f"connect {hub.ipv4} {HUB} {count} end=hold")
            jobs = [
                (web, web.begin(f"connect {hub.ipv4} {HUB} {count} pause=0.004")),
                (guest, guest.begin(f"connect 127.0.0.1 {PORT} {count} pause=0.004")),
                (host, host.begin(f"connect 127.0.0.1 {PORT} {count} pause=0.004")),
            ]
            time.sleep(count * 0.002)
            stage.exporter.stop(signal.SIGKILL)
            # Hooks need no exporter, and whom none announced is nobody's.
            new = stage.container(f"new-{life}", stage.network.namespace(f"new-{life}"))
            stray = stage.container(f"stray-{life}", HOST_NETWORK, hook=False)
            new.do(f"connect {hub.ipv4} {HUB} {count}")
            stray.do(f"connect 127.0.0.1 {PORT} {count}")
            for actor, job in jobs:
                actor.end(job)
            web.do("release")
            stage.leave(new)
            stage.exporter.start()
            stray.do(f"connect 127.0.0.1 {PORT} {count}")
            host.do(f"connect 127.0.0.1 {PORT} {count}")
    return stage.evidence


def adopted(directory: Path, size: float) -> Evidence:
    """Sockets from before the exporter: claims on cgroups count for them, and no others."""
    count = max(20, round(120 * size))
    with Stage("adopted", directory, started=False) as stage:
        hub = stage.hub()
        place = stage.network.namespace("web")
        web = stage.container("web", place)
        guest = stage.container("guest", HOST_NETWORK)
        before = stage.container("before", stage.network.namespace("before"), hook=False)
        host = stage.process()
        stranger = stage.process(place, expect=nobodys(HOST, "foreign_process"))
        host.do(f"listen 127.0.0.1 {PORT}")
        for actor in (web, before, stranger):
            actor.do(f"connect {hub.ipv4} {HUB} {count} end=hold")
        for actor in (guest, host):
            actor.do(f"connect 127.0.0.1 {PORT} {count} end=hold")
        stage.exporter.start()
        everybody = web, before, stranger, guest, host
        # What was there before is known once the exporter is up, unhooked or not.
        before.become(hooked("before"))
        host.become(Expectation(HOST))
        for actor in everybody:
            there = f"127.0.0.1 {PORT}" if actor in (guest, host) else f"{hub.ipv4} {HUB}"
            actor.do(f"connect {there} {count}")
        for actor in everybody:
            actor.do("release")
    return stage.evidence


def adopted_cgroup(directory: Path, size: float) -> Evidence:
    """A cgroup that stays when its container goes: the next one's claim is not for older sockets."""
    count = max(20, round(100 * size))
    with Stage("adopted_cgroup", directory, started=False) as stage:
        hub = stage.hub()
        # No name that the exporter would take for a container's: only a hook can tell whose it is.
        cgroup = f"{stage.runc.cgroup_root}/burstable/pod7/left"
        helper = stage.process()
        helper.do(f"take {stage.shared}/helper")
        first = stage.container(
            "first",
            stage.network.namespace("first"),
            hook=False,
            cgroup=cgroup,
            expect=nobodys("first", "unclaimed_container", "expired"),
        )
        first.do(f"offer /shared/helper {hub.ipv4} {HUB} {count}")
        keeper = stage.process(cgroup=Path(f"{cgroup_mounts('cgroup2')[0]}{cgroup}"))
        stage.leave(first)
        stage.exporter.start()
        second = stage.container("second", stage.network.namespace("second"), cgroup=cgroup)
        second.do(f"connect {hub.ipv4} {HUB} {count}")
        helper.do("release")
        stage.leave(keeper)
    return stage.evidence


def adopted_netns(directory: Path, size: float) -> Evidence:
    """Without cgroups: the namespace may have been another's when they opened, so they are nobody's."""
    return view.play(view.V1_ONLY, __name__, "adopted_without_v2", directory, size)


def adopted_without_v2(directory: Path, size: float) -> Evidence:
    count = max(20, round(100 * size))
    with Stage("adopted_netns", directory, started=False) as stage:
        hub = stage.hub()
        place = stage.network.namespace("web")
        helper = stage.process(expect=nobodys(HOST, "degraded"))
        helper.do(f"take {stage.shared}/helper")
        first = stage.container("first", place, expect=nobodys("first", "expired"))
        first.do(f"offer /shared/helper {hub.ipv4} {HUB} {count}")
        stage.leave(first)
        second = stage.container("second", place, expect=nobodys("second", "expired"))
        second.do(f"connect {hub.ipv4} {HUB} {count} end=hold")
        stage.exporter.start()
        second.become(hooked("second"))
        second.do(f"connect {hub.ipv4} {HUB} {count}")
        helper.do("release")
        second.do("release")
    return stage.evidence
