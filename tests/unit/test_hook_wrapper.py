# SPDX-License-Identifier: Apache-2.0
"""The wrapper: which command lines get the hook, and that the runtime gets its arguments as they came."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from hooks import installed
from hooks.cli import FOLDER

# What engines really call (containerd-shim-runc-v2, conmon, people), and the bundle that gets the hook.
SHIM = ("--root", "/run/containerd/runc/k8s.io", "--log", "/t/log.json", "--log-format", "json")
DOCKER = ("--root", "/var/run/docker/runtime-runc/moby", *SHIM[2:])
INJECTED: list[tuple[tuple[str, ...], str]] = [
    (
        (*SHIM, "create", "--bundle", "/t/k8s.io/ID", "--pid-file", "/t/k8s.io/ID/init.pid", "ID"),
        "/t/k8s.io/ID",
    ),
    (
        (*SHIM, "--systemd-cgroup", "create", "--bundle", "/t/k8s.io/ID", "--pid-file", "/p", "ID"),
        "/t/k8s.io/ID",
    ),
    ((*DOCKER, "create", "--bundle", "/t/moby/ID", "--pid-file", "/p", "ID"), "/t/moby/ID"),
    (
        (
            *DOCKER,
            "create",
            "--bundle",
            "/b",
            "--pid-file",
            "/p",
            "--console-socket",
            "/tmp/pty1/pty.sock",
            "ID",
        ),
        "/b",
    ),
    (
        (
            "--systemd-cgroup",
            "create",
            "--bundle",
            "/c/overlay-containers/ID/userdata",
            "--pid-file",
            "/p",
            "ID",
        ),
        "/c/overlay-containers/ID/userdata",
    ),
    (
        (
            "--cgroup-manager",
            "systemd",
            "--log-level",
            "warning",
            "create",
            "-b",
            "/b",
            "--pid-file",
            "/p",
            "ID",
        ),
        "/b",
    ),
    (
        (
            "--cgroup-manager=cgroupfs",
            "--root=/run/crun",
            "create",
            "--bundle",
            "/b",
            "--pid-file",
            "/p",
            "ID",
        ),
        "/b",
    ),
    (("--root=/r", "--rootless=auto", "--debug", "--criu=/usr/sbin/criu", "run", "--bundle=/b", "ID"), "/b"),
    (("-root", "/r", "-debug=false", "run", "-bundle", "/b", "-d", "ID"), "/b"),
    (
        (
            "run",
            "-b=/b",
            "--no-pivot",
            "--no-new-keyring",
            "--no-subreaper",
            "--keep",
            "--preserve-fds",
            "3",
            "ID",
        ),
        "/b",
    ),
    (("run", "ID", "--bundle", "/b"), "/b"),  # runc puts options first, wherever they are
    (("create", "--bundle", "/a", "--bundle", "/b", "ID"), "/b"),
    (("create", "--bundle", "/with space/'\"$(x)*\n\\", "ID"), "/with space/'\"$(x)*\n\\"),
    (("create", "--bundle", "create", "ID"), "create"),
    (("--root", "run", "create", "ID"), "."),
    (("run", "create"), "."),
    (("run", "--pidfd-socket", "/s", "ID"), "."),
]
LEFT_ALONE: list[tuple[str, ...]] = [
    (),
    ("--version",),
    ("-v",),
    ("--help",),
    ("create",),
    ("create", "--help"),
    ("run", "ID", "ID"),  # runc refuses it
    ("create", "--bundle"),
    ("create", "ID", "--bundle"),
    ("--root",),
    ("--root", "create"),
    (*SHIM, "state", "ID"),
    (*SHIM, "start", "ID"),
    (*SHIM, "delete", "--force", "ID"),
    (*SHIM, "kill", "ID", "9"),
    (*SHIM, "exec", "--process", "/p", "--detach", "--pid-file", "/q", "create"),
    (*SHIM, "update", "--resources", "-", "run"),
    ("features",),
    ("spec", "--bundle", "/b"),
    ("--unheard-of", "create", "--bundle", "/b", "ID"),
    ("--unheard-of=1", "create", "--bundle", "/b", "ID"),
    ("create", "--unheard-of", "/b", "ID"),
    ("create", "--config", "/other.json", "ID"),  # crun: another file than the bundle's
    ("create", "-f", "/other.json", "ID"),
    ("create", "--bundle", "/b", "--", "ID"),
    ("--", "create", "--bundle", "/b", "ID"),
    ("", "create", "ID"),
    ("created", "ID"),
]

REPORT = """
import sys
with open({path!r}, "ab") as file:
    file.write("\\0".join([*sys.argv[1:], "\\1"]).encode())
