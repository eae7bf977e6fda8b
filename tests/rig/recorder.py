# SPDX-License-Identifier: Apache-2.0
"""A hook that writes down what an engine hands it, and what it finds at that moment.

    recorder = Recorder(directory)
    recorder.hooks                                 # for a bundle or make_wrapper(): createRuntime, poststop
    recorder.write_hooks_d(podman.hooks)           # the same as a hooks.d JSON
    seen = recorder.await_event(container_id, "createRuntime")
    seen["state"], seen["config"]                  # standard input and the bundle's config.json
    seen["cgroup"], seen["cgroup_parent"]          # the v2 paths of the process and of the runtime
    seen["addresses"]                              # in the process's network namespace: ["10.195.3.10", ...]
    seen["environment"], seen["cwd"], seen["arguments"]

poststop has no process: cgroup and addresses are null there. Nothing is lost when it is called twice:
recorder.events(container_id) lists every call in order, as (event, what was seen).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

_SCRIPT = """#!/usr/bin/python3 -IS
import json, os, subprocess, sys, time
began = time.time_ns()
raw = sys.stdin.read()
seen = {"environment": dict(os.environ), "cwd": os.getcwd(), "arguments": sys.argv}
seen["state"] = state = json.loads(raw)
try:
    with open(os.path.join(state["bundle"], "config.json")) as file:
        seen["config"] = json.load(file)
except OSError as error:
    seen["config"] = str(error)

def cgroup(pid):
    with open(f"/proc/{pid}/cgroup") as file:
        return next((line[3:].rstrip() for line in file if line.startswith("0::")), None)

seen["cgroup"] = seen["addresses"] = None
seen["cgroup_parent"] = cgroup(os.getppid())
with open(f"/proc/{os.getppid()}/comm") as file:
    seen["runtime"] = file.read().strip()
if state.get("pid"):
    seen["cgroup"] = cgroup(state["pid"])
    command = ["nsenter", f"--net=/proc/{state['pid']}/ns/net", "ip", "-j", "addr"]
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    links = json.loads(subprocess.run(command, capture_output=True).stdout)
    seen["addresses"] = [
        address["local"] for link in links if link["ifname"] != "lo" for address in link["addr_info"]
    ]
path = f"{os.path.dirname(os.path.abspath(__file__))}/{began}.json"
with open(f"{path}.part", "w") as file:
    json.dump(seen, file)
os.rename(f"{path}.part", path)
"""
EVENTS = ("createRuntime", "poststop")


class Recorder:
    """A hook below `directory`, and what it has written."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.program = directory / "record"
        self.program.write_text(_SCRIPT, encoding="ascii")
        self.program.chmod(0o755)

    @property
    def hooks(self) -> dict[str, list[dict[str, Any]]]:
        return {event: [{"path": str(self.program), "args": ["record", event]}] for event in EVENTS}

    def write_hooks_d(self, directory: Path) -> None:
        """One JSON an event: all events of a file get the same arguments."""
        for event in EVENTS:
            hook = {
                "version": "1.0.0",
                "hook": self.hooks[event][0],
                "when": {"always": True},
                "stages": [event],
            }
            (directory / f"record-{event}.json").write_text(json.dumps(hook), encoding="ascii")

    def events(self, container_id: str) -> list[tuple[str, dict[str, Any]]]:
        paths = sorted(self.directory.glob("*.json"))
        seen = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        return [(one["arguments"][1], one) for one in seen if one["state"]["id"] == container_id]

    def await_event(self, container_id: str, event: str, timeout: float = 10) -> dict[str, Any]:
        """What the last call for this event saw, as soon as there is one."""
        deadline = time.monotonic() + timeout
        while True:
            found = [seen for name, seen in self.events(container_id) if name == event]
            if found:
                return found[-1]
            if time.monotonic() > deadline:
                raise AssertionError(f"no {event} hook was called for {container_id}")
            time.sleep(0.02)
