# SPDX-License-Identifier: Apache-2.0
"""What a tenant can do to a host beside its traffic: names, depths and locks."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf import abi
from exporter.containers import Walk
from tests.kernel.cgroup import cgroup, cgroup_id, make_socket
from tests.kernel.own_host import OwnHost, resident
from tests.rig.exporter import ROOT

VICTIM = "ab" * 32
USER = 1000


@pytest.fixture
def host(kernel: None, tmp_path: Path) -> Iterator[OwnHost]:
    with OwnHost(tmp_path) as host:
        yield host


def test_cgroup_named_by_a_user_is_no_container(host: OwnHost) -> None:
    """Who owns a delegated cgroup could name one in it after somebody else's container."""
    with cgroup(f"flowtag-user-{os.getpid()}") as user:
        os.chown(user, USER, USER)
        fake = user / f"docker-{VICTIM}.scope"
        fake.mkdir()
        with resident(fake, host.space):
            host.collect(0)
            for _ in range(2):
                host.reconciler = host.new_reconciler()
                host.tick()
            flow = host.flow(make_socket(host.space, fake))
            claim = host.claim("ft_cgroup", cgroup_id(fake))
    assert claim is None or claim.workload == abi.OWNER_UNCLAIMED
    assert flow.owner != 0 if claim is None else flow.reason == "unclaimed_container"
    assert not any(VICTIM.encode() in value for _, value in host.watch.map("ft_workload").items())


def test_collection_survives_a_held_lock(host: OwnHost) -> None:
    number = 0x7777000000000000
    shared = abi.OWNER.pack(abi.OWNER_UNCLAIMED, 1, 0, abi.FLAG_NO_CGROUP)
    host.watch.map("ft_cgroup").update(abi.ID.pack(number), shared)
    fd = os.open(host.run / f"lock/{number % 64:02x}", os.O_RDONLY | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    host.collect(0)
    os.close(fd)
    host.collect(0)
    claim = host.claim("ft_cgroup", number)
    assert claim is not None
    assert claim.until > 0


def test_walk_follows_any_depth(host: OwnHost, tmp_path: Path) -> None:
    """Plain directories stand in for cgroups: the machine's own tree stays as it is."""
    top = tmp_path / "tree"
    top.mkdir()
    before = os.getcwd()
    try:
        os.chdir(top)
        for _ in range(1100):
            os.mkdir("a")
            os.chdir("a")
    finally:
        os.chdir(before)
    assert Walk(host.config, str(top)).run()
    subprocess.run(["rm", "-rf", str(top)], check=True)


def test_namespaces_survive_odd_mount_names(kernel: None, tmp_path: Path) -> None:
    """In a private mount namespace, a network namespace is mounted where white space is in the path."""
    script = (
        "import os, subprocess\n"
        "from exporter import garbage\n"
        f"place = {str(tmp_path)!r} + '/a\\rb c'\n"
        "open(place, 'w').close()\n"
        "subprocess.run(['mount', '--bind', '/proc/self/ns/net', place], check=True)\n"
        "assert garbage.living_namespaces()\n"
    )
    subprocess.run(["unshare", "--mount", sys.executable, "-c", script], cwd=ROOT, check=True)
