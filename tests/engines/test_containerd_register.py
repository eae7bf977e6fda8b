# SPDX-License-Identifier: Apache-2.0
"""Registration with real containerd through its CRI: pods before, meanwhile and after.

tests/newest runs the same with newer releases.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hooks import edit, installed, references
from hooks.runtime import Options, Plan
from hooks.runtimes.containerd import RESTART
from hooks.runtimes.containerd import Containerd as Adapter
from identity import incarnation
from tests.rig.containerd import Containerd, Pod
from tests.rig.exporter import ROOT
from tests.rig.puppet import Puppet

METHODS = ("wrapper", "base-spec")


class Node:
    """containerd, what registers with it, and what the hook has written."""

    def __init__(self, containerd: Containerd, directory: Path, pins: Path, method: str) -> None:
        self.containerd, self.directory = containerd, directory
        self.options = Options(
            hook_directory=str(directory / "hook"),
            run_directory=str(directory / "run"),
            file=str(containerd.config),
            socket=str(containerd.socket),
            method=method,
        )
        self.adapter = Adapter()
        self.puppets: list[Puppet] = []
        run = directory / "run"
        run.mkdir(mode=0o700)
        # Never the machine's own maps. There is nothing at `pins`, so identities wait in pending/.
        (run / "hook").write_text(f"pin_directory {pins}\n", encoding="utf-8")

    def apply(self, plan: Plan) -> None:
        for change in plan.changes:
            edit.apply(change, lambda one, new: self.adapter.validate(self.options, one, new), backup=False)

    def register(self) -> None:
        plan = self.adapter.register(self.options)
        assert plan.then == RESTART
        installed.install(self.options.hook_directory, str(ROOT), plan.wraps, self.options.run_directory)
        self.apply(plan)

    def run(self, name: str) -> Pod:
        puppets = {one: Puppet(self.directory / f"{name}-{one}", one) for one in ("app", "side")}
        self.puppets += puppets.values()
        return self.containerd.run_pod(name, puppets, namespace="shop")

    def identities(self) -> set[tuple[str, str, str]]:
        """Namespace, pod and container of what the hook has seen."""
        found = [one.workload for _, one in incarnation.every(f"{self.options.run_directory}/pending")]
        return {(one.namespace, one.pod, one.container) for one in found}

    def referring(self) -> set[str]:
        """Of the machine's containerds: this one's directory is found by its configuration."""
        return {one.container for one in references.find(self.options, "containerd", [])}


@pytest.fixture
def containerd() -> Iterator[Containerd]:
    if shutil.which("containerd") is None:
        pytest.skip("needs containerd")
    with Containerd() as engine:
        yield engine


@pytest.fixture(params=METHODS)
def node(request: pytest.FixtureRequest, containerd: Containerd, tmp_path: Path, pin_directory: Path) -> Node:
    return Node(containerd, tmp_path, pin_directory, request.param)


def test_register_and_unregister_leave_every_pod_its_life(node: Node) -> None:
    engine, original = node.containerd, node.containerd.config.read_bytes()
    before = node.run("before")

    node.register()
    assert node.adapter.state(node.options)[:3] == (True, False, RESTART)
    engine.restart()
    assert node.adapter.state(node.options)[:3] == (True, True, "")
    meanwhile = node.run("meanwhile")
    containers = {("shop", "meanwhile", name) for name in ("app", "side")}
    pause = {("shop", "meanwhile", "")} if node.options.method == "wrapper" else set()
    assert node.identities() == containers | pause
    assert node.referring() == {"/".join(filter(None, names)) for names in containers | pause}

    node.apply(node.adapter.unregister(node.options, True))
    assert engine.config.read_bytes() == original
    assert node.adapter.state(node.options)[:3] == (False, True, RESTART)
    engine.restart()
    node.apply(node.adapter.unregister(node.options, True))  # the base spec, which nobody reads any more
    assert node.adapter.state(node.options)[:3] == (False, False, "")
    assert not list(engine.directory.glob("flowtag*"))

    after = node.run("after")
    assert node.identities() == containers | pause
    assert all(puppet.alive for puppet in node.puppets)
    for pod in (before, meanwhile, after):
        pod.stop()
        pod.remove()
    assert node.referring() == set()
    assert not node.containerd.cri.runtime("ListPodSandbox").items


def test_register_changes_nothing_else_in_container(node: Node) -> None:
    def made(pod: Pod) -> tuple[Any, str]:
        """The container's specification without what is a pod's own, and its limits."""
        tasks = node.containerd.directory / "state/io.containerd.runtime.v2.task/k8s.io"
        text = (tasks / pod.containers["app"] / "config.json").read_text(encoding="utf-8")
        for own in (*pod.containers.values(), pod.sandbox, pod.name):
            text = text.replace(own, "OWN")
        text = re.sub(r"/proc/\d+/ns|0{8}-0000-4000-8000-\w{12}", "OWN", text)
        limits = Path(f"/proc/{node.puppets[-1].pid}/limits").read_text(encoding="ascii")
        return json.loads(text), limits

    plain, plain_limits = made(node.run("plain"))
    node.register()
    node.containerd.restart()
    hooked, limits = made(node.run("hooked"))
    assert ("shop", "hooked", "app") in node.identities()
    assert "hooks" not in plain
    assert set(hooked.pop("hooks")) == {"createRuntime", "poststop"}
    assert hooked == plain
    assert limits == plain_limits
