# SPDX-License-Identifier: Apache-2.0
"""containerd by NRI: nothing is written; `flowtag nri` has to run, and containerd has to listen for it."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import tomllib
from typing import Any

from bpf.error import FlowtagError
from hooks import nri
from hooks.runtime import Change, Options, Plan, State

PLUGIN = "io.containerd.nri.v1.nri"


class Nri:
    """The adapter behind `--runtime containerd --method nri`."""

    name = "containerd-nri"

    def found(self, options: Options) -> str:
        """NRI's socket, which containerd opens from 2.0 on unless told otherwise; else its binary."""
        path = options.socket or nri.SOCKET
        return f"socket {path}" if os.path.exists(path) else shutil.which("containerd") or ""

    def register(self, options: Options) -> Plan:
        """No changes, but what to start; FlowtagError if containerd would not listen."""
        path = listens_at(effective(options), options)
        if self.state(options).effective:
            return Plan()
        command = ["flowtag", "nri"]
        for option, value, default in (
            ("--socket", path, nri.SOCKET),
            ("--hook-directory", options.hook_directory, Options().hook_directory),
            ("--run-directory", options.run_directory, Options().run_directory),
        ):
            command += [option, value] if value != default else []
        then = "systemctl enable --now flowtag-nri.service"
        if len(command) > 2:
            then = f"run as a service: {shlex.join(command)}"
        return Plan(
            then=then, notes=("containers that exist already get no hook; the exporter finds them by cgroup",)
        )

    def validate(self, options: Options, change: Change, temporary: str) -> None:
        """Nothing is written."""

    def unregister(self, options: Options, referring: bool) -> Plan:
        """No changes: the plugin has to end, and with it the injection."""
        if self.state(options).registered:
            return Plan(then="systemctl disable --now flowtag-nri.service")
        return Plan()

    def state(self, options: Options) -> State:
        """Whether the plugin runs and containerd has accepted it: by the file that it keeps locked."""
        line = status_of(f"{options.run_directory}/nri")
        if line is None:
            return State(False, False)
        pid, path, *engine = line.split() or ["", ""]
        if not pid:
            return State(
                True, False, problem="flowtag nri runs, but containerd has not accepted it: see its log"
            )
        if stopped(pid):
            return State(True, False, problem=f"flowtag nri is stopped: kill -CONT {pid}")
        return State(True, True, detail=f"connected to {' '.join(engine)} at {path}, process {pid}")


def status_of(path: str) -> str | None:
    """What the plugin wrote; None if no plugin holds the file."""
    try:
        with open(path, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(4096)
    except FileNotFoundError:
        pass
    return None


def stopped(pid: str) -> bool:
    """Whether a process is stopped by a signal: its socket is open, but nobody answers."""
    try:
        with open(f"/proc/{int(pid)}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, ValueError, IndexError):
        return False


def effective(options: Options) -> dict[str, Any]:
    """The configuration as containerd understands it, defaults and drop-ins merged."""
    command = ["containerd", *(["--config", options.file] if options.file else []), "config", "dump"]
    doing = f"asking {shlex.join(command)}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FlowtagError(f"{doing}: {error}", "is containerd installed, and in PATH?") from error
    if done.returncode:
        raise FlowtagError(f"{doing}: {done.stderr.strip()[-500:] or done.returncode}")
    try:
        return tomllib.loads(done.stdout)
    except tomllib.TOMLDecodeError as error:
        raise FlowtagError(f"{doing}: {error}") from error


def listens_at(config: dict[str, Any], options: Options) -> str:
    """The path of the socket on which containerd takes plugins; FlowtagError if it takes none."""
    file = options.file or "/etc/containerd/config.toml"
    section = config.get("plugins", {}).get(PLUGIN)
    other = "or use --method wrapper"
    if section is None:
        raise FlowtagError(f"reading {file}: this containerd has no NRI, which came with 1.7", other)
    if PLUGIN in config.get("disabled_plugins", []):
        raise FlowtagError(f"reading {file}: disabled_plugins names {PLUGIN}", f"take it out, {other}")
    for key in ("disable", "disable_connections"):
        if section.get(key):
            raise FlowtagError(
                f"reading {file}: {key} = true in [plugins.'{PLUGIN}'], so containerd takes no plugin",
                f"set {key} = false there and restart containerd, {other}",
            )
    return str(section.get("socket_path") or nri.SOCKET)
