# SPDX-License-Identifier: Apache-2.0
"""`flowtag register`: the hooks object, and what it says when the hook could not work."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import flowtag
from bpf.error import FlowtagError
from hooks import cli


def test_register_runc_print(capsys: pytest.CaptureFixture[str]) -> None:
    assert flowtag.main(["register", "--runtime", "runc", "--print"]) == 0
    hooks = json.loads(capsys.readouterr().out)
    assert list(hooks) == ["createRuntime", "poststop"]
    for event, (entry,) in hooks.items():
        assert os.path.isabs(entry["path"])
        assert os.access(entry["path"], os.X_OK)
        assert entry["args"] == [entry["path"], event]
        assert [item.partition("=")[0] for item in entry["env"]] == ["PATH"]
        assert entry["timeout"] == 2


def test_register_run_directory(capsys: pytest.CaptureFixture[str]) -> None:
    flowtag.main(["register", "--runtime", "runc", "--print", "--run-directory", "/tmp/r"])
    hooks = json.loads(capsys.readouterr().out)
    assert hooks["poststop"][0]["args"][1:] == ["poststop", "/tmp/r"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--runtime", "runc"],
        ["--print"],
        ["--runtime", "docker", "--print"],
        ["--runtime", "runc", "--print", "--run-directory", "relative"],
    ],
)
def test_register_anything_else(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        flowtag.main(["register", *arguments])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "register --runtime runc --print" in said or "absolute" in said


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The application directory once more, to damage."""
    for package in ("bpf", "hooks", "identity"):
        shutil.copytree(f"{cli.FOLDER}/../{package}", tmp_path / package)
    return tmp_path / "hooks"


def test_check_hook_that_works(copy: Path) -> None:
    cli.check_hook(str(copy))


def test_check_hook_says_what_is_wrong(copy: Path) -> None:
    with pytest.raises(FlowtagError, match=r"running /nowhere/python3"):
        cli.check_hook(str(copy), "/nowhere/python3")
    (copy / "oci_hook.py").write_text("import nonsense\n", encoding="utf-8")
    with pytest.raises(FlowtagError, match="No module named 'nonsense'"):
        cli.check_hook(str(copy))
    (copy / "flowtag-hook").chmod(0o644)
    with pytest.raises(FlowtagError, match="not executable"):
        cli.check_hook(str(copy))
    (copy / "main.py").unlink()
    with pytest.raises(FlowtagError, match=r"main\.py is missing"):
        cli.check_hook(str(copy))
