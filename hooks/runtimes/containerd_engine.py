# SPDX-License-Identifier: Apache-2.0
"""The containerd of this machine: its process, its programs, and what it makes of a configuration file.

The containerd that judges a file is the one that will read it, so it is found through its socket: the
listener's process names its binary and its configuration.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import time
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bpf.error import FlowtagError
from hooks.runtimes.containerd_config import without_zeros

SOCKETS = (
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",  # and of rke2
    "/run/k0s/containerd.sock",
)
FILE = "/etc/containerd/config.toml"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DELETED = " (deleted)"


class Engine(NamedTuple):
    """What to run, and what runs.

    binary: containerd; file: the configuration that the process reads (the default where none runs);
    path: where it looks for programs; pid: 0 where none runs; shares_root: its paths mean the same here.
    """

    binary: str
    file: str
    path: str
    pid: int
    shares_root: bool

    def dump(self, file: str) -> dict[str, Any]:
        """What is in force with this file, imports and defaults included; FlowtagError in its words."""
        return self._config(file, "--config", file, "config", "dump")

    def defaults(self) -> dict[str, Any]:
        """What is in force without any file."""
        return self._config("its defaults", "config", "default")

    def ctr(self) -> str:
        """The ctr that came with it; FlowtagError if there is none."""
        beside = os.path.join(os.path.dirname(self.binary), "ctr")
        found = beside if os.access(beside, os.X_OK) else shutil.which("ctr", path=self.path)
        if found is None:
            raise FlowtagError("looking for containerd's ctr: it is not there", "install it")
        return found

    def started(self) -> float | None:
        """When the process started, in seconds of the wall clock; None where none runs."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                ticks = int(file.read().rpartition(b")")[2].split()[19])
        except (OSError, ValueError, IndexError):
            return None
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)  # btime in /proc/stat has whole seconds
        return boot + ticks / os.sysconf("SC_CLK_TCK")

    def _config(self, what: str, *arguments: str) -> dict[str, Any]:
        doing = f"asking containerd for its configuration with {what}"
        try:
            return tomllib.loads(run([self.binary, *arguments], doing))
        except tomllib.TOMLDecodeError as error:
            raise FlowtagError(f"{doing}: it is not TOML: {error}") from error


def find(address: str = "") -> Engine | None:
    """The containerd that listens at the socket, else the one in PATH; None if neither is there."""
    addresses = [address.removeprefix("unix://")] if address else SOCKETS
    pid = next(filter(None, map(_listener, addresses)), 0)
    if pid:
        path = _environment(pid).get("PATH", PATH)
        # Where its binary lies: after an upgrade the next start runs what is there by then.
        name = os.readlink(f"/proc/{pid}/exe").removesuffix(_DELETED)
        shared = os.path.samefile(f"/proc/{pid}/root", "/")
        place = name if shared else f"/proc/{pid}/root{name}"
        binary = place if os.access(place, os.X_OK) else f"/proc/{pid}/exe"
        return Engine(binary, _config_argument(pid), path, pid, shared)
    found = shutil.which("containerd") or shutil.which("containerd", path=PATH)
    return Engine(found, FILE, PATH, 0, False) if found else None


def comparable(dump: dict[str, Any], file: str) -> dict[str, Any]:
    """A dump without what differs between two runs: the file's own name among the imports, their order."""
    plain = without_zeros(dump)
    imports = [name for name in plain.pop("imports", []) if name != file]
    return {**plain, **({"imports": sorted(imports)} if imports else {})}


def difference(expected: Mapping[str, Any], found: Mapping[str, Any], path: str = "") -> str:
    """The first key whose value differs and both values, empty if none does."""
    for name in sorted({*expected, *found}):
        one, other, here = expected.get(name), found.get(name), f"{path}{name}"
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            deeper = difference(one, other, f"{here}.")
            if deeper:
                return deeper
        elif one != other:
            return f"{here} = {other!r} instead of {one!r}"
    return ""


def _listener(address: str) -> int:
    """The process of a containerd that listens at the socket, else 0."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(address)
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid: int = struct.unpack("3i", peer)[0]
            exe = os.readlink(f"/proc/{pid}/exe").removesuffix(_DELETED)
        except OSError:
            return 0
    # k3s is one binary that runs containerd under that name as well.
    return pid if os.path.basename(exe).startswith(("containerd", "k3s", "rke2")) else 0


def _config_argument(pid: int) -> str:
    """The --config of a process."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = [os.fsdecode(word) for word in file.read().split(b"\0")[1:]]
    found = FILE
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in ("-c", "-config", "--config"):
            found = value if equals else following
    return os.path.join(os.readlink(f"/proc/{pid}/cwd"), found)


def _environment(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = os.fsdecode(file.read()).split("\0")
    except OSError:
        return {}
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def run(command: Sequence[str], doing: str) -> str:
    """What a program prints; FlowtagError with its last words if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FlowtagError(f"{doing}: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise FlowtagError(f"{doing}: {lines[-1]}")
    return done.stdout
