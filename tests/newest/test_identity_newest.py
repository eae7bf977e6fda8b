# SPDX-License-Identifier: Apache-2.0
"""The engines of newer releases: every flow of every container. `./test newest`, which downloads them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hooks import installed
from tests.engines import scenarios
from tests.engines.site import Site
from tests.rig import debian, nri, versions
from tests.rig.bundle import HOST
from tests.rig.container import Runc
from tests.rig.containerd import Containerd
from tests.rig.docker import Docker
from tests.rig.podman import Podman
from tests.rig.view import View


@pytest.fixture
def sid() -> Iterator[View]:
    """Debian unstable, with containerd 2.1, Docker 28, Podman 5.8 and runc 1.3 when this was written."""
    with View(root=debian.sid_root()) as view:
        yield view


def wrapped_pods(site: Site, engine: Containerd) -> None:
    engine.configure(runc_options=f'BinaryName = "{site.hook_directory / installed.WRAPPER}"\n')
    scenarios.pods(site, engine)


def test_pods_of_containerd_1_7_carry_their_identity(tmp_path: Path, pin_directory: Path) -> None:
    with (
        Containerd(binaries=versions.containerd_1_7()) as engine,
        Site(tmp_path, pin_directory, engine.cgroup_root) as site,
    ):
        assert engine.version() == (1, 7)
        wrapped_pods(site, engine)


def test_pods_of_containerd_2_carry_their_identity(tmp_path: Path, pin_directory: Path, sid: View) -> None:
    with Containerd(view=sid) as engine, Site(tmp_path, pin_directory, engine.cgroup_root) as site:
        assert engine.version() >= (2, 1)
        wrapped_pods(site, engine)


@pytest.mark.parametrize("release", ["1.7", "2"])
def test_pods_by_nri_carry_their_identity(
    tmp_path: Path, pin_directory: Path, sid: View, release: str
) -> None:
    """The sandbox is created without asking plugins, so the pod itself is not told."""
    options: dict[str, Any] = {"binaries": versions.containerd_1_7()} if release == "1.7" else {"view": sid}
    with (
        Containerd(plugins=nri.configuration(tmp_path), **options) as engine,
        Site(tmp_path, pin_directory, engine.cgroup_root) as site,
        nri.Plugin(tmp_path, site.run) as plugin,
    ):
        plugin.await_connected()

        def restart() -> None:
            engine.restart()
            plugin.await_connected(2)

        scenarios.pods(site, engine, pause_hook=False, restart=restart)


def test_containers_of_docker_26_carry_their_identity(tmp_path: Path, pin_directory: Path) -> None:
    with (
        Docker(programs=versions.docker_26()) as engine,
        Site(tmp_path, pin_directory, engine.cgroup_root) as site,
    ):
        scenarios.use_wrapper(site, engine)
        scenarios.containers(site, engine, engine.restart)


def test_containers_of_docker_28_carry_their_identity(tmp_path: Path, pin_directory: Path, sid: View) -> None:
    """The addresses come after the hook; flows are attributed by the cgroup, so none is lost to that."""
    with Docker(view=sid) as engine, Site(tmp_path, pin_directory, engine.cgroup_root) as site:
        assert int(engine.command("version", "--format", "{{.Server.Version}}").partition(".")[0]) >= 28
        scenarios.use_wrapper(site, engine)
        scenarios.containers(site, engine, engine.restart)


def test_containers_of_podman_5_carry_their_identity(tmp_path: Path, pin_directory: Path, sid: View) -> None:
    with Podman(view=sid) as engine, Site(tmp_path, pin_directory, engine.cgroup_root) as site:
        site.write_hooks_d(engine.hooks)
        scenarios.containers(site, engine, None)


def test_containers_of_podman_5_by_crun_carry_their_identity(tmp_path: Path, pin_directory: Path) -> None:
    """crun refuses cgroups v1 beside v2, so engine and exporter see v2 alone."""
    with (
        View(root=debian.sid_root(), only_cgroup2=True) as view,
        View(only_cgroup2=True) as machine,
        Podman(view=view, runtime="crun") as engine,
        Site(tmp_path, pin_directory, engine.cgroup_root, view=machine) as site,
    ):
        site.write_hooks_d(engine.hooks)
        scenarios.containers(site, engine, None)


@pytest.mark.parametrize(("program", "only_cgroup2"), [("runc", False), ("crun", True)])
def test_newest_runtime_alone_carries_identity(
    tmp_path: Path, pin_directory: Path, program: str, only_cgroup2: bool
) -> None:
    root = f"flowtag-test-{os.getpid()}-r"
    with (
        View(root=debian.sid_root(), only_cgroup2=only_cgroup2) as view,
        View(only_cgroup2=only_cgroup2) as machine,
        Site(tmp_path, pin_directory, root, view=machine) as site,
        Runc(tmp_path, f"/{root}", program=program, view=view) as runtime,
    ):
        scenarios.one_container(site, runtime, netns=HOST)
