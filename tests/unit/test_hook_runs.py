# SPDX-License-Identifier: Apache-2.0
"""The counts of hook runs: what the lines say, whatever else is in the file, and that it ends somewhere."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooks import run_line, runs
from hooks.cli import FOLDER
from identity import hook_runs

STUB = f"{FOLDER}/flowtag-hook"


def put(directory: Path, text: str, name: str = "hook-runs") -> None:
    (directory / name).write_text(text, encoding="ascii")


def test_runs_of_nobody(tmp_path: Path) -> None:
    found = runs.read(str(tmp_path / "none"))
    assert (found.total, found.failed, found.events, found.old) == (0, 0, {}, False)


def test_runs_by_event_and_outcome(tmp_path: Path) -> None:
    put(
        tmp_path,
        "createRuntime claimed 14000\ncreateRuntime claimed 16000\ncreateRuntime pending 18000\n"
        "createRuntime failed 137\ncreateRuntime failed 1\npoststop ended 9500\npoststop failed 127\n"
        "inject added 5000\ninject failed 139\n",
    )
    found = runs.read(str(tmp_path))
    created = found.events["createRuntime"]
    assert created.outcomes == {"claimed": 2, "pending": 1}
    assert created.failures == {"killed": 1, "error": 1}
    assert (created.p50_ms, created.p99_ms) == (16.0, runs.KILLED_MS)  # of 14, 16, 18 and the killed one
    assert found.events["poststop"].failures == {"no interpreter": 1}
    assert found.events["poststop"].p50_ms == 9.5
    assert found.events["inject"].failures == {"signal 11": 1}
    assert (found.total, found.failed, found.old) == (9, 4, False)


def test_runs_that_failed_lately(tmp_path: Path) -> None:
    put(tmp_path, "createRuntime failed 1\n" * 5, "hook-runs.old")
    put(tmp_path, "createRuntime claimed 9000\n" * (runs.LATELY - 3) + "inject failed 137\n")
    found = runs.read(str(tmp_path))
    assert (found.failed, found.lately) == (6, 3)


def test_runs_quantiles(tmp_path: Path) -> None:
    put(tmp_path, "".join(f"poststop ended {n}000\n" for n in range(100, 0, -1)))
    ended = runs.read(str(tmp_path)).events["poststop"]
    assert (ended.p50_ms, ended.p99_ms) == (50.0, 99.0)


def test_runs_of_both_generations(tmp_path: Path) -> None:
    put(tmp_path, "poststop ended 1\n")
    put(tmp_path, "poststop ended 3\npoststop failed 1\n", "hook-runs.old")
    found = runs.read(str(tmp_path))
    assert (found.total, found.failed, found.old) == (3, 1, True)


DAMAGED = (
    "", " ", "poststop", "poststop ended", "poststop ended x", "poststop ended -1", "poststop ended 1 2",
    " poststop ended 1", "poststop  ended 1", "elsewhere ended 1", "poststop invented 1",
    "poststop ended 1\r", "poststop ended " + "1" * 40, "poststop failed 999",
    "poststop failed 256", "POSTSTOP ended 1", "\0" * 9,
)  # fmt: skip


def test_runs_passes_over_damaged_lines(tmp_path: Path) -> None:
    put(tmp_path, "\n".join([*DAMAGED, "poststop ended 1", *DAMAGED]))
    assert runs.read(str(tmp_path)).total == 1


@given(st.binary(max_size=300))
def test_runs_of_any_bytes(data: bytes) -> None:
    for event, outcome, number in hook_runs.parse(data):
        assert event in (b"createRuntime prestart poststop inject").decode().split()
        assert outcome in (*hook_runs.OUTCOMES, hook_runs.FAILED)
        assert number >= 0


def test_runs_reads_no_more_than_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "hook-runs"
    with path.open("wb") as file:
        file.write(b"poststop ended 1\n")
        file.truncate(1 << 40)  # sparse
        file.seek(0, os.SEEK_END)
        file.write(b"\npoststop ended 2\n")
    began = time.monotonic()
    found = runs.read(str(tmp_path))
    assert (found.total, found.events["poststop"].p50_ms) == (1, 0.002)  # the later end of it
    assert time.monotonic() - began < 5


def test_runs_of_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hook-runs")
    assert runs.read(str(tmp_path)).total == 0


def test_line_of_a_run(tmp_path: Path) -> None:
    run_line.append(str(tmp_path), "poststop", "ended", time.monotonic_ns() - 5_000_000)
    (event,) = runs.read(str(tmp_path)).events.values()
    assert event.p50_ms is not None
    assert 5 <= event.p50_ms < 500
    assert (tmp_path / "hook-runs").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("where", ["none", "/dev/null", "/proc/self", "\0"])
def test_line_that_cannot_be_written(where: str) -> None:
    run_line.append(where, "poststop", "ended", 0)


def test_line_beyond_the_limit_begins_anew(tmp_path: Path) -> None:
    line = "poststop ended 1\n"
    many = run_line.LIMIT // len(line) + 1
    put(tmp_path, line * many)
    run_line.append(str(tmp_path), "poststop", "ended", 0)
    assert not (tmp_path / "hook-runs").exists()
    run_line.append(str(tmp_path), "poststop", "ended", 0)
    found = runs.read(str(tmp_path))
    assert (found.total, found.old) == (many + 2, True)


def test_line_of_a_hook_that_opened_the_file_before_it_was_renamed(tmp_path: Path) -> None:
    """It does not put the new file in the old one's place."""
    path = tmp_path / "hook-runs"
    put(tmp_path, "poststop ended 1\n")
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    about = os.fstat(fd)
    other = os.open(path, os.O_WRONLY | os.O_APPEND)
    run_line._rename(str(path), other, about)
    os.close(other)
    put(tmp_path, "poststop ended 2\n")
    run_line._rename(str(path), fd, about)
    os.close(fd)
    assert path.read_text(encoding="ascii") == "poststop ended 2\n"
    assert (tmp_path / "hook-runs.old").read_text(encoding="ascii") == "poststop ended 1\n"


