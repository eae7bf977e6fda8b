# SPDX-License-Identifier: Apache-2.0
"""flowtag is removed while containers refer to its hook: the hook goes on, and one command ends it later."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hooks import installed
from hooks.leave import leave
from hooks.register import APPLICATION
from hooks.self_test import self_test
from tests.rig.exporter import COMMAND

PRIVATE = ("unshare", "--mount", "--propagation", "private", "sh", "-ec")
# No engine of this machine's is to be seen, so that none of them is unregistered.
HIDE = (
    "for place in /run /etc/docker /etc/containerd /etc/containers /usr/local/sbin /usr/share/containers;"
    ' do [ ! -d "$place" ] || mount -t tmpfs tmpfs "$place"; done;'
)


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """A copy that can be removed."""
    for name in ("bpf", "hooks", "identity"):
        shutil.copytree(f"{APPLICATION}/{name}", tmp_path / "application" / name)
    return tmp_path / "application"


def alone(*command: str, prepare: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PRIVATE, f'{HIDE}{prepare} exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_hook_works_without_the_application_until_its_command_ends_it(
    kernel: None, tmp_path: Path, application: Path
) -> None:
    directory, run = tmp_path / "hook", tmp_path / "run"
    installed.install(str(directory), str(application), "/bin/true", str(run))
    command = leave(str(directory), str(application), str(run))
    shutil.rmtree(application)
    self_test(str(directory))
    stub = [str(directory / "flowtag-hook"), "createRuntime", str(run)]
    state = json.dumps({"id": "a", "bundle": "/b", "pid": 1 << 22, "annotations": {}})
    subprocess.run(stub, input=state, text=True, check=True)
    assert "createRuntime" in (run / "hook-runs").read_text(encoding="ascii")
    done = alone(command)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"removed {directory}" in done.stdout
    assert not directory.exists()


def test_command_keeps_the_hook_while_a_container_refers_to_it(
    kernel: None, tmp_path: Path, application: Path
) -> None:
    directory = tmp_path / "hook"
    installed.install(str(directory), str(application), "/bin/true")
    command = leave(str(directory), str(application), "/run/flowtag")
    shutil.rmtree(application)
    state = {"config": {"Hooks": {"poststop": [{"path": f"{directory}/flowtag-hook"}]}}}
    (tmp_path / "state.json").write_text(json.dumps(state), encoding="ascii")
    done = alone(command, prepare=f"mkdir -p /run/runc/web; cp {tmp_path}/state.json /run/runc/web;")
    assert "web" in done.stdout
    assert directory.exists()
    self_test(str(directory))


def test_flowtag_installed_again_takes_its_place_back(tmp_path: Path, application: Path) -> None:
    directory = tmp_path / "hook"
    installed.install(str(directory), str(application), "/bin/true")
    leave(str(directory), str(application), "/run/flowtag")
    assert (directory / "app").resolve() == directory / "kept"
    installed.install(str(directory), str(application))
    assert (directory / "app").resolve() == application
    assert not (directory / "kept").exists()
    assert not (directory / "unregister").exists()


def test_leaving_twice_and_from_the_copy_changes_nothing(tmp_path: Path, application: Path) -> None:
    directory = tmp_path / "hook"
    installed.install(str(directory), str(application), "/bin/true")
    for source in (application, application, directory / "kept"):
        leave(str(directory), str(source), "/run/flowtag")
        self_test(str(directory))


def test_before_removal_leaves_nothing_where_nothing_refers(kernel: None, tmp_path: Path) -> None:
    directory = tmp_path / "hook"
    installed.install(str(directory), APPLICATION, "/bin/true")
    done = alone(COMMAND, "unregister", "--before-removal", "--hook-directory", str(directory))
    assert done.returncode == 0, done.stderr
    assert not directory.exists()
    assert "left" not in done.stdout


def test_before_removal_is_for_every_engine(tmp_path: Path) -> None:
    done = alone(COMMAND, "unregister", "--before-removal", "--runtime", "docker")
    assert done.returncode == 2
