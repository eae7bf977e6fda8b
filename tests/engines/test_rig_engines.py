# SPDX-License-Identifier: Apache-2.0
"""The engines of the rig: what one leaves behind when its `with` ends, also if the daemon was killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.rig.bridge import Bridge
from tests.rig.container import cgroup_mounts
from tests.rig.containerd import Containerd
from tests.rig.docker import Docker
from tests.rig.podman import Podman
from tests.rig.puppet import Puppet
from tests.rig.view import View


def start_pod(engine: Containerd, puppet: Puppet) -> None:
    engine.run_pod("web-0", {"app": puppet})


def start_container(engine: Docker | Podman, puppet: Puppet) -> None:
    engine.run("web", puppet)


def traces(engine: Containerd | Docker | Podman, namespace: int, puppet_pid: int) -> dict[str, list[str]]:
    """What there is of the engine, by kind."""
    here, bridge = str(engine.directory), engine.bridge.name
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    return {
        "files": [here] if engine.directory.exists() else [],
        "mounts": [line for line in mounts if here in line],
        "cgroups": [f"{m}" for m in cgroup_mounts() if (m / engine.cgroup_root).exists()],
        "bridge": [bridge] if Path(f"/sys/class/net/{bridge}").exists() else [],
        "ports": [
            path.name for path in Path("/sys/class/net").glob("*/master") if path.resolve().name == bridge
        ],
        "namespaces": [p.name for p in Path("/run/netns").glob("*") if p.stat().st_ino == namespace],
        "rules": [line for line in rules.splitlines() if bridge in line],
        "processes": [name for name in os.listdir("/proc") if name.isdecimal() and _names(name, here)],
        "container": [str(puppet_pid)] if _names(str(puppet_pid), "puppet.py") else [],
    }


def _names(pid: str, text: str) -> bool:
    try:
        return text.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("make", "start", "killed"),
    [
        (Containerd, start_pod, False),
        (Containerd, start_pod, True),
        (Docker, start_container, False),
        (Docker, start_container, True),
        (Podman, start_container, False),
    ],
)
def test_engine_leaves_nothing_behind(
    make: Callable[[], Any], start: Callable[..., None], killed: bool
) -> None:
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text(encoding="ascii")
    with make() as engine:
        puppet = Puppet(engine.directory / "puppets", "web")
        start(engine, puppet)
        pid = puppet.pid
        namespace = os.stat(f"/proc/{pid}/ns/net").st_ino
        there = traces(engine, namespace, pid)
        assert {kind for kind, found in there.items() if found} >= {"files", "cgroups", "bridge", "container"}
        if killed:
            engine.daemon.signal(signal.SIGKILL)
    assert {kind: found for kind, found in traces(engine, namespace, pid).items() if found} == {}
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text(encoding="ascii") == forwarding


def test_view_with_only_cgroup2_leaves_the_machines_mounts() -> None:
    def mounts() -> str:
        return Path("/proc/self/mounts").read_text(encoding="utf-8")

    before = [line for line in mounts().splitlines() if " /sys/fs/cgroup" in line]
    with View(only_cgroup2=True) as view:
        words = ["sh", "-c", "grep ' /sys/fs/cgroup' /proc/self/mounts"]
        inside = subprocess.run(view.command(*words), capture_output=True, text=True, check=True).stdout
        assert inside.split()[:3] == ["cgroup2", "/sys/fs/cgroup", "cgroup2"]
        assert len(inside.splitlines()) == 1
    assert [line for line in mounts().splitlines() if " /sys/fs/cgroup" in line] == before


def test_bridge_is_in_this_machines_namespace() -> None:
    with Bridge() as bridge:
        found = subprocess.run(
            ["ip", "-br", "addr", "show", bridge.name], capture_output=True, text=True, check=True
        ).stdout
        assert bridge.ipv4 in found
        assert bridge.ipv6 in found
