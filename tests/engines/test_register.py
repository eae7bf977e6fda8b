# SPDX-License-Identifier: Apache-2.0
"""`flowtag register` and `unregister` with real engines: what runs in between carries its identity."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bpf.error import FlowtagError
from hooks import edit, installed, references
from hooks.register import Registration
from hooks.runtime import Options, Reference, Runtime
from hooks.runtimes import hooks_d
from hooks.runtimes.docker import Docker as DockerAdapter
from hooks.runtimes.podman import Podman as PodmanAdapter
from hooks.runtimes.runc import Runc as RuncAdapter
from tests.engines import scenarios
from tests.engines.site import Site
from tests.rig.container import Runc
from tests.rig.docker import Docker
from tests.rig.exporter import ROOT
from tests.rig.leavings import scratch, sweep
from tests.rig.podman import Podman
from tests.rig.puppet import Puppet
from tests.rig.wrapper import make_wrapper

WAIT = "import sys; print('up'); sys.stdin.readline()"
Find = Callable[[Options, str], Sequence[Reference]]


class Command:
    """register and unregister of one engine with its own files, and what they say."""

    def __init__(self, site: Site, adapter: Runtime, find: Find, **options: str) -> None:
        self.options = Options(str(site.hook_directory), str(site.run), **options)
        self.adapter, self.find, self.said = adapter, find, [""]
        self.complaints: list[FlowtagError] = []

    def __call__(self, command: str, reload: bool = False) -> str:
        """What it said; AssertionError if something could not be done."""
        self.said, self.complaints = [], []
        registration = Registration(
            [self.adapter], self.options, self.find, self.said.append, self.complaints.append
        )
        assert getattr(registration, command)(self.adapter.name, reload=reload), self.complaints
        return "\n".join(self.said)


@pytest.mark.usefixtures("kernel")
def test_docker_in_and_out(tmp_path: Path, pin_directory: Path) -> None:
    with Docker() as engine, Site(tmp_path, pin_directory, engine.cgroup_root) as site:

        def find(options: Options, name: str) -> list[Reference]:
            return references.find(options, name, bundles=())

        command = Command(site, DockerAdapter(), find, socket=str(engine.socket))
        before = engine.config.read_bytes()
        assert "systemctl reload docker" in command("register")
        assert command.adapter.state(command.options).effective is False
        assert "in force" in command("register", reload=True)
        assert command.adapter.state(command.options)[:3] == (True, True, "")
        assert command("register", reload=True) == "docker: registered already, nothing changed"
        scenarios.containers(site, engine, engine.restart)

        old = Puppet(engine.directory / "puppets", "old")
        engine.run("old", old)
        said = command("unregister")
        assert f"kept {site.hook_directory}: docker uses it until `systemctl reload docker`" in said
        engine.run("between", Puppet(engine.directory / "puppets", "between"))
        said = command("unregister", reload=True)
        assert "docker container old" in said
        assert "docker container between" in said
        new = Puppet(engine.directory / "puppets", "new")
        engine.run("new", new)
        assert engine.inspect("new")["HostConfig"]["Runtime"] == "runc"
        engine.restart()
        engine.command("stop", "--time", "1", "old")
        engine.command("start", "old")
        old.await_up()
        engine.command("rm", "--force", "old", "between")
        assert command("unregister").endswith(f"removed {site.hook_directory}")
        assert engine.config.read_bytes() == before
        engine.reload()
        engine.command("restart", "--time", "1", "new")
        engine.restart()


@pytest.mark.usefixtures("kernel")
def test_docker_flag_that_clashes_is_what_dockerd_refuses(tmp_path: Path) -> None:
    with Docker() as engine:
        engine.stop()
        engine.daemon.argv += ["--default-runtime", "runc"]
        engine.start()
        options = Options(str(tmp_path / "hook"), socket=str(engine.socket))
        with pytest.raises(FlowtagError, match="--default-runtime runc") as caught:
            DockerAdapter().register(options)
        assert "daemon.json" in caught.value.hint
        engine.settings["default-runtime"] = "runc"
        engine.write_config()
        engine.stop()
        with pytest.raises(AssertionError, match="specified both as a flag and in the configuration file"):
            engine.start()


@pytest.mark.usefixtures("kernel")
def test_podman_in_and_out(tmp_path: Path, pin_directory: Path) -> None:
    with Podman() as engine, Site(tmp_path, pin_directory, engine.cgroup_root) as site:

        def find(options: Options, name: str) -> list[Reference]:
            here = engine.directory
            patterns = [
                ("podman", f"{here}/{place}/*-containers/*/userdata/config.json") for place in ("run", "root")
            ]
            return references.find(options, name, [], patterns)

        command = Command(site, PodmanAdapter(), find, file=str(engine.hooks))
        command("register")
        assert command("register") == "podman: registered already, nothing changed"
        assert command.adapter.state(command.options).effective
        scenarios.containers(site, engine, None)

        old = Puppet(engine.directory / "puppets", "old")
        container = engine.run("old", old)
        assert "podman container old" in command("unregister")
        assert list(engine.hooks.iterdir()) == []
        site.await_identity(container)
        engine.command("stop", "--time", "1", "old")
        engine.command("start", "old")
        old.await_up()
        assert command("unregister").endswith(f"removed {site.hook_directory}")
        engine.command("restart", "--time", "1", "old")
        old.await_up()


@pytest.mark.usefixtures("kernel")
def test_podman_with_the_json_but_without_the_hook(tmp_path: Path, pin_directory: Path) -> None:
    """What an unregister would leave that removed the binary and was interrupted: hence the other order."""
    with Podman() as engine, Site(tmp_path, pin_directory, engine.cgroup_root) as site:
        Command(site, PodmanAdapter(), lambda *_: [], file=str(engine.hooks))("register")
        (site.hook_directory / "flowtag-hook").unlink()
        engine.run("web", Puppet(engine.directory / "puppets", "web"))
        hooks = json.loads(
            next(engine.directory.glob("root/*-containers/*/userdata/config.json")).read_bytes()
        )
        assert not hooks.get("hooks")  # podman skips what is not there


def test_podman_of_a_user_starts_with_the_hook(tmp_path: Path) -> None:
    """It reads the same hooks.d; the stub has no rights there, and fails nothing."""
    folder = scratch("ftu")
    try:
        for name in ("home", "run", "rootfs/bin", "hooks.d"):
            (folder / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", folder / "rootfs/bin/sh")
        installed.install(str(folder / "hook"), str(ROOT), "", str(folder / "hook-run"))
        for change in hooks_d.register(Options(str(folder / "hook")), str(folder / "hooks.d")):
            edit.apply(change, lambda *_: None)
        program = make_wrapper(
            folder, "runc", drop=["process.rlimits", "process.oomScoreAdj", "linux.resources"]
        )
        subprocess.run(
            ["chown", "-R", "nobody", *(folder / name for name in ("home", "run", "rootfs"))], check=True
        )
        folder.chmod(0o755)
        done = subprocess.run(
            [
                *("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"),
                *(
                    "env",
                    "-i",
                    f"HOME={folder}/home",
                    f"XDG_RUNTIME_DIR={folder}/run",
                    "PATH=/usr/sbin:/usr/bin",
                ),
                *(
                    "podman",
                    "--log-level",
                    "debug",
                    "--runtime",
                    str(program),
                    "--hooks-dir",
                    f"{folder}/hooks.d",
                ),
                *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"),
                *(
                    "run",
                    "--rm",
                    "--network",
                    "none",
                    "--rootfs",
                    f"{folder}/rootfs",
                    "/bin/sh",
                    "-c",
                    "echo hello",
                ),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr[-2000:]
        assert "flowtag-createRuntime.json" in done.stderr
    finally:
        sweep(folder)


@pytest.mark.usefixtures("kernel")
def test_runc_in_and_out(tmp_path: Path, pin_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "usr/local/sbin/runc"
    path = f"{link.parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/login.defs").write_text(f"ENV_SUPATH PATH={path}\n", encoding="ascii")
    monkeypatch.setenv("PATH", path)
    cgroup = "/flowtag-test-register-runc"
    with Runc(tmp_path, cgroup) as runc, Site(tmp_path, pin_directory, cgroup[1:]) as site:

        def find(options: Options, name: str) -> list[Reference]:
            return references.find(options, name, [], [("runc", f"{tmp_path}/**/state.json")])

        command = Command(site, RuncAdapter(str(tmp_path)), find)
        command("register")
        assert link.readlink() == site.hook_directory / "flowtag-runc"
        old = runc.run("old", WAIT)
        old.await_line("up")
        site.await_identity("old")
        command("unregister")
        assert not link.is_symlink()
        new = runc.run("new", WAIT)
        new.await_line("up")
        assert [one.workload.container_id for one in site.live()] == ["old"]
        old.say("\n")
        assert old.wait() == 0
        new.say("\n")
        assert new.wait() == 0
