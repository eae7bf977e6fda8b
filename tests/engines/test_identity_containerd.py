# SPDX-License-Identifier: Apache-2.0
"""containerd as it is installed here, through CRI: every flow of every container of every pod."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hooks import installed
from tests.engines import scenarios
from tests.engines.site import Site
from tests.rig.containerd import Containerd


@pytest.fixture
def engine() -> Iterator[Containerd]:
    with Containerd() as containerd:
        yield containerd


def test_pods_by_a_wrapper_carry_their_identity(
    tmp_path: Path, pin_directory: Path, engine: Containerd
) -> None:
    with Site(tmp_path, pin_directory, engine.cgroup_root) as site:
        wrapper = site.hook_directory / installed.WRAPPER
        engine.configure(runc_options=f'BinaryName = "{wrapper}"\n')
        scenarios.pods(site, engine)


def test_pods_by_a_base_spec_carry_their_identity(
    tmp_path: Path, pin_directory: Path, engine: Containerd
) -> None:
    """The pause container is not made from it: the pod's namespace is claimed by its first container."""
    with Site(tmp_path, pin_directory, engine.cgroup_root) as site:
        spec = json.loads(engine.ctr("oci", "spec"))
        spec["hooks"] = site.hooks
        base = engine.directory / "base.json"
        base.write_text(json.dumps(spec), encoding="utf-8")
        engine.configure(runtime_options=f'base_runtime_spec = "{base}"\n')
        scenarios.pods(site, engine, pause_hook=False)
