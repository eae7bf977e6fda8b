# SPDX-License-Identifier: Apache-2.0
"""`register --method nri` on configurations of containerd, and what the plugin's file tells `status`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bpf.error import FlowtagError
from hooks import nri
from hooks.runtime import Options
from hooks.runtimes.nri import Nri

ON = """
version = 2
[plugins."io.containerd.nri.v1.nri"]
disable = false
disable_connections = false
socket_path = "/run/other.sock"
"""


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """A containerd that dumps the file it is given, as it is."""
    program = tmp_path / "containerd"
    program.write_text('#!/bin/sh\n[ "$3 $4" = "config dump" ] && exec cat "$2"\nexit 3\n', encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "config.toml").write_text(ON, encoding="ascii")
    return Options(run_directory=str(tmp_path / "run"), file=str(tmp_path / "config.toml"))


def refusal(options: Options, text: str) -> FlowtagError:
    Path(options.file).write_text(text, encoding="ascii")
    with pytest.raises(FlowtagError) as found:
        Nri().register(options)
    return found.value


def test_register_changes_no_file_and_says_what_to_start(options: Options) -> None:
    plan = Nri().register(options)
    assert plan.changes == ()
    assert f"flowtag nri --socket /run/other.sock --run-directory {options.run_directory}" in plan.then


def test_register_without_nri(options: Options) -> None:
    error = refusal(options, "version = 2\n[plugins]\n")
    assert "came with 1.7" in str(error)
    assert "wrapper" in error.hint


@pytest.mark.parametrize("key", ["disable", "disable_connections"])
def test_register_with_nri_switched_off(options: Options, key: str) -> None:
    error = refusal(options, ON.replace(f"{key} = false", f"{key} = true"))
    assert f"{key} = true" in str(error)
    assert "restart containerd" in error.hint


def test_register_with_the_plugin_disabled(options: Options) -> None:
    error = refusal(options, 'disabled_plugins = ["io.containerd.nri.v1.nri"]\n' + ON)
    assert "disabled_plugins" in str(error)


def test_register_with_a_containerd_that_fails_or_is_not_there(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "config dump" in str(refusal(options._replace(file=f"{options.file}2"), "= = =\n"))
    Path(options.file).unlink()
    with pytest.raises(FlowtagError, match="No such file"):
        Nri().register(options)
    monkeypatch.setenv("PATH", options.run_directory)
    with pytest.raises(FlowtagError, match="containerd"):
        Nri().register(options)


def test_state_without_a_plugin_or_after_one(options: Options) -> None:
    assert not Nri().state(options).registered
    os.makedirs(options.run_directory)
    Path(options.run_directory, "nri").write_text("1 /run/nri.sock containerd 2\n", encoding="ascii")
    assert not Nri().state(options).registered  # its file stayed, but nobody holds it
    assert Nri().unregister(options, True).then == ""


def test_state_of_a_plugin_connected_or_not(options: Options) -> None:
    file = nri.open_status(options.run_directory)
    try:
        state = Nri().state(options)
        assert (state.registered, state.effective) == (True, False)
        assert "has not accepted it" in state.problem
        os.write(file, f"{os.getpid()} /run/nri.sock containerd 2.1.9\n".encode())
        state = Nri().state(options)
        assert (state.registered, state.effective, state.problem) == (True, True, "")
        assert state.detail == f"connected to containerd 2.1.9 at /run/nri.sock, process {os.getpid()}"
        assert Nri().register(options).then == ""
        assert "disable --now flowtag-nri" in Nri().unregister(options, True).then
    finally:
        os.close(file)
