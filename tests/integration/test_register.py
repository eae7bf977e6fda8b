# SPDX-License-Identifier: Apache-2.0
"""register and unregister on configuration files: order, repetition, what stays while it is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flowtag
from bpf.error import FlowtagError
from hooks import installed, register
from hooks.register import choose
from hooks.runtime import Options
from hooks.runtimes import dockerd
from tests.integration.registering import Host
from tests.rig.exporter import COMMAND


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "root")


def broken_test(directory: str) -> None:
    raise FlowtagError("checking the hook: it does not work")


def test_register_dry_run_writes_nothing(host: Host) -> None:
    before = host.tree()
    assert host.registration().register("docker", dry_run=True)
    assert '+    "default-runtime": "flowtag"' in host.text()
    assert host.tree() == before
    assert not host.hook.exists()


def test_register_twice_changes_nothing_and_says_so(host: Host) -> None:
    for name in ("docker", "runc"):
        assert host.registration().register(name), host.complaints
    before, when = host.tree(), host.daemon_json.stat().st_ctime_ns
    for name in ("docker", "runc"):
        assert host.registration().register(name)
        assert host.said[-1] == f"{name}: registered already, nothing changed"
    assert host.tree() == before
    assert host.daemon_json.stat().st_ctime_ns == when


def test_register_stub_that_does_not_work_writes_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before = host.tree()
    monkeypatch.setattr(register, "self_test", broken_test)
    with pytest.raises(FlowtagError, match="does not work"):
        host.registration().register("docker")
    assert host.tree() == before


def test_register_hook_directory_that_does_not_work_tells_no_engine(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def test(directory: str) -> None:
        if directory == str(host.hook):
            broken_test(directory)

    monkeypatch.setattr(register, "self_test", test)
    assert not host.registration().register("docker")
    assert not host.daemon_json.exists()


def test_register_auto_does_the_others_where_one_is_refused(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.podman, "found", lambda options: "here")
    host.daemon_json.write_text('{"default-runtime": "nvidia"}', encoding="utf-8")
    assert not host.registration().register("auto")
    assert ["nvidia" in str(error) for error in host.complaints] == [True]
    assert host.complaints[0].hint
    assert len(list(host.hooks_d.glob("flowtag-*.json"))) == 2
    assert not host.link.is_symlink()  # plain runc only where there is no engine


def test_choose_runc_only_where_there_is_no_engine(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for adapter in (host.docker, host.podman, host.crio):
        monkeypatch.setattr(adapter, "found", lambda options: "")
    assert choose(host.adapters, "auto", host.options) == [host.runc]
    monkeypatch.setattr(host.runc, "found", lambda options: "")
    for name in ("auto", "docker"):
        with pytest.raises(FlowtagError, match="looking for"):
            choose(host.adapters, name, host.options)


def test_register_engines_with_different_runtimes(host: Host, tmp_path: Path) -> None:
    other = tmp_path / "runc"
    other.write_text("#!/bin/sh\n", encoding="ascii")
    other.chmod(0o755)
    installed.install(str(host.hook), register.APPLICATION, str(other))
    assert not host.registration().register("docker")
    assert "for another engine" in str(host.complaints[0])
    assert not host.daemon_json.exists()


def container(host: Host, name: str) -> Path:
    """A container of Docker's that was made with the runtime."""
    directory = host.root / "var/lib/docker/containers" / ("c0ffee" + name)
    directory.mkdir(parents=True)
    (directory / "hostconfig.json").write_text('{"Runtime": "flowtag"}', encoding="ascii")
    (directory / "config.v2.json").write_text(f'{{"Name": "/{name}"}}', encoding="ascii")
    return directory


