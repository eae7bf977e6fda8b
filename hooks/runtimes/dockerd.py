# SPDX-License-Identifier: Apache-2.0
"""The running dockerd: which process it is, what it was started with, what it says is in force."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from typing import NamedTuple

from bpf.error import FlowtagError

PID_FILE = "/run/docker.pid"
SOCKET = "/run/docker.sock"
NAMES = ("dockerd", "docker-dev", "dockerd-dev")
TIMEOUT = 3.0
"""Seconds for each answer over the socket."""


class Daemon(NamedTuple):
    """A dockerd: its process, its arguments after the first, its PATH, its executable."""

    pid: int
    arguments: tuple[str, ...]
    path: str
    executable: str

    def flag(self, *names: str) -> str:
        """What a flag was given, the last time; empty if it was not. Names without dashes."""
        value = ""
        for index, argument in enumerate(self.arguments):
            name, equals, rest = argument.lstrip("-").partition("=")
            if argument.startswith("-") and name in names:
                value = rest if equals else next(iter(self.arguments[index + 1 :]), "")
        return value


class Info(NamedTuple):
    """The part of GET /info that tells what is in force."""

    default_runtime: str
    runtimes: dict[str, str]
    root: str
    system: str
    rootless: bool


def of_socket(path: str) -> Daemon | None:
    """The dockerd that listens on a Unix socket; None if somebody else does (systemd, a proxy)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(TIMEOUT)
        try:
            connection.connect(path)
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return None
    pid, _, _ = struct.unpack("3i", peer)
    return of_pid(pid)


def of_pid_file(path: str) -> Daemon | None:
    """The dockerd whose pid a file holds; None if there is none, or another process has that pid."""
    try:
        with open(path, encoding="ascii") as file:
            pid = int(file.read(32))
    except (OSError, ValueError):
        return None
    return of_pid(pid)


def of_pid(pid: int) -> Daemon | None:
    """The process, if it is a dockerd."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            if file.read().strip() not in NAMES:
                return None
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="surrogateescape") as file:
            arguments = file.read().split("\0")[1:-1]
        with open(f"/proc/{pid}/environ", encoding="utf-8", errors="surrogateescape") as file:
            environment = dict(item.partition("=")[::2] for item in file.read().split("\0"))
        executable = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
    return Daemon(pid, tuple(arguments), environment.get("PATH", os.defpath), executable)


def ask(path: str) -> Info | None:
    """What the daemon behind a socket says; None if nobody answers there."""
    from docker import APIClient
    from docker.errors import DockerException
    from requests import RequestException

    if not os.path.exists(path):
        return None
    try:
        client = APIClient(base_url=f"unix://{path}", version="auto", timeout=int(TIMEOUT))
        try:
            info = client.info()
        finally:
            client.close()
    except (DockerException, RequestException, OSError):
        return None
    return Info(
        str(info.get("DefaultRuntime", "")),
        {name: str(entry.get("path", "")) for name, entry in (info.get("Runtimes") or {}).items()},
        str(info.get("DockerRootDir", "")),
        str(info.get("OperatingSystem", "")),
        any("rootless" in option for option in info.get("SecurityOptions") or ()),
    )


def reload(pid_file: str, path: str, default_runtime: str, seconds: float = 10.0) -> None:
    """SIGHUP to the dockerd that the pid file names, then wait until /info shows the default runtime.

    FlowtagError if there is no dockerd, or it does not show it in time; `default_runtime` "" is any other.
    """
    daemon = of_pid_file(pid_file)
    if daemon is None:
        raise FlowtagError(
            f"reloading docker: {pid_file} names no running dockerd",
            "reload it yourself: systemctl reload docker",
        )
    try:
        fd = os.pidfd_open(daemon.pid)
    except OSError as error:
        raise FlowtagError(f"reloading docker: process {daemon.pid}: {error.strerror}") from error
    try:
        if of_pid(daemon.pid) is None:  # the number was given to another process meanwhile
            raise FlowtagError(f"reloading docker: process {daemon.pid} is dockerd no longer")
        signal.pidfd_send_signal(fd, signal.SIGHUP)
    finally:
        os.close(fd)
    until = time.monotonic() + seconds
    while True:
        info = ask(path)
        if info is not None and (info.default_runtime == "flowtag") == (default_runtime == "flowtag"):
            return
        if time.monotonic() > until:
            raise FlowtagError(
                f"reloading docker: sent SIGHUP to dockerd {daemon.pid}, but after {seconds:g} s its default "
                f"runtime is {'unknown' if info is None else info.default_runtime}",
                "its log says why: journalctl -u docker",
            )
        time.sleep(0.1)
