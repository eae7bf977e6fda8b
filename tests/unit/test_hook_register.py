# SPDX-License-Identifier: Apache-2.0
"""`flowtag register`: the hooks object."""

from __future__ import annotations

import json
import os

import pytest

import flowtag
from hooks import bundle, cli
from hooks.run_line import RUN_DIRECTORY


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


def test_register_prints_what_the_wrapper_adds() -> None:
    for run in (RUN_DIRECTORY, "/tmp/r"):
        added = {event: [entry] for event, entry in bundle.entries(cli.STUB, run).items()}
        assert cli.hooks_object(run) == added


@pytest.mark.parametrize(
    "arguments",
    [
        ["--print"],
        ["--runtime", "docker", "--print"],
        ["--runtime", "runc", "--print", "--dry-run"],
        ["--runtime", "runc", "--print", "--run-directory", "relative"],
    ],
)
def test_register_print_used_wrongly(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert flowtag.main(["register", *arguments]) == 2
    said = capsys.readouterr().err
    assert "register --runtime runc --print" in said or "absolute" in said
