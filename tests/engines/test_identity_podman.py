# SPDX-License-Identifier: Apache-2.0
"""Podman as it is installed here: every flow of every container."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines import scenarios
from tests.engines.site import Site
from tests.rig.podman import Podman
from tests.rig.view import View


def test_containers_by_hooks_d_carry_their_identity(tmp_path: Path, pin_directory: Path) -> None:
    with Podman() as engine, Site(tmp_path, pin_directory, engine.cgroup_root) as site:
        site.write_hooks_d(engine.hooks)
        scenarios.containers(site, engine, None)


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_containers_on_cgroup2_alone_carry_their_identity(
    tmp_path: Path, pin_directory: Path, runtime: str
) -> None:
    with (
        View(only_cgroup2=True) as view,
        Podman(view=view, runtime=runtime) as engine,
        Site(tmp_path, pin_directory, engine.cgroup_root, view=view) as site,
    ):
        site.write_hooks_d(engine.hooks)
        scenarios.containers(site, engine, None)
