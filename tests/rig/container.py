# SPDX-License-Identifier: Apache-2.0
"""Real containers by runc, with private state and cgroups of their own.

    with Runc(tmp_path) as runc:               # a private --root; cgroups in /flowtag-test-<pid>
        web = runc.run("web", SCRIPT, netns=..., hooks=..., annotations=...)
        web.await_line("listening")            # a line of its output that contains this
        web.say("go")                          # a line on its standard input
        web.wait()                             # exit status; runc has deleted the container
        web.output                             # standard output and error so far, as text

        job = runc.create("job", SCRIPT, ...)  # hooks have run, the payload has not
        job.start()
        job.wait()                             # until its process has ended
        job.delete()                           # runs poststop

        web.pid                                # of the payload, in the machine's pid namespace
        web.cgroup, web.cgroup_id              # "/flowtag-test-7/web", its id in cgroup v2
        web.bundle                             # the directory with config.json
        web.kill(signal.SIGTERM)
        runc.state("web")                      # what `runc state` says
    Runc(tmp_path, program="crun", view=view)  # another runtime that speaks runc's language, see view.py

`id` may be anything that runc takes; further arguments are make_bundle's. What still runs at the
end of the `with` is killed and deleted, and the cgroups that runc made are removed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.rig.bundle import make_bundle
from tests.rig.view import View


def cgroup_mounts(kind: str = "") -> list[Path]:
    """Where cgroup hierarchies are mounted; `kind` "cgroup2" gives version 2 only."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    fields = [line.split() for line in lines]
    return [Path(f[1]) for f in fields if f[2] in ((kind,) if kind else ("cgroup", "cgroup2"))]


class Container:
    """One container. Made by Runc.run() and Runc.create()."""

    def __init__(self, runc: Runc, id: str, bundle: Path, cgroup: str, command: str) -> None:  # noqa: A002 - what OCI calls it
        self.id = id
        self.bundle = bundle
        self.cgroup = cgroup
        self._runc = runc
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._pid_file = bundle / "pid"
        argv = runc.command(command, "--bundle", str(bundle), "--pid-file", str(self._pid_file), id)
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._detached = command == "create"
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for raw in self._process.stdout:
            with self._news:
                self._lines.append(raw.decode(errors="replace"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def output(self) -> str:
        with self._news:
            return "".join(self._lines)

    @property
    def pid(self) -> int:
        return int(self._pid_file.read_text(encoding="ascii"))

    @property
    def cgroup_id(self) -> int:
        """The id in cgroup v2 (the directory's inode); while the cgroup exists."""
        return os.stat(f"{cgroup_mounts('cgroup2')[0]}{self.cgroup}").st_ino

    def await_line(self, text: str, timeout: float = 20) -> str:
        """The first line of output that contains `text`, as soon as it is there."""

        def found() -> str | None:
            return next((line for line in self._lines if text in line), None)

        with self._news:
            self._news.wait_for(lambda: self._ended or found() is not None, timeout)
            line = found()
        if line is None:
            raise AssertionError(f"container {self.id}: no line {text!r} in {self.output!r}")
        return line.rstrip("\n")

    def say(self, text: str) -> None:
        """Write a line to the payload's standard input."""
        assert self._process.stdin
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()

    def start(self) -> None:
        """Start the payload of a created container."""
        self._runc.call("start", self.id)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self._runc.call("kill", self.id, str(int(number)))

    def wait(self, timeout: float = 30) -> int:
        """Wait for the end: the payload's exit status, or 0 after create()."""
        deadline = time.monotonic() + timeout
        status = self._process.wait(timeout)
        if self._detached:
            while self._runc.state(self.id).get("status") != "stopped":
                if time.monotonic() > deadline:
                    raise TimeoutError(f"container {self.id} still runs")
                time.sleep(0.02)
        self._reader.join(max(0.0, deadline - time.monotonic()))
        return status

    def delete(self, *, force: bool = False) -> None:
        """Delete it as an engine would; poststop hooks run."""
        self._runc.call("delete", *(["--force"] if force else []), self.id)

    def close(self) -> None:
        """Kill and delete what is left of it."""
        with suppress(RuntimeError):
            self.delete(force=True)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()


class Runc:
    """A runtime with a private state directory below `directory`, which every view must have: in /tmp."""

    def __init__(
        self, directory: Path, cgroup_root: str = "", *, program: str = "runc", view: View | None = None
    ) -> None:
        self.directory = directory
        self._program = program
        self._view = view or View()
        self.cgroup_root = cgroup_root or f"/flowtag-test-{os.getpid()}"
        self._containers: list[Container] = []
        self._cgroups: list[str] = []  # directories that were not there before ours, parents first
        self._remember(self.cgroup_root)

    def __enter__(self) -> Runc:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def command(self, *arguments: str) -> list[str]:
        return self._view.command(self._program, "--root", str(self.directory / "runc"), *arguments)

    def call(self, *arguments: str) -> str:
        """Run runc to its end; RuntimeError with what it said if it fails."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self._program} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def state(self, id: str) -> dict[str, Any]:  # noqa: A002 - what OCI calls it
        """What `runc state` says; empty if there is no such container."""
        try:
            value: dict[str, Any] = json.loads(self.call("state", id))
        except RuntimeError:
            return {}
        return value

    def run(self, id: str, script: str, **bundle: Any) -> Container:  # noqa: A002 - what OCI calls it
        """Start a container in the foreground of a `runc run`; returns once its process exists."""
        container = self._make(id, script, "run", bundle)
        deadline = time.monotonic() + 10
        while not container._pid_file.exists():
            if container._process.poll() is not None or time.monotonic() > deadline:
                container._reader.join(1)
                if container._pid_file.exists():  # it was a very short one
                    break
                raise RuntimeError(f"runc run {id}: {container.output.strip()}")
            time.sleep(0.005)
        return container

    def create(self, id: str, script: str, **bundle: Any) -> Container:  # noqa: A002 - what OCI calls it
        """Create a container without starting its payload; RuntimeError if runc refuses."""
        container = self._make(id, script, "create", bundle)
        if container._process.wait(30):
            container._reader.join(1)
            raise RuntimeError(f"runc create {id}: {container.output.strip()}")
        return container

    def _make(self, id: str, script: str, command: str, options: dict[str, Any]) -> Container:  # noqa: A002 - what OCI calls it
        options.setdefault("cgroup", f"{self.cgroup_root}/{id}")
        self._remember(options["cgroup"])
        directory = self.directory / f"bundle-{len(self._containers)}-{id}"
        bundle = make_bundle(directory, script, **options)
        container = Container(self, id, bundle, options["cgroup"], command)
        self._containers.append(container)
        return container

    def close(self) -> None:
        """Kill and delete every container, remove their cgroups; may be called twice."""
        while self._containers:
            self._containers.pop().close()
        while self._cgroups:
            with suppress(OSError):  # gone with its container, or somebody else's child is in it
                os.rmdir(self._cgroups.pop())

    def _remember(self, cgroup: str) -> None:
        """Note which directories runc will make for `cgroup`; it removes the last one only."""
        parts = cgroup.strip("/").split("/")
        for mount in cgroup_mounts():
            for depth in range(1, len(parts) + 1):
                path = str(mount.joinpath(*parts[:depth]))
                if path not in self._cgroups and not os.path.exists(path):
                    self._cgroups.append(path)
