# SPDX-License-Identifier: Apache-2.0
"""Containers as engines and OCI runtimes keep them on disk: who they are, whether they run, what they call.

Files only: no engine is asked, none is waited for. A file that vanishes or cannot be read is no container.
What is read belongs to root, but names and hooks in it may be a tenant's, so types are checked.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from hooks.runtimes.containerd_tasks import TASKS, noted
from hooks.runtimes.docker import RUNTIME
from identity import cgroup, oci
from identity.workload import KIND_POD

LIMIT = 16 << 20
CONTAINERD_STATES = (
    "/run/docker/containerd/daemon",
    "/run/containerd",
    "/run/k3s/containerd",  # and of rke2
    "/run/k0s/containerd",
    "/var/snap/microk8s/common/run/containerd",
)
"""Where containerds keep what lives; the first is the one that dockerd starts by itself."""
BUNDLES = (
    *(("containerd", f"{state}/{TASKS}/*/*/config.json") for state in CONTAINERD_STATES),
    ("crio", "/run/containers/storage/*-containers/*/userdata/config.json"),
    ("podman", "/var/lib/containers/storage/*-containers/*/userdata/config.json"),
    ("runc", "/run/runc/*/state.json"),
    ("runc", "/run/crun/*/config.json"),
    ("runc", "/run/youki/*/youki_config.json"),
)
"""Engine and pattern of the files that hold a container's hooks; the engine is what its bundle says, this
where that says nothing."""
_WHOLE = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Known(NamedTuple):
    """A container that a file speaks of.

    name: empty where only the id is known; file: what was read; pid: of its first process, 0 if there is
    none or it is not known; running: None if that is not known; refers: the file by which it needs stub,
    wrapper or runtime entry, empty if it does not; hooked: its own hooks name the stub; sandbox: a pod's
    pause container.
    """

    engine: str
    container_id: str
    name: str
    file: str
    pid: int = 0
    running: bool | None = None
    refers: str = ""
    hooked: bool = False
    sandbox: bool = False

    def with_more(self, other: Known) -> Known:
        """The same container, with what another file knows in addition."""
        return self._replace(
            name=self.name or other.name,
            pid=self.pid or other.pid,
            running=other.running if self.running is None else self.running or other.running is True,
            refers=self.refers or other.refers,
            hooked=self.hooked or other.hooked,
            sandbox=self.sandbox or other.sandbox,
        )


def every(
    hook_directory: str, docker_roots: Sequence[str] = (), patterns: Sequence[tuple[str, str]] = BUNDLES
) -> list[Known]:
    """Every container that is found, once."""
    found: dict[tuple[str, str], Known] = {}
    for known in _read(hook_directory, docker_roots, patterns):
        # An engine's id is the same in its runtime's state; a name such as `web` may be several containers'.
        key = ("" if _WHOLE.fullmatch(known.container_id) else known.engine, known.container_id)
        found[key] = found[key].with_more(known) if key in found else known
    return list(found.values())


def _read(
    hook_directory: str, docker_roots: Sequence[str], patterns: Sequence[tuple[str, str]]
) -> Iterator[Known]:
    for root in docker_roots:
        yield from of_docker(root)
    seen: set[str] = set()
    for engine, pattern in patterns:
        names: dict[str, dict[str, str]] = {}
        for path in sorted(glob.glob(pattern)):
            if path in seen:
                continue
            seen.add(path)
            document = _object(path)
            known = _of_file(engine, path, document, hook_directory)
            if path.endswith("/userdata/config.json"):
                storage = path.rsplit("/", 3)[0]
                if storage not in names:
                    names[storage] = _names(storage)
                known = known._replace(name=known.name or names[storage].get(known.container_id, ""))
            if document or known.refers:
                yield known


def of_docker(root: str) -> Iterator[Known]:
    """Containers below a data root; they refer if they were made with the runtime `flowtag`, even stopped."""
    for path in sorted(glob.glob(f"{glob.escape(root)}/containers/*/hostconfig.json")):
        directory = os.path.dirname(path)
        document = _object(f"{directory}/config.v2.json")
        name, state = document.get("Name"), document.get("State")
        running, pid = (state.get("Running"), state.get("Pid")) if isinstance(state, dict) else (None, 0)
        refers = path if _object(path).get("Runtime") == RUNTIME else ""
        yield Known(
            "docker",
            os.path.basename(directory),
            name.lstrip("/") if isinstance(name, str) else "",
            path,
            pid if type(pid) is int and running is True else 0,
            running if isinstance(running, bool) else None,
            refers,
        )


def _of_file(engine: str, path: str, document: dict[str, Any], hook_directory: str) -> Known:
    directory = os.path.dirname(path)
    container_id = os.path.basename(directory.removesuffix("/userdata"))
    config = document.get("config")
    inner = config if path.endswith("/state.json") and isinstance(config, dict) else document
    bundle = _bundle(directory, inner)
    workload = oci.from_oci({"id": container_id, "bundle": bundle}, document)
    if workload.runtime != "runc":
        engine = workload.runtime
    elif directory.endswith("/userdata") or TASKS in path:
        engine = {"crio": "podman"}.get(engine, engine)
    pid, running = _process(path, directory, document)
    hooked = any(hook.startswith(f"{hook_directory}/") for hook in _hooks(inner))
    refers = path if hooked else noted(directory, hook_directory)
    if engine == "podman" and directory.endswith("/userdata") and running is False:
        refers = ""  # it makes config.json anew at each start, and has run poststop
    name = "" if workload.name == container_id else workload.name
    sandbox = workload.kind == KIND_POD
    return Known(engine, container_id, name, path, pid, running, refers, hooked, sandbox)


def _bundle(directory: str, config: dict[str, Any]) -> str:
    """The bundle that a runtime's own state is of: libcontainer keeps it as a label."""
    labels = config.get("labels")
    for label in labels if isinstance(labels, list) else ():
        if isinstance(label, str) and label.startswith("bundle="):
            return label.removeprefix("bundle=")
    return directory


