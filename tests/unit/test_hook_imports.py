# SPDX-License-Identifier: Apache-2.0
"""The modules that hook and injection import, all of them: each costs every container's start some time."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"

OWN = {
    "bpf",
    "bpf.abi",
    "bpf.error",
    "bpf.libc",
    "bpf.syscall",
    "hooks",
    "hooks.oci_hook",
    "hooks.place",
    "hooks.run_line",
    "identity",
    "identity.cgroup",
    "identity.claim",
    "identity.incarnation",
    "identity.lifetime",
    "identity.netns",
    "identity.oci",
    "identity.pinned",
    "identity.strict_json",
    "identity.workload",
}
# What the interpreter itself brings differs with its version; these we ask for. Why no os: bpf/libc.py.
STANDARD = {"__future__", "_blake2", "_ctypes", "_json", "_stat", "_struct", "fcntl"}
PROBE = """
import sys
before = set(sys.modules)
sys.path.append(sys.argv[1])
from hooks.oci_hook import main
main(sys.argv[2:], 0)
print(*sorted(set(sys.modules) - before))
"""


def imported(event: str, run: Path) -> set[str]:
    """The modules after a whole invocation for this very process, with no maps pinned."""
    run.mkdir(exist_ok=True)
    (run / "hook").write_text(f"pin_directory {run}\n", encoding="utf-8")
    state = {"id": "a", "bundle": "/b", "pid": os.getpid(), "annotations": {}}
    done = subprocess.run(
        [PYTHON, "-I", "-S", "-c", PROBE, ROOT, str(os.getpid()), event, str(run)],
        input=json.dumps(state),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_imports_of_create_runtime(tmp_path: Path) -> None:
    # It fails, so it asks for one more: the process is on the host's network, and has no claim.
    assert imported("createRuntime", tmp_path / "run") == OWN | STANDARD | {"identity.gap"}
    assert len(list((tmp_path / "run" / "pending").iterdir())) == 1  # it did its work


def test_imports_of_poststop(tmp_path: Path) -> None:
    assert imported("poststop", tmp_path / "run") == OWN | STANDARD


def test_entries_import_nothing_but_the_hook() -> None:
    # A script has no .pyc: what stands in it is compiled at every container's start.
    for name in ("main.py", "inject.py"):
        assert (ROOT / "hooks" / name).stat().st_size < 600


def test_imports_of_inject(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="ascii")
    probe = PROBE.replace("hooks.oci_hook", "hooks.bundle")
    done = subprocess.run(
        [PYTHON, "-I", "-S", "-c", probe, ROOT, tmp_path, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == {
        *("hooks", "hooks.bundle", "hooks.exact_json", "hooks.run_line", "identity", "identity.strict_json"),
        *("__future__", "_json", "_stat"),
    }
    assert b"createRuntime" in (tmp_path / "config.json").read_bytes()
    assert (tmp_path / "hook-runs").read_text(encoding="ascii").startswith("inject added ")
