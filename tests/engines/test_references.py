# SPDX-License-Identifier: Apache-2.0
"""What real engines need of stub and wrapper for containers that do not run: references.py rests on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hooks import references
from hooks.runtime import Options
from tests.engines.site import Site
from tests.rig.containerd import Containerd
from tests.rig.podman import Podman
from tests.rig.puppet import Puppet


@pytest.mark.usefixtures("kernel")
def test_podman_needs_nothing_for_a_stopped_container(tmp_path: Path, pin_directory: Path) -> None:
    with Podman() as engine, Site(tmp_path, pin_directory, engine.cgroup_root) as site:
        site.write_hooks_d(engine.hooks)
        options = Options(str(site.hook_directory), str(site.run))
        bundles = [("podman", f"{engine.directory}/root/*-containers/*/userdata/config.json")]

        def needed() -> list[tuple[str, bool | None]]:
            return [(one.container, one.running) for one in references.find(options, "auto", [], bundles)]

        old = Puppet(engine.directory / "puppets", "old")
        engine.run("old", old)
        assert needed() == [("old", True)]
        engine.command("stop", "--time", "1", "old")
        assert needed() == []
        for file in (*engine.hooks.iterdir(), *site.hook_directory.glob("flowtag-*")):
            file.unlink()
        engine.command("start", "old")
        old.await_up()
        assert needed() == []
        engine.command("rm", "--force", "old")


def test_cri_starts_a_container_once(tmp_path: Path) -> None:
    """One that has ended, or was only created, needs the wrapper no more: nobody can start it again."""
    if shutil.which("containerd") is None:
        pytest.skip("needs containerd")
    with Containerd() as engine:
        puppet = Puppet(tmp_path / "app", "app")
        pod = engine.run_pod("web", {"app": puppet}, namespace="shop")
        container = pod.containers["app"]
        engine.cri.runtime("StopContainer", container_id=container, timeout=1)
        tasks = engine.directory / "state/io.containerd.runtime.v2.task/k8s.io"
        assert not (tasks / container).exists()  # with its end the task is deleted, and poststop has run
        with pytest.raises(RuntimeError, match="CONTAINER_EXITED"):
            engine.cri.runtime("StartContainer", container_id=container)