def _process(path: str, directory: str, document: dict[str, Any]) -> tuple[int, bool | None]:
    """The first process, and whether it runs, as whoever started it wrote it down."""
    if TASKS in path:
        pid = _number(f"{directory}/init.pid")
        return (pid, True) if _runs(pid) else (0, False)
    if directory.endswith("/userdata"):
        return _of_storage(directory, document)
    state = document
    if path.endswith("/config.json"):
        state = _object(f"{directory}/status")  # crun's
    elif path.endswith("/youki_config.json"):
        state = _object(f"{directory}/state.json")
    first: object = state.get("init_process_pid", state.get("pid"))
    if not isinstance(first, int):
        return 0, None
    began = state.get("init_process_start", state.get("process-start-time"))
    runs = _runs(first) and (type(began) is not int or cgroup.start_time(first) == began)
    return (first, True) if runs else (0, False)


def _of_storage(directory: str, document: dict[str, Any]) -> tuple[int, bool | None]:
    """Of Podman and CRI-O: the pid file lies in the storage's part in /run, whence files are mounted."""
    ending = "/" + "/".join(directory.split("/")[-3:])
    places = {directory}
    mounts = document.get("mounts")
    for mount in mounts if isinstance(mounts, list) else ():
        source = mount.get("source") if isinstance(mount, dict) else None
        if isinstance(source, str) and os.path.dirname(source).endswith(ending):
            places.add(os.path.dirname(source))
    pids = [_number(f"{place}/pidfile") for place in sorted(places)]
    for pid in filter(_runs, pids):
        return pid, True
    # conmon outlives the container until it has cleaned up after it.
    conmon = any(_runs(_number(f"{place}/conmon.pid")) for place in places)
    return 0, True if conmon else (False if len(places) > 1 else None)


def _runs(pid: int) -> bool:
    return pid > 0 and cgroup.start_time(pid) is not None


def _number(path: str) -> int:
    try:
        with open(path, "rb") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return 0


def _names(storage: str) -> dict[str, str]:
    """Names by id, of the lists that lie in a storage's directory of containers."""
    found = {}
    for name in ("containers.json", "volatile-containers.json"):
        entries = _json(f"{storage}/{name}")
        for entry in entries if isinstance(entries, list) else ():
            names = entry.get("names") if isinstance(entry, dict) else None
            if isinstance(names, list) and names and isinstance(names[0], str):
                found[str(entry.get("id"))] = names[0]
    return found


def _hooks(config: dict[str, Any]) -> Iterator[str]:
    """The path of each hook, of a config.json or of what runc makes of it."""
    hooks = config.get("Hooks", config.get("hooks"))
    for entries in hooks.values() if isinstance(hooks, dict) else ():
        for entry in entries if isinstance(entries, list) else ():
            path = entry.get("path") if isinstance(entry, dict) else None
            if isinstance(path, str):
                yield path


def _object(path: str) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none, or it is no such thing."""
    document = _json(path)
    return document if isinstance(document, dict) else {}


def _json(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            return json.loads(file.read(LIMIT))
    except (OSError, ValueError, RecursionError):
        return None
