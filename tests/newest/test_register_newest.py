# SPDX-License-Identifier: Apache-2.0
"""Registration with the engines of newer releases: their whole life, and whose every flow is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hooks.runtimes import containerd as containerd_adapter
from hooks.runtimes import docker as docker_adapter
from hooks.runtimes import podman as podman_adapter
from tests.engines import scenarios
from tests.engines.registered import Registered
from tests.engines.site import Site
from tests.rig import debian
from tests.rig.containerd import Containerd
from tests.rig.docker import Docker
from tests.rig.podman import Podman
from tests.rig.view import View


@pytest.fixture
def sid() -> Iterator[View]:
    with View(root=debian.sid_root()) as view:
        yield view


def test_docker_28(tmp_path: Path, pin_directory: Path, sid: View) -> None:
    with Docker(view=sid) as engine, Site(tmp_path, pin_directory, engine.cgroup_root, runtime="") as site:
        before = engine.config.read_bytes()
        registered = Registered(site, docker_adapter.Docker(), file=engine.config, socket=engine.socket)
        scenarios.life_of_containers(site, engine, registered, engine.restart)
        assert engine.config.read_bytes() == before


def test_podman_5(tmp_path: Path, pin_directory: Path, sid: View) -> None:
    with Podman(view=sid) as engine, Site(tmp_path, pin_directory, engine.cgroup_root, runtime="") as site:
        bundles = [("podman", f"{engine.directory}/root/*-containers/*/userdata/config.json")]
        registered = Registered(site, podman_adapter.Podman(), file=engine.hooks, bundles=bundles)
        scenarios.life_of_containers(site, engine, registered, None)
        assert list(engine.hooks.iterdir()) == []


@pytest.mark.parametrize("method", ["wrapper", "base-spec"])
def test_containerd_2(tmp_path: Path, pin_directory: Path, sid: View, method: str) -> None:
    with (
        Containerd(view=sid) as engine,
        Site(tmp_path, pin_directory, engine.cgroup_root, runtime="") as site,
    ):
        before = engine.config.read_bytes()
        tasks = f"{engine.directory}/state/io.containerd.runtime.v2.task/*/*/config.json"
        registered = Registered(
            site,
            containerd_adapter.Containerd(),
            file=engine.config,
            socket=engine.socket,
            method=method,
            bundles=[("containerd", tasks)],
        )
        scenarios.life_of_pods(site, engine, registered)
        assert engine.config.read_bytes() == before
