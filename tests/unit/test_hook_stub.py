# SPDX-License-Identifier: Apache-2.0
"""What the stub must bear: limits, pipes and files that would cost a container its start."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from hooks import installed
from hooks.cli import FOLDER

STATES = ("failing", "disabled", "gone")
SHELLS = ["/bin/dash", "/bin/busybox"]
NOBODY = 61234  # an id that runs nothing else


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    """A hook directory whose Python fails at once, before it reads anything."""
    for name in ("hooks", "identity", "bpf"):
        (tmp_path / "app" / name).mkdir(parents=True)
    for name in ("flowtag-hook", "flowtag-runc"):
        shutil.copy(f"{FOLDER}/{name}", tmp_path / "app" / "hooks")
    for name in ("main.py", "inject.py"):
        (tmp_path / "app" / "hooks" / name).write_text("raise SystemExit(1)\n", encoding="ascii")
    (tmp_path / "run").mkdir()
    installed.install(str(tmp_path / "hook"), str(tmp_path / "app"), "/bin/true", str(tmp_path / "run"))
    return tmp_path / "hook"


def call(hook: Path, state: bytes) -> tuple[int, float]:
    """Exit status and seconds; BrokenPipeError if the stub ends before it has been told the whole state."""
    began = time.monotonic()
    with subprocess.Popen(
        [hook / "flowtag-hook", "createRuntime", str(hook.parent / "run")], stdin=subprocess.PIPE
    ) as stub:
        assert stub.stdin
        left = memoryview(state)
        try:
            while left:
                left = left[os.write(stub.stdin.fileno(), left) :]
            stub.stdin.close()
            status = stub.wait(10)
        finally:
            stub.kill()
    return status, time.monotonic() - began


@pytest.mark.parametrize("kind", STATES)
def test_stub_reads_a_large_state_to_its_end(hook: Path, kind: str) -> None:
    """crun fails a container whose hook does not, runc one whose hook takes two seconds for it."""
    if kind == "disabled":
        installed.disable(str(hook))
    if kind == "gone":
        (hook / "app").unlink()
    status, seconds = call(hook, b"x" * 8_000_000)
    assert status == 0
    assert seconds < 0.75  # half a second, and a busy machine


def test_stub_counts_a_failure_in_no_fifo(hook: Path) -> None:
    """To open one would wait for a reader."""
    runs = hook.parent / "run" / "hook-runs"
    os.mkfifo(runs)
    assert call(hook, b"{}")[0] == 0
    runs.unlink()
    call(hook, b"{}")
    assert runs.read_text(encoding="ascii") == "createRuntime failed 1\n"


def test_wrapper_counts_a_failure_in_no_fifo(hook: Path) -> None:
    os.mkfifo(hook.parent / "run" / "hook-runs")
    done = subprocess.run([hook / "flowtag-runc", "run", "ID"], timeout=10, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("words", [("flowtag-hook", "createRuntime"), ("flowtag-runc", "run", "ID")])
def test_nothing_fails_where_no_process_can_be_made(
    hook: Path, shell: str, processes: int, words: tuple[str, ...]
) -> None:
    """A limit that the engine just met: dash ends with 2 where it cannot fork."""
    if os.geteuid() != 0 or not os.path.exists(shell):
        pytest.skip("needs root and the shell")
    path = hook
    while path != Path("/tmp") and path != path.parent:  # pytest's directories are root's alone
        path.chmod(0o755)
        path = path.parent

    def restrict() -> None:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))

    argv = [shell, *(["sh"] if shell.endswith("busybox") else []), str(hook / words[0]), *words[1:]]
    done = subprocess.run(argv, input=b"{}", preexec_fn=restrict, timeout=10, check=False)
    assert done.returncode == 0