def test_unregister_keeps_what_containers_need(host: Host) -> None:
    host.daemon_json.write_text('{\n\t"debug": true\n}', encoding="ascii")
    before = host.tree()
    assert host.registration().register("docker")
    backup = host.daemon_json.with_name("daemon.json.flowtag-backup")
    assert backup.read_bytes() == before["etc/docker/daemon.json"]
    directory = container(host, "web")
    assert host.registration().unregister("docker")
    assert json.loads(host.daemon_json.read_bytes()) == {
        "debug": True,
        "runtimes": {"flowtag": {"path": f"{host.hook}/flowtag-runc"}},
        "default-runtime": "runc",
    }
    assert "docker container web" in host.text()
    assert os.access(host.hook / "flowtag-runc", os.X_OK)
    for file in directory.iterdir():
        file.unlink()
    assert host.registration().unregister("docker")
    assert host.said[-1] == f"removed {host.hook}"
    assert host.tree() == before


def test_unregister_keeps_what_the_running_dockerd_needs(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not read its file again: new containers would miss entry and wrapper."""
    assert host.registration().register("docker")
    wrapper = f"{host.hook}/flowtag-runc"
    running = dockerd.Info("flowtag", {"flowtag": wrapper, "runc": "runc"}, "", "Debian", False)
    monkeypatch.setattr(dockerd, "ask", lambda path: running)
    assert host.registration().unregister("docker")
    document = json.loads(host.daemon_json.read_bytes())
    assert document == {"runtimes": {"flowtag": {"path": wrapper}}, "default-runtime": "runc"}
    assert "docker uses it until `systemctl reload docker`" in host.said[-1]
    assert os.access(wrapper, os.X_OK)
    monkeypatch.setattr(dockerd, "ask", lambda path: running._replace(default_runtime="runc"))
    assert host.registration().unregister("docker")
    assert not host.daemon_json.exists()
    assert not host.hook.exists()


def test_unregister_one_engine_keeps_the_hook_for_the_other(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.podman, "found", lambda options: "here")
    for name in ("docker", "podman"):
        assert host.registration().register(name), host.complaints
    assert host.registration().unregister("podman")
    assert "docker is registered" in host.said[-1]
    assert (host.hook / "flowtag-hook").exists()
    assert not list(host.hooks_d.glob("flowtag-*"))
    assert host.registration().unregister("auto")
    assert not host.hook.exists()


def test_unregister_says_that_an_engine_shares_the_directory(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    for adapter in (host.podman, host.crio):
        monkeypatch.setattr(adapter, "found", lambda options: "here")
    assert host.registration().register("podman")
    assert host.registration().register("crio")
    assert host.said[-1] == "crio: registered already, nothing changed"
    assert host.registration().unregister("podman")
    assert f"crio reads {host.hooks_d} too" in host.said[0]


def test_unregister_keeps_the_hook_for_bundles(host: Host) -> None:
    assert host.registration().register("runc"), host.complaints
    bundle = host.root / "run/containerd/io.containerd.runtime.v2.task/k8s.io/c1"
    bundle.mkdir(parents=True)
    hooks = {"poststop": [{"path": f"{host.hook}/flowtag-hook"}]}
    (bundle / "config.json").write_text(json.dumps({"hooks": hooks}), encoding="ascii")
    state = host.root / "run/runc/c2"
    state.mkdir(parents=True)
    (state / "state.json").write_text(json.dumps({"config": {"Hooks": hooks}}), encoding="ascii")
    assert host.registration().unregister("runc")
    assert "containerd container c1" in host.text()
    assert "runc container c2" in host.text()
    assert host.hook.exists()
    assert not host.link.is_symlink()


def test_unregister_nothing(host: Host) -> None:
    before = host.tree()
    assert host.registration().unregister("auto")
    assert host.tree() == before


def flowtag_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "flowtag", *arguments], capture_output=True, text=True, check=False
    )


def test_command_podman_with_a_directory(tmp_path: Path) -> None:
    hook, hooks_d = tmp_path / "hook", tmp_path / "hooks.d"
    common = ("--runtime", "podman", "--file", str(hooks_d), "--hook-directory", str(hook))
    assert flowtag_command("register", *common, "--dry-run").returncode == 0
    assert not hook.exists()
    done = flowtag_command("register", *common)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(os.listdir(hooks_d)) == 2
    assert flowtag_command("disable", "--hook-directory", str(hook)).stdout.startswith("disabled:")
    assert "`flowtag enable`" in flowtag_command("register", *common).stdout
    assert flowtag_command("enable", "--hook-directory", str(hook)).stdout.startswith("enabled:")
    assert flowtag_command("unregister", *common).returncode == 0
    assert os.listdir(hooks_d) == []
    assert not hook.exists()


def test_command_refused_says_why_and_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text('{"default-runtime": "nvidia"}', encoding="ascii")
    done = flowtag_command(
        *("register", "--runtime", "docker", "--file", str(file), "--hook-directory", str(tmp_path / "hook"))
    )
    assert done.returncode == 1
    assert done.stderr.startswith("flowtag: registering with docker: ")
    assert "\nhint: " in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["register", "--file", "/etc/docker/daemon.json"],
        ["register", "--runtime", "lxc"],
        ["register", "--runtime", "docker", "--print"],
        ["register", "--runtime", "docker", "--file", "relative"],
        ["unregister", "--hook-directory", "relative"],
        ["unregister", "--print"],
        ["disable", "--runtime", "docker"],
    ],
)
def test_command_used_wrongly(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert flowtag.main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


def test_print_names_the_hook_directory_once_it_is_there(tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    common = ("register", "--runtime", "runc", "--print", "--hook-directory", str(hook))
    assert str(hook) not in flowtag_command(*common).stdout
    installed.install(str(hook), register.APPLICATION)
    printed = json.loads(flowtag_command(*common).stdout)
    assert [entry["path"] for (entry,) in printed.values()] == [f"{hook}/flowtag-hook"] * 2
    assert Options().hook_directory not in str(printed)


def test_register_dry_run_refuses_what_the_real_one_refuses(host: Host) -> None:
    """And nothing is left of either."""
    host.daemon_json.parent.mkdir(parents=True, exist_ok=True)
    host.daemon_json.write_text("{}", encoding="ascii")
    host.daemon_json.chmod(0o666)
    for dry_run in (True, False):
        assert not host.registration().register("docker", dry_run=dry_run)
        assert "others than root can change" in str(host.complaints[-1])
    assert not host.hook.exists()


def test_register_file_in_a_directory_that_is_not_there(host: Host) -> None:
    host.options = host.options._replace(file=f"{host.root}/no/such/daemon.json")
    assert not host.registration().register("docker")
    assert "does not exist" in str(host.complaints[-1])
    assert not (host.root / "no").exists()


def test_unregister_keeps_what_a_named_file_still_needs(host: Host, tmp_path: Path) -> None:
    """A file that --file named is found by nothing else."""
    usual, named = host.options, tmp_path / "named.json"
    host.options = usual._replace(file=str(named))
    assert host.registration().register("docker"), host.complaints
    host.options = usual
    assert host.registration().register("runc"), host.complaints
    assert host.registration().unregister("runc")
    assert host.hook.exists()
    assert str(named) in host.said[-1]
    host.options = usual._replace(file=str(named))
    assert host.registration().unregister("docker")
    assert not host.hook.exists()
    assert not named.exists()


@pytest.mark.parametrize("command", ["register", "unregister"])
def test_reader_that_goes_keeps_no_change_from_being_made(host: Host, command: str) -> None:
    hooks_d = host.root / "hooks.d"
    hooks_d.mkdir()
    if command == "unregister":
        host.options = host.options._replace(file=str(hooks_d))
        assert host.registration().register("podman"), host.complaints
    words = ["--runtime", "podman", "--file", str(hooks_d), "--hook-directory", str(host.hook)]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([COMMAND, command, *words], stdout=writing, stderr=writing, check=False)
    os.close(writing)
    assert done.returncode == 0
    assert len(list(hooks_d.iterdir())) == (2 if command == "register" else 0)
