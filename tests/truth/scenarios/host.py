# SPDX-License-Identifier: Apache-2.0
"""The host's own network: containers that use it beside processes of the host."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.rig.bundle import HOST as HOST_NETWORK
from tests.truth.owner import hooked, unhooked
from tests.truth.stage import HUB, Evidence, Stage

PORT = 20000 + os.getpid() % 10000  # this machine's own loopback: below the ephemeral ports, and ours


def host_network(directory: Path, size: float) -> Evidence:
    """Hooked containers and host processes on one address, talking to each other and to one far end."""
    count = max(5, round(150 * size))
    with Stage("host_network", directory) as stage:
        hub = stage.hub()
        stage.uplink()
        everybody = [
            stage.container("guest-a", HOST_NETWORK),
            stage.process(),
            stage.container("guest-b", HOST_NETWORK),
            stage.process(),
        ]
        for number, actor in enumerate(everybody):
            actor.do(f"listen 127.0.0.1 {PORT + number}")
        jobs = []
        for number, actor in enumerate(everybody):
            there = PORT + (number + 1) % len(everybody)
            jobs.append((actor, actor.begin(f"connect 127.0.0.1 {there} {count}")))
            jobs.append((actor, actor.begin(f"connect {hub.ipv4} {HUB} {count} end=server")))
        for actor, job in jobs:
            actor.end(job)
    return stage.evidence


def hook_failed(directory: Path, size: float) -> Evidence:
    """A container on the host's network whose hook failed: never the host's. `deep` is never found."""
    count = max(10, round(300 * size))
    with Stage("hook_failed", directory) as stage:
        host = stage.process()
        host.do(f"listen 127.0.0.1 {PORT}")
        failed = stage.container("failed", HOST_NETWORK, hook=False)
        failed.do(f"listen 127.0.0.1 {PORT + 1}")
        job = failed.begin(f"connect 127.0.0.1 {PORT} {count} pause=0.005 from=127.0.0.1")
        deep = stage.container(
            "deep",
            HOST_NETWORK,
            hook=False,
            expect=unhooked("deep"),
            cgroup=f"{stage.runc.cgroup_root}/between/pods/deep",
        )
        deep.do(f"connect 127.0.0.1 {PORT} {count}")
        host.do(f"connect 127.0.0.1 {PORT + 1} {count // 2}")
        failed.end(job)
    return stage.evidence


def found_later(directory: Path, size: float) -> Evidence:
    """No hook, and the exporter has looked around: a container is itself, never the cgroup it lies in."""
    count = max(10, round(150 * size))
    with Stage("found_later", directory) as stage:
        host = stage.process()
        host.do(f"listen 127.0.0.1 {PORT}")
        root = stage.runc.cgroup_root
        paths = {"plain": "plain", "deep": "between/pods/deep", "burst": "burstable/pod7/burst"}
        actors = [
            stage.container(name, HOST_NETWORK, hook=False, cgroup=f"{root}/{path}")
            for name, path in paths.items()
        ]
        time.sleep(1.5)
        for actor in actors:
            actor.do(f"connect 127.0.0.1 {PORT} {count}")
    return stage.evidence


def hook_delayed(directory: Path, size: float) -> Evidence:
    """The hook could not write and left its identity to the exporter: counted from when it was told."""
    count = max(10, round(300 * size))
    with Stage("hook_delayed", directory) as stage:
        host = stage.process()
        host.do(f"listen 127.0.0.1 {PORT}")
        with _locked(stage.exporter.run_directory / "lock"):
            guest = stage.container("guest", HOST_NETWORK, expect=hooked("guest", "unclaimed_container"))
            guest.do(f"connect 127.0.0.1 {PORT} {count}")
            guest.become(hooked("guest"))  # open when the identity comes: late, but known
            guest.do(f"connect 127.0.0.1 {PORT} {count} end=hold")
        time.sleep(1.5)
        guest.do("release")
        guest.do(f"connect 127.0.0.1 {PORT} {count}")
    return stage.evidence


@contextmanager
def _locked(locks: Path) -> Iterator[None]:
    """Nobody gets a lock on a claim meanwhile, so the hook gives up."""
    with ExitStack() as stack:
        for path in locks.iterdir():
            fd = os.open(path, os.O_RDONLY)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
