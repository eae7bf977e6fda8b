# SPDX-License-Identifier: Apache-2.0
"""`flowtag status` over real containers of runc: with the hook, without it, and with hooks that failed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hooks import installed, references, register, status, status_text, why
from hooks.cli import FOLDER
from hooks.register import Registration
from hooks.runtime import Options, Reference
from hooks.runtimes.runc import Runc as Adapter
from hooks.status import Running, Status
from identity import census
from identity.pinned import open_map
from tests.hook_maps import entry, make_maps
from tests.rig.container import Container, Runc
from tests.rig.exporter import COMMAND

WAIT = "import sys; print('up'); sys.stdin.readline()"


class Host:
    """runc behind a link of its own, with an application, a run directory and maps that may be damaged."""

    def __init__(self, directory: Path, pins: Path, runc: Runc) -> None:
        self.directory, self.pins, self.runc = directory, pins, runc
        self.app, self.run = directory / "app", directory / "run"
        for package in ("bpf", "hooks", "identity"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(f"{FOLDER}/../{package}", self.app / package, ignore=ignored)
        self.adapter = Adapter(str(directory))
        self.options = Options(str(directory / "hook"), str(self.run))
        self.bundles = [("runc", f"{directory}/runc/*/state.json")]
        make_maps(pins)
        self.run.mkdir(mode=0o700)
        root = runc.cgroup_root.strip("/")
        (self.run / "hook").write_text(f"pin_directory {pins}\nengine_roots {root}\n", encoding="ascii")

    def registration(self) -> Registration:
        def find(options: Options, engine: str) -> Sequence[Reference]:
            return references.find(options, engine, [], self.bundles)

        return Registration([self.adapter], self.options, find, print, print)

    def start(self, name: str) -> Container:
        container = self.runc.run(name, WAIT)
        container.await_line("up")
        return container

    def look(self) -> tuple[Status, dict[str, Running]]:
        found = status.look(self.options, [self.adapter], "auto", [], self.bundles)
        return found, {one.container.container_id: one for one in found.containers}


@pytest.fixture
def host(tmp_path: Path, pin_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    if shutil.which("runc") is None:
        pytest.skip("needs runc")
    path = f"{tmp_path}/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    for name in ("usr/local/sbin", "etc"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/login.defs").write_text(f"ENV_SUPATH PATH={path}\n", encoding="ascii")
    monkeypatch.setenv("PATH", path)
    with Runc(tmp_path, f"/flowtag-status-{os.getpid()}") as runc:
        made = Host(tmp_path, pin_directory, runc)
        monkeypatch.setattr(register, "APPLICATION", str(made.app))
        yield made


def fill(pins: Path, name: str) -> None:
    with open_map(name, str(pins)) as keys:
        for number in range(1, 10_000):
            try:
                keys.update(entry(number), bytes(keys.value_size))
            except OSError:
                return
    raise AssertionError(f"{name} has room for everything")


def test_why_containers_have_no_identity(host: Host) -> None:
    host.start("before")
    found, running = host.look()
    assert (running["before"].container.state, running["before"].reason) == (
        census.NONE,
        why.NOT_REGISTERED,
    )
    assert [line for line in found.problems if not line.startswith("maps:")] == []

    assert host.registration().register("runc")
    hooked = host.start("hooked")
    installed.disable(host.options.hook_directory)
    host.start("disabled")
    found, _ = host.look()
    assert "hook: disabled: flowtag enable" in found.problems
    installed.enable(host.options.hook_directory)

    main = host.app / "hooks/main.py"
    text = main.read_text(encoding="ascii")
    main.write_text("raise SystemExit(3)\n", encoding="ascii")
    host.start("crashed")
    main.write_text(text, encoding="ascii")

    host.start("last")
    fill(host.pins, "ft_cgroup")
    host.start("full")

    found, running = host.look()
    states = {name: (one.container.state, one.reason) for name, one in running.items()}
    assert states["before"] == (census.NONE, why.BEFORE)
    assert states["hooked"] == states["last"] == (census.HOOK, "")
    assert states["crashed"] == (census.NONE, "hook failed: status 3")
    assert states["full"][0] == census.PENDING
    assert states["full"][1].startswith("hook could not write: ")
    assert "ft_cgroup" in states["full"][1]
    assert states["disabled"] == (census.NONE, why.UNKNOWN)  # the switch that would tell is gone
    assert {one.container for one in found.needed_by} == {"hooked", "crashed", "last", "full"}
    assert all(one.running for one in found.needed_by)
    assert "hook runs: 1 of the last 8 failed" in found.problems
    assert "containers: 1 identity could not be written: flowtag run writes it" in found.problems
    assert running["hooked"].container.pid == hooked.pid
    json.dumps(status_text.document(found))
    assert any("crashed" in line and "status 3" in line for line in status_text.text(found))


def test_reason_while_the_switch_is_set(host: Host) -> None:
    assert host.registration().register("runc")
    installed.disable(host.options.hook_directory)
    host.start("web")
    _, running = host.look()
    assert running["web"].reason == why.DISABLED


def test_container_outside_every_root_is_found_by_its_process(host: Host) -> None:
    """As plain `runc run` makes them: its cgroup's name says nothing, runc's state does."""
    (host.run / "hook").write_text(f"pin_directory {host.pins}\n", encoding="ascii")
    container = host.start("web")
    _, running = host.look()
    assert running["web"].container.cgroup == container.cgroup
    assert running["web"].container.state == census.NONE
    assert host.registration().register("runc")
    host.start("other")
    _, running = host.look()
    assert running["other"].container.state == census.HOOK


def test_command_says_it_in_json_and_in_its_exit_code(host: Host) -> None:
    assert host.registration().register("runc")
    host.start("web")
    words = [
        *("status", "--runtime", "runc", "--file", str(host.directory / "usr/local/sbin/runc")),
        *("--hook-directory", host.options.hook_directory, "--run-directory", str(host.run)),
    ]
    done = subprocess.run([COMMAND, *words, "--json"], capture_output=True, text=True, check=False)
    shown = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert shown["healthy"] is False
    assert any("maps: 7 of 11" in line for line in shown["problems"])
    assert [one["name"] for one in shown["engines"]] == ["runc"]
    (web,) = (one for one in shown["containers"]["running"] if one["container_id"] == "web")
    assert (web["state"], web["reason"]) == (census.HOOK, "")
    # runc's --root is its caller's; the hook's memory tells who still needs the stub.
    assert [one["container_id"] for one in shown["needed_by"] if one["container_id"] == "web"] == ["web"]
