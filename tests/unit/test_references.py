# SPDX-License-Identifier: Apache-2.0
"""Containers that need stub or wrapper, by every file that tells so: shapes as the engines write them.

runc's state.json is cut from one that runc 1.1.5 wrote; Docker's, containerd's and Podman's are as seen in
tests/engines; crun's, youki's and CRI-O's follow their sources.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hooks import references
from hooks.bundles import BUNDLES, Known, every
from hooks.runtime import Options
from identity import cgroup, incarnation
from identity.incarnation import Incarnation
from identity.workload import Workload

HOOK = "/h"
ID = "c0" * 32
HOOKS = {"createRuntime": [{"path": "/h/flowtag-hook", "args": ["/h/flowtag-hook", "createRuntime"]}]}
OTHERS = {"createRuntime": [{"path": "/opt/other", "args": ["/opt/other"]}]}
ME = os.getpid()
GONE = 4_194_999  # above the largest process id
STARTED = cgroup.start_time(ME)


def put(root: Path, path: str, content: object) -> Path:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def found(root: Path) -> dict[str, Known]:
    patterns = [(engine, f"{root}{pattern}") for engine, pattern in BUNDLES]
    known = every(HOOK, [f"{root}/var/lib/docker"], patterns)
    return {one.container_id: one for one in known}


def docker(root: Path, name: str, runtime: str, running: bool, pid: int = 0) -> None:
    here = f"/var/lib/docker/containers/{ID}"
    put(root, f"{here}/hostconfig.json", {"Runtime": runtime, "NetworkMode": "default"})
    put(root, f"{here}/config.v2.json", {"Name": f"/{name}", "State": {"Running": running, "Pid": pid}})


@pytest.mark.parametrize(("running", "pid"), [(True, ME), (False, 0)], ids=["runs", "ended"])
def test_docker_by_its_runtime_running_or_not(tmp_path: Path, running: bool, pid: int) -> None:
    docker(tmp_path, "web", "flowtag", running, pid)
    one = found(tmp_path)[ID]
    assert (one.engine, one.name, one.running, one.pid) == ("docker", "web", running, pid)
    assert one.refers.endswith("hostconfig.json")


def test_docker_of_another_runtime_refers_only_by_its_bundle(tmp_path: Path) -> None:
    docker(tmp_path, "web", "runc", True, ME)
    assert found(tmp_path)[ID].refers == ""
    task = f"/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/{ID}"
    put(tmp_path, f"{task}/config.json", {"hooks": HOOKS})
    put(tmp_path, f"{task}/init.pid", str(ME))
    one = found(tmp_path)[ID]
    assert (one.engine, one.name, one.hooked, one.running) == ("docker", "web", True, True)
    assert one.refers.endswith("config.json")


@pytest.mark.parametrize(
    "state",
    [
        "/run/containerd",
        "/run/k3s/containerd",
        "/run/k0s/containerd",
        "/var/snap/microk8s/common/run/containerd",
    ],
)
@pytest.mark.parametrize("by", ["options.json", "runtime", "config.json"])
def test_containerd_by_hook_or_by_wrapper(tmp_path: Path, state: str, by: str) -> None:
    task = f"{state}/io.containerd.runtime.v2.task/k8s.io/{ID}"
    notes = {
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-name": "web-0",
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.container-type": "container",
    }
    put(
        tmp_path, f"{task}/config.json", {"annotations": notes, "hooks": HOOKS if by == "config.json" else {}}
    )
    put(tmp_path, f"{task}/init.pid", str(GONE))
    if by == "options.json":
        put(tmp_path, f"{task}/{by}", {"binary_name": "/h/flowtag-runc"})
    elif by == "runtime":
        put(tmp_path, f"{task}/{by}", "/h/flowtag-runc")
    one = found(tmp_path)[ID]
    assert (one.engine, one.name, one.running, one.pid) == ("containerd", "shop/web-0/app", False, 0)
    assert (one.refers.rpartition("/")[2], one.hooked) == (by, by == "config.json")


def test_containerd_pause_container_is_its_pod(tmp_path: Path) -> None:
    notes = {
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-name": "web-0",
        "io.kubernetes.cri.container-type": "sandbox",
    }
    put(
        tmp_path,
        f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json",
        {"annotations": notes},
    )
    one = found(tmp_path)[ID]
    assert (one.name, one.sandbox, one.refers) == ("shop/web-0", True, "")


def storage(root: Path, hooks: object, pid: int, cgroups: str = f"/libpod_parent/libpod-{ID}") -> None:
    """Podman's and CRI-O's: the bundle in /var/lib, what is mounted from /run, and the pid there."""
    run = root / f"run/containers/storage/overlay-containers/{ID}/userdata"
    put(run, "pidfile", str(pid))
    mounts = [{"destination": "/run/.containerenv", "source": f"{run}/.containerenv", "type": "bind"}]
    document = {"hooks": hooks, "mounts": mounts, "linux": {"cgroupsPath": cgroups}}
    lasting = "/var/lib/containers/storage/overlay-containers"
    put(root, f"{lasting}/{ID}/userdata/config.json", document)
    put(root, f"{lasting}/containers.json", [{"id": ID, "names": ["web"]}])


@pytest.mark.parametrize(("pid", "running"), [(ME, True), (GONE, False)], ids=["runs", "ended"])
def test_podman_only_while_it_runs(tmp_path: Path, pid: int, running: bool) -> None:
    storage(tmp_path, HOOKS, pid)
    one = found(tmp_path)[ID]
    assert (one.engine, one.name, one.running, bool(one.refers)) == ("podman", "web", running, running)


def test_podman_until_conmon_has_cleaned_up(tmp_path: Path) -> None:
    storage(tmp_path, HOOKS, GONE)
    put(tmp_path, f"/run/containers/storage/overlay-containers/{ID}/userdata/conmon.pid", str(ME))
    assert found(tmp_path)[ID].refers


def test_podman_that_cannot_be_told_is_kept(tmp_path: Path) -> None:
    path = f"/var/lib/containers/storage/overlay-containers/{ID}/userdata/config.json"
    put(tmp_path, path, {"hooks": HOOKS})
    one = found(tmp_path)[ID]
    assert (one.running, bool(one.refers)) == (None, True)


def test_crio_also_when_it_does_not_run(tmp_path: Path) -> None:
    storage(tmp_path, HOOKS, GONE, f"kubepods-pod1.slice:crio:{ID}")
    one = found(tmp_path)[ID]
    assert (one.engine, one.running, bool(one.refers)) == ("crio", False, True)


def runc_state(hooks: object, pid: int, start: int | None, bundle: str = "/srv/web") -> dict[str, Any]:
    config = {"Hooks": hooks, "labels": [f"bundle={bundle}"], "cgroups": {"path": "/web"}}
    return {"id": "web", "init_process_pid": pid, "init_process_start": start, "config": config}


@pytest.mark.parametrize(
    ("pid", "start", "running"),
    [(ME, STARTED, True), (ME, 1, False), (GONE, STARTED, False)],
    ids=["runs", "another", "ended"],
)
def test_runc_by_its_state(tmp_path: Path, pid: int, start: int, running: bool) -> None:
    put(tmp_path, "/run/runc/web/state.json", runc_state(HOOKS, pid, start))
    one = found(tmp_path)["web"]
    assert (one.engine, one.running, one.hooked) == ("runc", running, True)
    assert one.refers.endswith("state.json")


def test_runc_state_of_podmans_container_is_podmans(tmp_path: Path) -> None:
    bundle = f"/srv/storage/overlay-containers/{ID}/userdata"
    put(tmp_path, f"/run/runc/{ID}/state.json", runc_state(HOOKS, ME, STARTED, bundle))
    assert found(tmp_path)[ID].engine == "podman"


def test_crun_and_youki_by_their_state(tmp_path: Path) -> None:
    put(tmp_path, "/run/crun/one/config.json", {"hooks": HOOKS})
    put(tmp_path, "/run/crun/one/status", {"pid": ME, "process-start-time": STARTED})
    put(tmp_path, "/run/youki/two/youki_config.json", {"hooks": HOOKS, "cgroup_path": "/two"})
    put(tmp_path, "/run/youki/two/state.json", {"pid": GONE, "status": "stopped"})
    known = found(tmp_path)
    assert {name: (one.running, bool(one.refers)) for name, one in known.items()} == {
        "one": (True, True),
        "two": (False, True),
    }


def test_others_hooks_are_no_reference(tmp_path: Path) -> None:
    put(tmp_path, "/run/runc/web/state.json", runc_state(OTHERS, ME, STARTED))
    put(tmp_path, f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json", {"hooks": OTHERS})
    assert [one.refers for one in found(tmp_path).values()] == ["", ""]


def test_one_name_in_two_engines_is_two_containers(tmp_path: Path) -> None:
    put(tmp_path, "/run/runc/web/state.json", runc_state(HOOKS, ME, STARTED))
    put(tmp_path, "/run/containerd/io.containerd.runtime.v2.task/default/web/config.json", {"hooks": {}})
    patterns = [(engine, f"{tmp_path}{pattern}") for engine, pattern in BUNDLES]
    known = every(HOOK, [], patterns)
    assert {(one.engine, bool(one.refers)) for one in known} == {("runc", True), ("containerd", False)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '{"hooks": 1}',
        '{"hooks": {"a": [1, {"path": 2}]}}',
        '{"config": []}',
        '{"annotations": 7, "mounts": [1, {"source": 3}], "linux": []}',
        '{"init_process_pid": "x", "config": {"labels": 1}}',
        "[" * 100_000,
    ],
)
def test_damaged_files_are_no_reference_and_no_error(tmp_path: Path, text: str) -> None:
    for _, pattern in BUNDLES:
        put(tmp_path, pattern.replace("*-containers", "overlay-containers").replace("*", ID), text)
    docker(tmp_path, "web", "runc", True)
    for name in ("hostconfig.json", "config.v2.json"):
        put(tmp_path, f"/var/lib/docker/containers/{ID}/{name}", text)
    put(tmp_path, "/var/lib/containers/storage/overlay-containers/containers.json", text)
    assert not any(one.refers for one in found(tmp_path).values())


def test_whom_the_hook_remembers_is_found_without_any_file_of_the_engine(tmp_path: Path) -> None:
    """runc with a --root of its own, say."""
    for name, pid in (("lives", ME), ("ended", GONE), ("strange", ME)):
        left = Incarnation(Workload(id=1 << 20, container_id=name), pid=pid, start_time=STARTED or 0)
        incarnation.write(f"{tmp_path}/run/live/{name}.json", left)
    put(tmp_path, "/run/runc/strange/state.json", runc_state(OTHERS, ME, STARTED))
    options = Options(HOOK, f"{tmp_path}/run")
    patterns = [(engine, f"{tmp_path}{pattern}") for engine, pattern in BUNDLES]
    (one,) = references.find(options, "auto", [], patterns)
    assert (one.engine, one.container, one.container_id, one.running) == ("runc", "lives", "lives", True)
    assert one.file.endswith("live/lives.json")
