# SPDX-License-Identifier: Apache-2.0
"""Docker as it is installed here: every flow of every container."""

from __future__ import annotations

from pathlib import Path

from tests.engines import scenarios
from tests.engines.site import Site
from tests.rig.docker import Docker


def test_containers_by_a_wrapper_carry_their_identity(tmp_path: Path, pin_directory: Path) -> None:
    with Docker() as engine, Site(tmp_path, pin_directory, engine.cgroup_root) as site:
        scenarios.use_wrapper(site, engine)
        scenarios.containers(site, engine, engine.restart)
