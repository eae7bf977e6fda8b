# SPDX-License-Identifier: Apache-2.0
"""The command as its user meets it: exit codes, one-line errors, outputs that go away."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.rig.exporter import COMMAND

PRINT = (COMMAND, "check", "--print-config")


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_unknown_command_is_a_usage_error() -> None:
    done = call("fly")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: flowtag")


def test_no_command_is_a_usage_error() -> None:
    assert call().returncode == 2


def test_bad_configuration_is_one_line_and_a_hint(tmp_path: Path) -> None:
    config = tmp_path / "flowtag.toml"
    config.write_text("[host]\npin_direktory = '/x'\n", encoding="utf-8")
    done = call("run", "--config", str(config))
    assert done.returncode == 1
    message, hint = done.stderr.splitlines()
    assert message.startswith("flowtag: ")
    assert "host.pin_direktory" in message
    assert hint.startswith("hint: ")
    assert "pin_directory" in hint
    assert done.stdout == ""


def test_missing_configuration_names_the_file() -> None:
    done = call("run", "--config", "/nonexistent/flowtag.toml")
    assert done.returncode == 1
    assert "/nonexistent/flowtag.toml" in done.stderr
    assert "Traceback" not in done.stderr


def test_closed_pipe_ends_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(PRINT, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [PRINT, (COMMAND, "--help")], ids=["check", "help"])
def test_full_device_is_one_line(command: tuple[str, ...], unbuffered: str) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            text=True,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "flowtag: No space left on device\n")


def test_no_standard_output_at_all_is_no_crash() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *PRINT],
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