"""


class Place(NamedTuple):
    """A hook directory whose application and runtime only note how they were called."""

    hook: Path
    runtime: Path
    notes: Path

    def call(self, *arguments: str, program: Path | None = None, env: Mapping[str, str] | None = None) -> int:
        done = subprocess.run(
            [program or self.hook / "flowtag-runc", *arguments],
            env={"PATH": "/usr/bin:/bin"} if env is None else env,
            cwd=self.notes,
            timeout=20,
            check=False,
        )
        return done.returncode

    def called(self, name: str) -> list[list[str]]:
        """The arguments of each call since the last look."""
        path = self.notes / name
        calls = path.read_bytes().decode().split("\1")[:-1] if path.exists() else []
        path.unlink(missing_ok=True)
        return [call.split("\0")[:-1] for call in calls]


def runtime(path: Path, notes: Path) -> Path:
    """A runtime that notes its arguments, a line of its own name first, and ends with 7."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "#!/bin/sh\n"
        f"{{ printf '%s\\0' {path.parent.name} \"$@\"; printf '\\1'; }} >>{notes}/runtime\n"
        "exit 7\n",
        encoding="ascii",
    )
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    base = tmp_path_factory.mktemp("wrapper")
    notes = base / "notes"
    notes.mkdir()
    for name in ("hooks", "identity", "bpf"):
        (base / "app" / name).mkdir(parents=True)
    for name in ("flowtag-hook", "flowtag-runc"):
        shutil.copy(f"{FOLDER}/{name}", base / "app" / "hooks")
    script = REPORT.format(path=str(notes / "inject"))
    (base / "app" / "hooks" / "inject.py").write_text(script, encoding="utf-8")
    real = runtime(base / "real" / "runc", notes)
    installed.install(str(base / "hook"), str(base / "app"), str(real), str(base / "run"))
    return Place(base / "hook", real, notes)


@pytest.mark.parametrize(("arguments", "bundle"), INJECTED, ids=lambda value: " ".join(value)[-60:])
def test_wrapper_injects_and_runs_the_runtime(place: Place, arguments: Sequence[str], bundle: str) -> None:
    assert place.call(*arguments) == 7
    assert place.called("inject") == [[bundle, str(place.hook)]]
    assert place.called("runtime") == [["real", *arguments]]


@pytest.mark.parametrize("arguments", LEFT_ALONE, ids=lambda value: " ".join(value)[-60:])
def test_wrapper_leaves_alone(place: Place, arguments: Sequence[str]) -> None:
    assert place.call(*arguments) == 7
    assert place.called("inject") == []
    assert place.called("runtime") == [["real", *arguments]]


def test_wrapper_disabled_leaves_alone(place: Place) -> None:
    installed.disable(str(place.hook))
    try:
        assert place.call("run", "ID") == 7
        assert place.called("inject") == []
    finally:
        installed.enable(str(place.hook))
    assert place.called("runtime") == [["real", "run", "ID"]]


def test_wrapper_without_the_application_leaves_alone(place: Place) -> None:
    app = place.hook / "app"
    target = app.readlink()
    app.unlink()
    app.symlink_to("/nowhere")
    try:
        assert place.call("run", "ID") == 7
        assert place.called("runtime") == [["real", "run", "ID"]]
        assert not (place.hook.parent / "run" / "hook-runs").exists()
    finally:
        app.unlink()
        app.symlink_to(target)