def call(run: Path, stub: str = STUB, text: bytes = b"{}", path: str = "/usr/bin:/bin") -> int:
    done = subprocess.run([stub, "poststop", run], input=text, env={"PATH": path}, timeout=10, check=False)
    return done.returncode


def test_stub_counts_what_the_hook_does_not(tmp_path: Path) -> None:
    assert call(tmp_path) == 0
    assert call(tmp_path, text=b"no JSON") == 0
    found = runs.read(str(tmp_path)).events["poststop"]
    assert (found.outcomes, found.failures) == ({"ignored": 1}, {"error": 1})
    assert call(tmp_path, path="/nowhere") == 0
    assert runs.read(str(tmp_path)).events["poststop"].failures == {"error": 1, "no interpreter": 1}


def test_stub_stops_counting_at_twice_the_limit(tmp_path: Path) -> None:
    with (tmp_path / "hook-runs").open("wb") as file:
        file.truncate(2 * run_line.LIMIT - 5)
    for _ in range(2):
        done = subprocess.run([STUB, "poststop", tmp_path], env={"PATH": "/nowhere"}, input=b"", check=False)
        assert done.returncode == 0
    assert (tmp_path / "hook-runs").stat().st_size <= 2 * run_line.LIMIT
    # And under a limit of the caller's that is lower still, without a signal.
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 1; exec "$@"', "sh", STUB, "poststop", tmp_path],
        env={"PATH": "/nowhere"},
        input=b"",
        check=False,
    )
    assert done.returncode == 0


def test_stub_disabled_or_without_application_leaves_no_line(tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.mkdir()
    stub = hook / "flowtag-hook"
    stub.write_bytes(Path(STUB).read_bytes())
    stub.chmod(0o755)
    (hook / "app").symlink_to("/nowhere")
    assert call(tmp_path, str(stub)) == 0
    (hook / "app").unlink()
    (hook / "app").symlink_to(os.path.dirname(FOLDER))
    (hook / "disabled").touch()
    assert call(tmp_path, str(stub)) == 0
    assert runs.read(str(tmp_path)).total == 0
    (hook / "disabled").unlink()
    assert call(tmp_path, str(stub)) == 0
    assert runs.read(str(tmp_path)).total == 1


def test_stub_that_ends_at_once_takes_the_state_first(tmp_path: Path) -> None:
    """Older crun fails the container when its write finds nobody."""
    stub = tmp_path / "flowtag-hook"
    stub.write_bytes(Path(STUB).read_bytes())
    stub.chmod(0o755)
    with subprocess.Popen([stub, "poststop"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        time.sleep(0.1)
        process.stdin.write(b'{"id": "a"}' * 1000)
        process.stdin.close()  # BrokenPipeError, had it ended
        assert process.wait(5) == 0
