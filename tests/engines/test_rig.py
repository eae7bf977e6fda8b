# SPDX-License-Identifier: Apache-2.0
"""The rig itself: containers talk over its network, hooks run, and nothing stays behind."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.rig.bundle import HOST
from tests.rig.container import Runc, cgroup_mounts
from tests.rig.network import Network

SERVER = """
import socket
server = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening")
for _ in range(2):
    connection, peer = server.accept()
    print("served", peer[0])
    connection.close()
"""
CLIENT = """
import socket
for address in input().split():
    socket.create_connection((address, 80), 5).close()
"""


def test_containers_reach_each_other_over_both_families(kernel: None, tmp_path: Path) -> None:
    with Network() as net, Runc(tmp_path) as runc:
        there, here = net.namespace("there"), net.namespace("here")
        server = runc.run("server", SERVER, netns=there.path)
        server.await_line("listening")
        client = runc.run("client", CLIENT, netns=here.path)
        client.say(f"{there.ipv4} {there.ipv6}")
        assert (client.wait(), server.wait()) == (0, 0)
        assert f"served ::ffff:{here.ipv4}" in server.output
        assert f"served {here.ipv6}" in server.output


def test_container_of_create_runs_hooks_first_and_its_payload_at_start(kernel: None, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat >>'{seen}'"]}
    with Runc(tmp_path) as runc:
        job = runc.create(
            "job",
            "print('payload')",
            hooks={"createRuntime": [hook], "poststop": [hook]},
            annotations={"a": "b"},
        )
        state = json.loads(seen.read_text(encoding="utf-8"))
        assert (state["id"], state["pid"], state["annotations"]) == ("job", job.pid, {"a": "b"})
        cgroup = Path(f"/proc/{job.pid}/cgroup").read_text(encoding="ascii")
        assert f"0::{job.cgroup}\n" in cgroup
        assert job.output == ""
        job.start()
        assert job.wait() == 0
        assert job.output == "payload\n"
        seen.unlink()
        job.delete()
        assert json.loads(seen.read_text(encoding="utf-8"))["status"] == "stopped"


def test_container_with_a_failing_hook_does_not_start(kernel: None, tmp_path: Path) -> None:
    with Runc(tmp_path) as runc, pytest.raises(RuntimeError, match="hook"):
        runc.run("refused", "", hooks={"createRuntime": [{"path": "/bin/false"}]})


def test_everything_is_gone_at_the_end(kernel: None, tmp_path: Path) -> None:
    with Network() as net, Runc(tmp_path) as runc:
        uplink = net.uplink()
        place = net.namespace("place")
        sleeper = runc.run("sleeper", "import time; print('up'); time.sleep(60)", netns=HOST)
        nested = runc.run("nested", "import time; time.sleep(60)", cgroup="/flowtag-rig/a/b")
        sleeper.await_line("up")
        pids = sleeper.pid, nested.pid
        ours = os.readlink("/proc/self/ns/net")
        assert os.readlink(f"/proc/{sleeper.pid}/ns/net") == ours
        assert os.stat(f"{cgroup_mounts('cgroup2')[0]}/flowtag-rig/a/b").st_ino == nested.cgroup_id
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not os.path.exists(place.path)
    names = ("flowtag-rig", runc.cgroup_root.strip("/"))
    assert not [m / name for m in cgroup_mounts() for name in names if (m / name).exists()]
    links = subprocess.run(["ip", "addr"], capture_output=True, text=True, check=True).stdout
    assert uplink[0] not in links
