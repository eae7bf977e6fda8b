# SPDX-License-Identifier: Apache-2.0
"""Where a process is: its cgroup, its network namespace, its start time; all from the real /proc."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from identity import cgroup, netns

SO_NETNS_COOKIE = 71


@pytest.fixture
def own_cgroup() -> Iterator[Path]:
    mount = cgroup.mount_point()
    if mount is None or os.geteuid() != 0:
        pytest.skip("needs root and cgroup v2")
    path = Path(f"{mount}/flowtag-unit-{os.getpid()}")
    path.mkdir()
    yield path
    path.rmdir()


def test_mount_point_is_cgroup2() -> None:
    mount = cgroup.mount_point()
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    found = [line.split()[1] for line in lines if line.split()[2] == "cgroup2"]
    assert mount in found or (mount is None and not found)


def test_process_in_a_cgroup(own_cgroup: Path) -> None:
    assert not cgroup.populated(str(own_cgroup))
    with subprocess.Popen(["sleep", "60"]) as process:
        (own_cgroup / "cgroup.procs").write_text(str(process.pid), encoding="ascii")
        assert cgroup.path_of(process.pid) == f"/{own_cgroup.name}"
        assert cgroup.id_of(str(own_cgroup)) == own_cgroup.stat().st_ino
        assert cgroup.populated(str(own_cgroup))
        process.kill()
    assert not cgroup.populated(str(own_cgroup))


def test_populated_of_a_cgroup_that_is_gone() -> None:
    assert not cgroup.populated("/sys/fs/cgroup/there/is/none")


def test_start_time_of_the_living_zombies_and_dead() -> None:
    began = cgroup.start_time(os.getpid())
    assert began == cgroup.start_time("self")
    process = subprocess.Popen(["sleep", "60"])
    later = cgroup.start_time(process.pid)
    assert began is not None
    assert later is not None
    assert began <= later
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    assert cgroup.start_time(process.pid) is None
    process.wait()
    assert cgroup.start_time(process.pid) is None


def test_start_time_command_with_parenthesis(tmp_path: Path) -> None:
    command = tmp_path / "a) Z 1 (b"
    command.symlink_to("/usr/bin/sleep")
    with subprocess.Popen([command, "60"]) as process:
        assert cgroup.start_time(process.pid) is not None
        process.kill()


def test_cookie_is_what_a_socket_says() -> None:
    with socket.socket() as sock:
        said = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")
    assert netns.cookie(os.getpid()) == said
    assert netns.cookie("/proc/self/ns/net") == said


def test_cookie_inside_another_namespace() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        own = netns.cookie(os.getpid())
        fd = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
        # The way of older kernels gives the same number, and leaves this process where it is.
        assert netns.cookie_inside(fd) == netns.cookie(process.pid) != own
        assert netns.cookie(os.getpid()) == own
        os.close(fd)
        process.kill()


def test_cookie_inside_not_a_namespace() -> None:
    with open("/dev/null", "rb") as file, pytest.raises(OSError, match="setns"):
        netns.cookie_inside(file.fileno())


def test_cookie_of_no_process() -> None:
    with pytest.raises(FileNotFoundError):
        netns.cookie(2**22 + 1)
