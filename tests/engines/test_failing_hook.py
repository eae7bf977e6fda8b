# SPDX-License-Identifier: Apache-2.0
"""No mistake of ours keeps a container from starting: 200 starts of real runc, through the wrapper and the
hook directory, with hook or wrapper failing in every way.

Each start alternates with one of the same bundle by runc alone. The slowest may take half a second more than
the slowest of those, which is what the stub allows Python (and the wrapper, which leaves no hook to pay for
when it fails), and ALLOWANCE: sh, timeout and a working injection are some 30 ms, the rest is noise of a busy
machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hooks import installed, runs
from hooks.cli import FOLDER
from tests.hook_maps import WRITTEN, make_maps
from tests.rig.bundle import make_bundle
from tests.rig.container import Runc

LIMIT = 0.5
ALLOWANCE = 0.25
PYTHON = "/usr/bin/python3"
MARK = ("/bin/sh", "-c", "echo >/mark/started")


class Site:
    """A hook directory of its own: application, run directory and maps are there to be damaged."""

    def __init__(self, directory: Path, pins: Path, runc: Runc) -> None:
        self.directory, self.pins, self.runc = directory, pins, runc
        self.app, self.hook, self.run = (directory / name for name in ("app", "hook", "run"))
        for package in ("bpf", "hooks", "identity"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(f"{FOLDER}/../{package}", self.app / package, ignore=ignored)
        real = shutil.which("runc")
        assert real is not None
        self.real = real
        self.path = os.environ["PATH"]
        installed.install(str(self.hook), str(self.app), real, str(self.run))
        make_maps(pins)
        self.set_up_run_directory()
        self.mark = directory / "mark"
        self.mark.mkdir()
        self.bundle = make_bundle(
            directory / "bundle",
            "",
            cgroup=f"{runc.cgroup_root}/web",
            args=MARK,
            binds={str(self.mark): "/mark"},
        )
        self.config = (self.bundle / "config.json").read_bytes()

    def set_up_run_directory(self) -> None:
        self.run.mkdir(exist_ok=True)
        (self.run / "hook").write_text(f"pin_directory {self.pins}\n", encoding="ascii")

    def write_config(self, **changes: Any) -> None:
        config = {**json.loads(self.config), **changes}
        (self.bundle / "config.json").write_text(json.dumps(config), encoding="ascii")

    def start(self, program: str | Path) -> float:
        """Start the container and remove it; seconds of `runc run --detach`, in which its process starts."""
        common = [str(program), *self.runc.command()[1:]]
        env = {"PATH": self.path}
        began = time.monotonic()
        done = subprocess.run(
            [*common, "run", "--detach", "--bundle", str(self.bundle), "web"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=env,
            timeout=20,
            check=False,
        )
        seconds = time.monotonic() - began
        assert done.returncode == 0, done.stderr.decode()
        assert done.stderr == b""
        deadline = time.monotonic() + 10
        while not (self.mark / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        (self.mark / "started").unlink()
        subprocess.run([*common, "delete", "--force", "web"], env=env, timeout=20, check=True)
        return seconds

    def counted(self, event: str) -> tuple[dict[str, int], dict[str, int]]:
        """Outcomes and failures of an event."""
        found = runs.read(str(self.run)).events.get(event)
        return (dict(found.outcomes), dict(found.failures)) if found else ({}, {})


@pytest.fixture
def site(tmp_path: Path, pin_directory: Path) -> Iterator[Site]:
    if shutil.which("runc") is None:
        pytest.skip("needs runc")
    with Runc(tmp_path / "runc", f"/flowtag-failing-{os.getpid()}") as runc:
        made = Site(tmp_path, pin_directory, runc)
        try:
            yield made
        finally:
            subprocess.run(["umount", "-q", made.run], check=False)
            subprocess.run(["umount", "-q", made.bundle], check=False)


@pytest.fixture(scope="module")
def alone() -> list[float]:
    """The starts by runc alone, of all tests."""
    return []


def script(name: str, text: str) -> Callable[[Site], object]:
    return lambda site: (site.app / "hooks" / name).write_text(text, encoding="ascii")


def without_python(*names: str) -> Callable[[Site], object]:
    def damage(site: Site) -> None:
        for name in names:
            text = (site.hook / name).read_text(encoding="ascii")
            assert PYTHON in text
            (site.hook / name).write_text(text.replace(PYTHON, "/nowhere/python3"), encoding="ascii")

    return damage


def read_only(site: Site) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", site.run], check=True)
    site.set_up_run_directory()
    subprocess.run(["mount", "-o", "remount,ro", site.run], check=True)


def full(site: Site) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", site.run], check=True)
    site.set_up_run_directory()
    with pytest.raises(OSError, match="No space"):
        (site.run / "rest").write_bytes(bytes(1 << 20))


def read_only_bundle(site: Site) -> None:
    subprocess.run(["mount", "--bind", site.bundle, site.bundle], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", site.bundle], check=True)


def no_maps(site: Site) -> None:
    for name in WRITTEN:
        (site.pins / name).unlink()


def dangling(name: str) -> Callable[[Site], None]:
    def damage(site: Site) -> None:
        (site.hook / name).unlink()
        (site.hook / name).symlink_to("/nowhere")

    return damage


ABORT, HANG = "import os; os.abort()\n", "import time; time.sleep(60)\n"
# How it fails; how often; what createRuntime and poststop count as, and the injection ("": nothing).
WAYS: dict[str, tuple[Callable[[Site], object], int, str, str, str]] = {
    "not at all": (lambda site: None, 10, "claimed", "ended", "added"),
    "crash": (script("main.py", ABORT), 25, "signal 6", "signal 6", "added"),
    "error": (script("main.py", "raise SystemExit(3)\n"), 10, "status 3", "status 3", "added"),
    "hang": (script("main.py", HANG), 10, "killed", "killed", "added"),
    "no interpreter": (without_python("flowtag-hook"), 25, "no interpreter", "no interpreter", "added"),
    "read-only": (read_only, 24, "", "", ""),
    "full disk": (full, 24, "", "", ""),
    "maps gone": (no_maps, 22, "pending", "ended", "added"),
    "disabled": (lambda site: installed.disable(str(site.hook)), 18, "", "", ""),
    "application gone": (dangling("app"), 8, "", "", ""),
    "injection crashes": (script("inject.py", ABORT), 8, "", "", "signal 6"),
    "injection hangs": (script("inject.py", HANG), 6, "", "", "killed"),
    "no interpreter at all": (without_python("flowtag-hook", "flowtag-runc"), 8, "", "", "no interpreter"),
    "read-only bundle": (read_only_bundle, 6, "", "", "error"),
    "runtime gone": (dangling("runc"), 6, "claimed", "ended", "added"),
}


def test_ways_are_200_starts() -> None:
    assert sum(way[1] for name, way in WAYS.items() if name != "not at all") == 200


@pytest.mark.parametrize("name", WAYS)
def test_container_starts_whatever_fails(site: Site, alone: list[float], name: str) -> None:
    damage, count, *expected = WAYS[name]
    damage(site)
    took = []
    for _ in range(count):
        if name != "read-only bundle":
            (site.bundle / "config.json").write_bytes(site.config)
        alone.append(site.start(site.real))
        took.append(site.start(site.hook / "flowtag-runc"))
    for event, what in zip(("createRuntime", "poststop", "inject"), expected, strict=True):
        outcomes, failures = site.counted(event)
        assert {**outcomes, **failures} == ({what: count} if what else {})
    added = max(took) - max(alone)
    print(f"{name}: {count} starts, the slowest {max(took):.3f} s, {added:+.3f} s to runc alone")
    assert added <= LIMIT + ALLOWANCE


def test_broken_config_fails_as_without_the_wrapper(site: Site) -> None:
    """The runtime says what is wrong with it, in its own words."""
    for text in (b"", b"{", b'{"a": 1.5', b"[]"):
        (site.bundle / "config.json").write_bytes(text)
        said = []
        for program in (site.real, site.hook / "flowtag-runc"):
            done = subprocess.run(
                [
                    program,
                    *site.runc.command()[1:],
                    "--log-format",
                    "json",
                    "run",
                    "--bundle",
                    site.bundle,
                    "web",
                ],
                capture_output=True,
                check=False,
            )
            said.append((done.returncode, json.loads(done.stderr)["msg"]))
        assert said[0] == said[1]
        assert said[0][0] != 0
        assert (site.bundle / "config.json").read_bytes() == text
    assert site.counted("inject") == ({}, {"error": 4})


def test_prestart_of_others_runs_first(site: Site) -> None:
    """As Docker's libnetwork-setkey: only when that has run is there a network to look at."""
    log = site.directory / "log"
    other = site.directory / "other"
    other.write_text(f'#!/bin/sh\necho "$1" >>{log}\n', encoding="ascii")
    other.chmod(0o755)
    stub = site.hook / "flowtag-hook"
    text = stub.read_text(encoding="ascii")
    stub.write_text(text.replace("home=", f'echo "ours $1" >>{log}; home=', 1), encoding="ascii")
    theirs = {"path": str(other), "args": [str(other), "theirs"]}
    for hooks, said in (
        ({"prestart": [theirs]}, ["theirs", "ours createRuntime", "ours poststop"]),
        (
            {"createRuntime": [theirs], "poststop": [theirs]},
            ["theirs", "ours createRuntime", "theirs", "ours poststop"],
        ),
    ):
        log.unlink(missing_ok=True)
        site.write_config(hooks=hooks)
        site.start(site.hook / "flowtag-runc")
        assert log.read_text(encoding="ascii").splitlines() == said
    assert site.counted("createRuntime") == ({"claimed": 2}, {})
    assert site.counted("poststop") == ({"ended": 2}, {})
    hooks_now = json.loads((site.bundle / "config.json").read_bytes())["hooks"]
    assert [entry["path"] for entry in hooks_now["createRuntime"]] == [str(other), str(stub)]
