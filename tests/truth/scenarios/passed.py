# SPDX-License-Identifier: Apache-2.0
"""Descriptors that change hands: a socket is its creator's, an accepted one its listener's creator's."""

from __future__ import annotations

from pathlib import Path

from tests.rig.bundle import HOST as HOST_NETWORK
from tests.truth.owner import HOST, Expectation, nobodys
from tests.truth.stage import HUB, Evidence, Stage

ACTIVATOR = "truth-activator"
PORT = 7280


def scm_rights(directory: Path, size: float) -> Evidence:
    """Connected sockets that go from one container to another and to the host, and close there."""
    count = max(10, round(150 * size))
    with Stage("scm_rights", directory) as stage:
        hub = stage.hub()
        giver = stage.container("giver", stage.network.namespace("giver"))
        taker = stage.container("taker", stage.network.namespace("taker"))
        host = stage.process()
        taker.do("take /shared/taker")
        host.do(f"take {stage.shared}/host")
        giver.do(f"offer /shared/taker {hub.ipv4} {HUB} {count}")
        giver.do(f"offer /shared/host {hub.ipv6} {HUB} {count}")
        taker.do(f"connect {hub.ipv4} {HUB} {count}")
        stage.leave(giver)
        taker.do("release")
        host.do("release")
    return stage.evidence


def inherited_listener(directory: Path, size: float) -> Evidence:
    """Who accepts is not asked: the listener's creator owns, and after its death nobody does."""
    count = max(20, round(250 * size))
    with Stage("inherited_listener", directory) as stage:
        place = stage.network.namespace("maker")
        maker = stage.container("maker", place)
        # The engine was killed, or forgot: no poststop, only the cgroup goes.
        only_start = {event: stage.hooks[event] for event in stage.hooks if event != "poststop"}
        unstopped = stage.container("unstopped", place, hooks=only_start)
        taker = stage.container("taker", stage.network.namespace("taker"))
        host = stage.process()
        client = stage.process(place, expect=nobodys(HOST, "foreign_process"))
        taker.do("take /shared/taker")
        host.do(f"take {stage.shared}/host")
        maker.do("handover /shared/taker 0.0.0.0 8080")
        maker.do("handover /shared/host 0.0.0.0 8081")
        for port in (8080, 8081):
            client.do(f"connect {place.ipv4} {port} {count}")
        # From here on the creators have gone, their listeners have not: no claim was alive at open.
        maker.become(nobodys("maker", "expired"))
        unstopped.become(nobodys("unstopped", "expired"))
        maker.do("handover /shared/taker 0.0.0.0 8082")
        maker.do("handover /shared/host 0.0.0.0 8083")
        unstopped.do("handover /shared/host 0.0.0.0 8084")
        stage.leave(maker)
        stage.leave(unstopped)
        for port in (8082, 8083, 8084):
            client.do(f"connect {place.ipv4} {port} {count}")
        with stage.plain_cgroup("service") as cgroup:
            service = stage.process(cgroup=cgroup)
            service.do(f"handover {stage.shared}/host 127.0.0.1 {PORT}")
            host.do(f"connect 127.0.0.1 {PORT} {count}")
            service.become(nobodys(HOST, "expired"))  # whose it was, was told by its cgroup alone
            service.do(f"handover {stage.shared}/host 127.0.0.1 {PORT + 1}")
            stage.leave(service)
        host.do(f"connect 127.0.0.1 {PORT + 1} {count}")
    return stage.evidence


def activated_listener(directory: Path, size: float) -> Evidence:
    """An engine listens in the host's namespace, and a container or the host's own process accepts."""
    count = max(20, round(300 * size))
    with Stage("activated_listener", directory, activators=[ACTIVATOR]) as stage:
        engine = stage.process(name=ACTIVATOR, expect=nobodys("guest", "activated"))
        guest = stage.container("guest", HOST_NETWORK)
        host = stage.process()
        guest.do("take /shared/guest")
        host.do(f"take {stage.shared}/host")
        engine.do(f"handover {stage.shared}/guest 127.0.0.1 {PORT + 1}")
        engine.become(nobodys(HOST, "activated"))
        engine.do(f"handover {stage.shared}/host 127.0.0.1 {PORT + 2}")
        guest.do(f"listen 127.0.0.1 {PORT + 3}")
        host.do(f"listen 127.0.0.1 {PORT + 4}")
        for port in range(PORT + 1, PORT + 5):
            guest.do(f"connect 127.0.0.1 {port} {count // 2}")
            host.do(f"connect 127.0.0.1 {port} {count // 2} end=server")
        engine.become(Expectation(HOST))  # what the engine connects itself is the host's
        engine.do(f"connect 127.0.0.1 {PORT + 3} {count // 2}")
    return stage.evidence
