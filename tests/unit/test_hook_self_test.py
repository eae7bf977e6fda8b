# SPDX-License-Identifier: Apache-2.0
"""The self-test: it passes for a hook that works, and names what is wrong with one that does not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bpf.error import FlowtagError
from hooks import installed
from hooks.cli import FOLDER
from hooks.self_test import PYTHON, self_test

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the hook directory is root's")


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """The application directory once more, to damage."""
    for package in ("bpf", "hooks", "identity"):
        shutil.copytree(f"{FOLDER}/../{package}", tmp_path / "app" / package)
    return tmp_path / "app"


@pytest.fixture
def hook(tmp_path: Path, application: Path) -> Path:
    runtime = tmp_path / "runc"
    runtime.write_text("#!/bin/sh\necho version\n", encoding="ascii")
    runtime.chmod(0o755)
    installed.install(str(tmp_path / "hook"), str(application), str(runtime))
    return tmp_path / "hook"


def test_self_test_of_a_checkout(application: Path) -> None:
    self_test(str(application / "hooks"))


@needs_root
def test_self_test_of_a_hook_directory(hook: Path) -> None:
    self_test(str(hook))
    installed.disable(str(hook))
    self_test(str(hook))


def test_self_test_of_another_interpreter(application: Path) -> None:
    with pytest.raises(FlowtagError, match=r"running /nowhere/python3"):
        self_test(str(application / "hooks"), "/nowhere/python3")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no stub": (lambda hook: (hook / "flowtag-hook").unlink(), "flowtag-hook is missing"),
    "stub without x": (lambda hook: (hook / "flowtag-hook").chmod(0o644), "flowtag-hook is not executable"),
    "stub fails": (lambda hook: edit(hook / "flowtag-hook", "home=", "exit 3; home="), "exits 3: it said"),
    "stub speaks": (lambda hook: edit(hook / "flowtag-hook", "home=", "echo hello; home="), "has output"),
    "stub dawdles": (lambda hook: edit(hook / "flowtag-hook", "home=", "sleep 1.2; home="), "took 1"),
    "stub does nothing": (lambda hook: edit(hook / "flowtag-hook", "home=", "exit 0; home="), "left no line"),
    "stub without interpreter": (
        lambda hook: edit(hook / "flowtag-hook", PYTHON, "/nowhere/python3"),
        "failed: no interpreter",
    ),
    "no application": (lambda hook: (hook / "app").unlink(), r"main\.py is missing"),
    "no module": (lambda hook: (hook / "app/identity/claim.py").unlink(), "cannot import name 'claim'"),
    "entry fails": (lambda hook: edit(hook / "app/hooks/main.py", "code = 0", "code = 1"), "failed: error"),
    "no injection": (lambda hook: (hook / "app/hooks/exact_json.py").unlink(), "import name 'exact_json'"),
    "no wrapper": (lambda hook: (hook / "flowtag-runc").unlink(), "flowtag-runc is missing"),
    "wrapper without x": (
        lambda hook: (hook / "flowtag-runc").chmod(0o644),
        "flowtag-runc is not executable",
    ),
    "runtime fails": (
        lambda hook: edit(hook.parent / "runc", "echo version", "echo why >&2; exit 5"),
        "--version exits 5: why",
    ),
}


@needs_root
@pytest.mark.parametrize("name", DAMAGE)
def test_self_test_says_what_is_wrong(name: str, hook: Path) -> None:
    damage, said = DAMAGE[name]
    damage(hook)
    with pytest.raises(FlowtagError, match=said) as caught:
        self_test(str(hook))
    assert caught.value.hint


@needs_root
@pytest.mark.parametrize("name", ["hook", "app"])
def test_self_test_on_a_noexec_mount(hook: Path, name: str) -> None:
    path = hook.parent / name
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,noexec", path], check=True)
        if name == "hook":
            with pytest.raises(FlowtagError, match="mounted noexec"):
                self_test(str(hook))
        else:
            self_test(str(hook))  # Python reads it
    finally:
        subprocess.run(["umount", path], check=True)