def test_wrapper_by_links_finds_its_directory(place: Place, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "bin" / "runc"
    second.parent.mkdir()
    first.symlink_to(place.hook / "flowtag-runc")
    second.symlink_to("../first")
    assert place.call("run", "ID", program=second) == 7
    assert place.called("inject") == [[".", str(place.hook)]]
    assert place.called("runtime") == [["real", "run", "ID"]]


def test_wrapper_called_by_a_relative_path(place: Place) -> None:
    done = subprocess.run(["./flowtag-runc", "run", "ID"], cwd=place.hook, check=False)
    assert done.returncode == 7
    assert place.called("inject") == [[".", "."]]
    assert place.called("runtime") == [["real", "run", "ID"]]


def test_wrapper_runs_what_the_callers_environment_does_not_choose(place: Place, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("runc", "timeout", "python3", "readlink", "sh", "printf", "echo"):
        script = trap / name
        script.write_text(f"#!/bin/sh\n/usr/bin/touch {trap}/sprung\n", encoding="ascii")
        script.chmod(0o755)
    env = {
        "PATH": str(trap),
        "ENV": f"{trap}/runc",
        "BASH_ENV": f"{trap}/runc",
        "PYTHONPATH": str(trap),
        "PYTHONSTARTUP": f"{trap}/runc",
        "PYTHONHOME": str(trap),
        "IFS": "/",
        "FLOWTAG_RUNC": ":",
        "home": str(trap),
        "inject": f"{trap}/inject.py",
        "command": "create",
        "ids": "1",
        "real": f"{trap}/runc",
        "tried": "",
    }
    assert place.call("state", "ID", env=env) == 7
    assert place.called("inject") == []
    link = tmp_path / "runc"
    link.symlink_to(place.hook / "flowtag-runc")
    assert place.call("run", "ID", env=env, program=link) == 7
    assert place.called("inject") == [[".", str(place.hook)]]
    assert place.called("runtime") == [["real", "state", "ID"], ["real", "run", "ID"]]
    assert not (trap / "sprung").exists()


@pytest.fixture
def dangling(place: Place) -> Place:
    """Once more, and `runc` leads nowhere."""
    place.called("inject")
    place.called("runtime")
    other = place.hook.parent / f"hook-{os.urandom(4).hex()}"
    installed.install(str(other), str(place.hook.parent / "app"), str(place.runtime))
    (other / "runc").unlink()
    (other / "runc").symlink_to("/nowhere/runc")
    return place._replace(hook=other)


def test_wrapper_without_runtime_takes_the_first_of_path(dangling: Place, tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "runc").symlink_to(dangling.hook / "flowtag-runc")
    (tmp_path / "directory" / "runc").mkdir(parents=True)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "runc").write_text("", encoding="ascii")
    runtime(tmp_path / "one" / "runc", dangling.notes)
    runtime(tmp_path / "two" / "runc", dangling.notes)
    runtime(dangling.notes / "runc", dangling.notes)  # in the working directory: nobody's choice
    path = ":".join(
        ["", ".", *(str(tmp_path / n) for n in ("none", "self", "directory", "plain", "one", "two"))]
    )
    assert dangling.call("run", "ID", env={"PATH": path}) == 7
    assert dangling.called("runtime") == [["one", "run", "ID"]]
    assert len(dangling.called("inject")) == 1


def test_wrapper_that_leads_to_itself_ends(dangling: Place, tmp_path: Path) -> None:
    """Every runc there is is the wrapper: by its own link, by links, and by a copy in PATH."""
    (dangling.hook / "runc").unlink()
    (dangling.hook / "runc").symlink_to(tmp_path / "a" / "runc")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runc").symlink_to(dangling.hook / "flowtag-runc")
    (tmp_path / "c").mkdir()
    shutil.copy(dangling.hook / "flowtag-runc", tmp_path / "c" / "runc")
    path = ":".join(str(tmp_path / name) for name in "abc")
    done = subprocess.run(
        [dangling.hook / "flowtag-runc", "run", "ID"],
        env={"PATH": path},
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 127
    assert b"leads to no runtime" in done.stderr
    assert len(dangling.called("inject")) == 1
    runtime(tmp_path / "d" / "runc", dangling.notes)
    assert dangling.call("run", "ID", env={"PATH": f"{path}:{tmp_path}/d"}) == 7
    assert dangling.called("runtime") == [["d", "run", "ID"]]


def test_wrapper_whose_runtime_calls_runc_by_path(dangling: Place, tmp_path: Path) -> None:
    """As nvidia-container-runtime does, where runc in PATH is the wrapper."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "runc").symlink_to(dangling.hook / "flowtag-runc")
    other = tmp_path / "nvidia"
    other.write_text('#!/bin/sh\nexec runc "$@"\n', encoding="ascii")
    other.chmod(0o755)
    (dangling.hook / "runc").unlink()
    (dangling.hook / "runc").symlink_to(other)
    runtime(tmp_path / "real" / "runc", dangling.notes)
    assert dangling.call("run", "ID", env={"PATH": f"{tmp_path}/bin:{tmp_path}/real"}) == 7
    assert dangling.called("runtime") == [["real", "run", "ID"]]
    assert len(dangling.called("inject")) == 1


@pytest.mark.parametrize(
    ("script", "kind"),
    [("raise SystemExit(3)\n", 3), ("import time; time.sleep(9)\n", 137), ("import os; os.abort()\n", 134)],
)
def test_wrapper_counts_an_injection_that_fails(place: Place, script: str, kind: int) -> None:
    path = place.hook / "app" / "hooks" / "inject.py"
    good = path.read_text(encoding="utf-8")
    run = place.hook.parent / "run"
    run.mkdir()
    path.write_text(script, encoding="utf-8")
    try:
        assert place.call("run", "ID") == 7
        assert (run / "hook-runs").read_text(encoding="ascii") == f"inject failed {kind}\n"
    finally:
        path.write_text(good, encoding="utf-8")
        shutil.rmtree(run)
    assert place.called("runtime") == [["real", "run", "ID"]]
