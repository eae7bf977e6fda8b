# SPDX-License-Identifier: Apache-2.0
"""Docker: the wrapper as a runtime of daemon.json and as its default; SIGHUP makes dockerd read that.

A container keeps the runtime's name that it was made with, and dockerd does not start a container whose
runtime has no entry; so the entry, and what it points to, stay while a container names it.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from typing import Any

from bpf.error import FlowtagError
from hooks import edit, indented_json
from hooks.runtime import Change, Options, Plan, State
from hooks.runtimes import dockerd, runc

RUNTIME = "flowtag"
RUNC = ("runc", "io.containerd.runc.v2")
"""Names under which Docker itself means runc."""
FILE = "/etc/docker/daemon.json"
SNAP = "/var/snap/docker"
RELOAD = "systemctl reload docker"


class Docker:
    """The system's dockerd."""

    name = "docker"

    def __init__(self, root: str = "") -> None:
        """`root` goes before every path that nobody named."""
        self._root = root

    def found(self, options: Options) -> str:
        """Its socket, its binary, its configuration, or what was named."""
        places = [self._socket(options), f"{self._root}{FILE}", f"{self._root}{SNAP}/current"]
        there = options.file or next(filter(os.path.exists, places), "") or shutil.which("dockerd")
        return there or next(iter(self._rootless()), "")

    def register(self, options: Options) -> Plan:
        """Entry and default; what dockerd was started with, and what it says, must not contradict."""
        daemon, info = self.daemon(options), dockerd.ask(self._socket(options))
        self._refuse_kind(daemon, info)
        path = self._file(options, daemon)
        before, document = self._read(path)
        self._refuse_flags(daemon)
        self._refuse_default(str(document.get("default-runtime", "")), path)
        if info is not None:
            self._refuse_default(info.default_runtime, "dockerd")
        runtimes = document.setdefault("runtimes", {})
        if not isinstance(runtimes, dict):
            raise FlowtagError(f'registering with docker: "runtimes" of {path} is no object')
        entry = {"path": f"{options.hook_directory}/flowtag-runc"}
        there = runtimes.get(RUNTIME)
        notes = [f"{socket} is a rootless dockerd: not covered" for socket in self._rootless()]
        if daemon is None:
            notes.append("dockerd is not running, so flags in its unit that contradict the file are not seen")
        if there == entry and document.get("default-runtime") == RUNTIME:
            after = before
        else:
            runtimes[RUNTIME] = entry
            document["default-runtime"] = RUNTIME
            after = indented_json.encode(document, before)
        reload = self._reload(info, True)
        return Plan(_changes(path, before, after), reload, tuple(notes), self._runc(options, daemon, info))

    def validate(self, options: Options, change: Change, temporary: str) -> None:
        """dockerd --validate, which came with Docker 23; before that, that it is JSON."""
        indented_json.decode(edit.read(temporary) or b"")
        daemon = self.daemon(options)
        binary = shutil.which("dockerd") if daemon is None else f"/proc/{daemon.pid}/exe"
        if binary is None:
            return
        try:
            done = subprocess.run(
                [binary, "--validate", "--config-file", temporary],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FlowtagError(f"checking the new {change.path} with dockerd: {error}") from error
        if done.returncode and "unknown flag: --validate" not in done.stderr:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise FlowtagError(f"checking the new {change.path} with dockerd: {lines[-1]}")

    def unregister(self, options: Options, referring: bool) -> Plan:
        """Take the default back; the entry too, unless a container or the running dockerd needs it.

        A dockerd that runs has to be told "runc": reading a file that does not say, it keeps the default that
        it has (seen with 20.10.24). So that word stays until the entry goes.
        """
        daemon, info = self.daemon(options), dockerd.ask(self._socket(options))
        path = self._file(options, daemon)
        before, document = self._read(path)
        backup = edit.read(os.path.realpath(path) + edit.BACKUP)
        old = {} if backup is None else indented_json.decode(backup)
        default, runtimes = document.get("default-runtime"), document.get("runtimes")
        was = old.get("default-runtime") if old.get("default-runtime") in RUNC else None
        entry = isinstance(runtimes, dict) and RUNTIME in runtimes
        if referring and default == RUNTIME:
            document["default-runtime"] = was or "runc"
        elif not referring and (entry or default == RUNTIME):
            if was:
                document["default-runtime"] = was
            elif default in (RUNTIME, "runc"):
                del document["default-runtime"]
            if isinstance(runtimes, dict):
                runtimes.pop(RUNTIME, None)
                if not runtimes and "runtimes" not in old:
                    del document["runtimes"]
        after = before
        if before is not None and document != indented_json.decode(before):
            if backup is not None and document == old:
                after = backup  # to the last space
            elif backup is None and not document:
                after = None  # there was no file before ours
            else:
                after = indented_json.encode(document, before)
        return Plan(_changes(path, before, after), self._reload(info, False))

    def state(self, options: Options) -> State:
        """The file, and what dockerd says over its socket.

        One that runs and does not answer counts as if it called the wrapper, while that is there.
        """
        daemon, info = self.daemon(options), dockerd.ask(self._socket(options))
        path = self._file(options, daemon)
        _, document = self._read(path)
        wrapper = f"{options.hook_directory}/flowtag-runc"
        runtimes = document.get("runtimes")
        entry = runtimes.get(RUNTIME) if isinstance(runtimes, dict) else None
        ours = isinstance(entry, dict) and entry.get("path") == wrapper
        registered = ours and document.get("default-runtime") == RUNTIME
        problem = ""
        if document.get("default-runtime") == RUNTIME and entry is None:
            problem = (
                f'{path} has "flowtag" as its default-runtime and no such runtime: containers cannot start'
            )
        if info is None and daemon is None:
            return State(registered, None, "", problem, path)
        if info is None:
            # It may have our default in memory, and then starts nothing once the wrapper is gone.
            problem = (
                problem or f"dockerd does not answer at {self._socket(options)}: is it the one? see --socket"
            )
            effective = os.path.exists(wrapper)
            return State(registered, effective, "" if registered or not effective else RELOAD, problem, path)
        effective = info.default_runtime == RUNTIME and info.runtimes.get(RUNTIME) == wrapper
        return State(registered, effective, RELOAD if registered != effective else "", problem, path)

    def reload(self, options: Options, registered: bool) -> None:
        """SIGHUP, and wait until it is in force."""
        daemon = self.daemon(options)
        _, document = self._read(self._file(options, daemon))
        flag = daemon.flag("pidfile", "p") if daemon else ""
        pid_file = flag or str(document.get("pidfile", "")) or f"{self._root}{dockerd.PID_FILE}"
        dockerd.reload(pid_file, self._socket(options), RUNTIME if registered else "")

    def data_root(self, options: Options) -> str:
        """Where dockerd keeps its containers."""
        daemon, info = self.daemon(options), dockerd.ask(self._socket(options))
        if info is not None and info.root:
            return info.root
        _, document = self._read(self._file(options, daemon))
        flag = daemon.flag("data-root", "graph", "g") if daemon else ""
        return flag or str(document.get("data-root", "")) or f"{self._root}/var/lib/docker"

    def daemon(self, options: Options) -> dockerd.Daemon | None:
        """The dockerd at the socket or, where systemd listens for it, the one of the pid file."""
        at_socket = dockerd.of_socket(self._socket(options))
        if at_socket is not None or options.socket:
            return at_socket
        return dockerd.of_pid_file(f"{self._root}{dockerd.PID_FILE}")

    def _socket(self, options: Options) -> str:
        return options.socket.removeprefix("unix://") or f"{self._root}{dockerd.SOCKET}"

    def _file(self, options: Options, daemon: dockerd.Daemon | None) -> str:
        flag = daemon.flag("config-file") if daemon else ""
        if options.file and flag and os.path.realpath(options.file) != os.path.realpath(flag):
            raise FlowtagError(
                f"registering with docker: dockerd was started with --config-file {flag}, not {options.file}",
                f"leave --file away, or say --file {flag}",
            )
        return options.file or flag or f"{self._root}{FILE}"

    def _read(self, path: str) -> tuple[bytes | None, dict[str, Any]]:
        before = edit.read(path)
        try:
            return before, indented_json.decode(before or b"")
        except ValueError as error:
            raise FlowtagError(
                f"reading {path}: {error}", "dockerd cannot start with it either: mend it first"
            ) from error

    def _rootless(self) -> list[str]:
        return sorted(glob.glob(f"{self._root}/run/user/*/docker.sock"))

    def _refuse_kind(self, daemon: dockerd.Daemon | None, info: dockerd.Info | None) -> None:
        absent = daemon is None and info is None and not shutil.which("dockerd")
        if (info is not None and info.rootless) or (absent and self._rootless()):
            raise FlowtagError(
                "registering with docker: this dockerd is rootless",
                "the hook needs root's rights; what its containers do is found by their cgroups instead",
            )
        if info is not None and info.system == "Docker Desktop":
            raise FlowtagError(
                "registering with docker: this is Docker Desktop, whose containers run in a virtual machine",
                "install flowtag where Docker Engine itself runs",
            )
        snap = f"{self._root}{SNAP}/current"
        if daemon.executable.startswith("/snap/") if daemon else os.path.exists(snap) and absent:
            raise FlowtagError(
                "registering with docker: this dockerd is a snap, which sees no file of flowtag's",
                "use docker.io of the distribution or Docker's own packages",
            )

    def _refuse_flags(self, daemon: dockerd.Daemon | None) -> None:
        for flag in ("default-runtime", "add-runtime"):
            value = daemon.flag(flag) if daemon else ""
            if value:
                raise FlowtagError(
                    f"registering with docker: dockerd was started with --{flag} {value}, and does not start "
                    "if its file says something about runtimes as well",
                    f"move --{flag} from its unit to daemon.json, restart docker, and register again",
                )

    def _refuse_default(self, runtime: str, where: str) -> None:
        if runtime and runtime not in (RUNTIME, *RUNC):
            raise FlowtagError(
                f"registering with docker: the default runtime of {where} is {runtime}, somebody else's",
                "docs/runtimes.md says how to put flowtag's wrapper below it by hand",
            )

    def _reload(self, info: dockerd.Info | None, registered: bool) -> str:
        if info is None:
            return ""  # it reads the file when it starts
        return RELOAD if (info.default_runtime == RUNTIME) != registered else ""

    def _runc(self, options: Options, daemon: dockerd.Daemon | None, info: dockerd.Info | None) -> str:
        name = (info and info.runtimes.get("runc")) or "runc"
        found = runc.real(daemon.path if daemon else runc.DEFAULT_PATH, options.hook_directory, name)
        if not found:
            raise FlowtagError(
                f"registering with docker: {name} is not in the PATH of dockerd", "install runc"
            )
        return found


def _changes(path: str, before: bytes | None, after: bytes | None) -> tuple[Change, ...]:
    return () if before == after else (Change(path, before, after),)
