# SPDX-License-Identifier: Apache-2.0
"""The hook's entry on hostile input: it ends soon and writes nothing that it should not."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooks import oci_hook
from hooks.cli import FOLDER
from hooks.self_test import PYTHON
from identity import incarnation

NO_PROCESS = 2**22 + 1  # above the kernel's highest pid
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
STATES = st.fixed_dictionaries(
    {},
    optional={
        "id": st.just("a") | JSON,
        "bundle": st.sampled_from(["/b", "/\0", "/etc/passwd", "/dev"]) | JSON,
        "pid": st.sampled_from([NO_PROCESS, 0, -1, True, 2**70]) | JSON,
        "annotations": JSON,
        "status": JSON,
    },
)
GOOD = {"id": "a", "bundle": "/b", "pid": NO_PROCESS}
HOSTILE = {
    "empty": b"",
    "cut": b'{"id": "a", "bundle": "/b", "pid": 1',
    "trailing": json.dumps(GOOD).encode() + b"}",
    "no object": b"[1]",
    "not text": b"\xff\xfe\x00",
    "deep": b'{"a":' * 100_000,
    "deep annotations": b'{"id":"a","bundle":"/b","pid":1,"annotations":' + b"[" * 100_000,
    "huge": json.dumps({**GOOD, "annotations": {"a": "b" * (1 << 20)}}).encode(),
    "very huge": b"[" + b" " * (64 << 20),
    "many": json.dumps({**GOOD, "annotations": {str(i): "" for i in range(60_000)}}).encode(),
    "huge pid": b'{"id":"a","bundle":"/b","pid":' + b"9" * 4000 + b"}",
    "huge id": json.dumps({**GOOD, "id": "a" * 500_000}).encode(),
    "surrogate": b'{"id":"\\ud800","bundle":"/\\udcff\\u0000","pid":4194305}',
}
# These are JSON, of another meaning than a container's state has.
READABLE = ("no object", "huge", "many", "huge pid", "huge id", "surrogate")
EVENTS = ("createRuntime", "prestart", "poststop")


@pytest.mark.parametrize("event", [*EVENTS, "", "createContainer"])
@pytest.mark.parametrize("name", HOSTILE)
def test_entry_hostile_state(event: str, name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "hook").write_text(f"pin_directory {run}\n", encoding="utf-8")
    began = time.monotonic()
    done = subprocess.run(
        [PYTHON, "-I", "-S", f"{FOLDER}/main.py", str(os.getpid()), event, run],
        input=HOSTILE[name],
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=10,
    )
    # What it refuses the stub counts, what it understood it counts itself.
    refused = event in EVENTS and name not in READABLE
    assert done.returncode == (1 if refused else 0)
    assert (run / "hook-runs").exists() == (event in EVENTS and not refused)
    assert time.monotonic() - began < 5
    assert list(run.rglob("*.json")) == []


@pytest.mark.parametrize("space", ["", "\n  "], ids=["runc", "indented"])
@pytest.mark.parametrize("identity", ["a", '"annotations"'])
def test_read_state_too_long_by_its_annotations(identity: str, space: str) -> None:
    notes = {"annotations": {"a": "b" * (3 << 20)}}
    text = json.dumps({**GOOD, "id": identity, "status": "creating", **notes}, indent=space or None).encode()
    read_end, write_end = os.pipe()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=write_end) as writer:
        os.close(write_end)
        assert writer.stdin
        threading.Thread(target=lambda stdin=writer.stdin: (stdin.write(text), stdin.close())).start()
        assert oci_hook.read_state(read_end) == {**GOOD, "id": identity, "status": "creating"}
        assert os.read(read_end, 1) == b""  # all of it was taken: crun insists
        os.close(read_end)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [([], 1), (["1"], 1), (["x", "poststop", "/none"], 0), (["1", "prestart", "/dev/null"], 1)],
)
def test_entry_odd_arguments(arguments: list[str], status: int) -> None:
    done = subprocess.run(
        [PYTHON, "-I", "-S", f"{FOLDER}/main.py", *arguments],
        input=json.dumps(GOOD).encode(),
        stderr=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == status


@given(STATES, st.sampled_from(["createRuntime", "prestart", "poststop"]))
def test_main_any_state(state: dict[str, object], event: str) -> None:
    with tempfile.TemporaryDirectory() as run, tempfile.TemporaryFile() as file:
        Path(run, "hook").write_text(f"pin_directory {run}\n", encoding="utf-8")
        file.write(json.dumps(state).encode())
        file.seek(0)
        kept = os.dup(0)
        try:
            os.dup2(file.fileno(), 0)
            oci_hook.main([str(os.getpid()), event, run], 0)
        except ValueError:
            pass  # refused as JSON: nothing was begun
        finally:
            os.dup2(kept, 0)
            os.close(kept)
        assert list(incarnation.every(f"{run}/live")) == []
        assert list(incarnation.every(f"{run}/pending")) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda bundle: (bundle / "config.json").symlink_to("/etc/os-release"),
        lambda bundle: os.mkfifo(bundle / "config.json"),
        lambda bundle: (bundle / "config.json").mkdir(),
        lambda bundle: (bundle / "config.json").write_bytes(b"[" * 100_000),
        lambda bundle: (bundle / "config.json").write_bytes(b'"' + b" " * (5 << 20) + b'"'),
        lambda bundle: None,
    ],
    ids=["symlink", "fifo", "directory", "deep", "huge", "missing"],
)
def test_read_config_of_a_hostile_bundle(make: object, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path)
    assert oci_hook.read_config(str(tmp_path)) is None


def test_read_settings_odd_lines(tmp_path: Path) -> None:
    path = tmp_path / "hook"
    path.write_bytes(b"pin_directory /a b\n\ncgroup_mount\nhost_netns \nx  y\n\xff z\n")
    found = oci_hook.read_settings(str(path))
    assert found["pin_directory"] == "/a b"
    assert "cgroup_mount" not in found
    assert "host_netns" not in found
    assert oci_hook.read_settings(str(tmp_path / "none")) == {}
