# SPDX-License-Identifier: Apache-2.0
"""What the adapters plan, from configuration files: taken, left alone, refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bpf.error import FlowtagError
from hooks.runtime import Options
from hooks.runtimes import docker, dockerd, hooks_d, runc
from hooks.runtimes.crio import Crio
from hooks.runtimes.docker import Docker
from hooks.runtimes.podman import Podman
from hooks.runtimes.runc import Runc

OPTIONS = Options("/hook", "/run/flowtag")
INFO = dockerd.Info("runc", {"runc": "runc"}, "/var/lib/docker", "Debian", False)
WRAPPER = {"path": "/hook/flowtag-runc"}


def put(root: Path, path: str, text: str, mode: int = 0o644) -> Path:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    file.chmod(mode)
    return file


def planned(root: Path, text: str) -> dict[str, object]:
    put(root, docker.FILE, text)
    (change,) = Docker(str(root)).register(OPTIONS).changes
    document: dict[str, object] = json.loads(change.after or b"")
    return document


def test_docker_keeps_what_is_there(tmp_path: Path) -> None:
    document = planned(
        tmp_path, '{"runtimes": {"crun": {"path": "crun"}}, "default-runtime": "runc", "debug": true}'
    )
    assert list(document) == ["runtimes", "default-runtime", "debug"]
    assert document["runtimes"] == {"crun": {"path": "crun"}, "flowtag": WRAPPER}
    assert document["default-runtime"] == "flowtag"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"default-runtime": "nvidia"}', "nvidia, somebody else's"),
        ('{\n  "debug": true,\n}', r"daemon\.json: .*line \d"),
        ('{"runtimes": []}', "no object"),
        ('{"debug": true, "debug": false}', "twice"),
    ],
)
def test_docker_refuses(tmp_path: Path, text: str, said: str) -> None:
    put(tmp_path, docker.FILE, text)
    with pytest.raises(FlowtagError, match=said) as caught:
        Docker(str(tmp_path)).register(OPTIONS)
    assert caught.value.hint or "no object" in said


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (INFO._replace(rootless=True), "rootless"),
        (INFO._replace(system="Docker Desktop"), "virtual machine"),
        (INFO._replace(default_runtime="sysbox-runc"), "sysbox-runc, somebody else's"),
    ],
)
def test_docker_refuses_by_what_dockerd_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: dockerd.Info, said: str
) -> None:
    monkeypatch.setattr(dockerd, "ask", lambda _: info)
    with pytest.raises(FlowtagError, match=said) as caught:
        Docker(str(tmp_path)).register(OPTIONS)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--default-runtime", "runc"], "--default-runtime runc"),
        (["--add-runtime=kata=/usr/bin/kata"], "--add-runtime kata="),
    ],
)
def test_docker_refuses_flags_that_clash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    daemon = dockerd.Daemon(1, tuple(arguments), "/usr/sbin", "/usr/sbin/dockerd")
    monkeypatch.setattr(dockerd, "of_pid_file", lambda _: daemon)
    with pytest.raises(FlowtagError, match=said) as caught:
        Docker(str(tmp_path)).register(OPTIONS)
    assert "daemon.json" in caught.value.hint


def test_docker_takes_the_file_that_dockerd_was_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put(tmp_path, "/opt/d.json", "{}")
    daemon = dockerd.Daemon(1, ("--config-file", str(file)), "/usr/sbin", "/usr/sbin/dockerd")
    monkeypatch.setattr(dockerd, "of_pid_file", lambda _: daemon)
    assert Docker(str(tmp_path)).register(OPTIONS).changes[0].path == str(file)
    with pytest.raises(FlowtagError, match="was started with --config-file"):
        Docker(str(tmp_path)).register(OPTIONS._replace(file="/etc/other.json"))


def test_docker_refuses_a_snap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    put(tmp_path, "/var/snap/docker/current/config/daemon.json", "{}")
    assert Docker(str(tmp_path)).found(OPTIONS)
    with pytest.raises(FlowtagError, match="snap"):
        Docker(str(tmp_path)).register(OPTIONS)


def test_docker_refuses_when_there_is_only_a_rootless_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "/run/user/1000/docker.sock", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Docker(str(tmp_path)).found(OPTIONS).endswith("1000/docker.sock")
    with pytest.raises(FlowtagError, match="rootless"):
        Docker(str(tmp_path)).register(OPTIONS)


REGISTERED = '{"runtimes": {"flowtag": {"path": "/hook/flowtag-runc"}}, "default-runtime": "flowtag"}'


@pytest.mark.parametrize(
    ("backup", "referring", "after"),
    [
        ("{}", False, {}),
        ("{}", True, {"runtimes": {"flowtag": WRAPPER}, "default-runtime": "runc"}),
        ('{"default-runtime": "io.containerd.runc.v2"}', False, {"default-runtime": "io.containerd.runc.v2"}),
        ('{"default-runtime": "runc"}', False, {"default-runtime": "runc"}),
        ('{"runtimes": {}}', False, {"runtimes": {}}),
    ],
)
def test_docker_unregister_gives_back_what_was(
    tmp_path: Path, backup: str, referring: bool, after: dict[str, object]
) -> None:
    put(tmp_path, docker.FILE, REGISTERED)
    put(tmp_path, docker.FILE + ".flowtag-backup", backup)
    (change,) = Docker(str(tmp_path)).unregister(OPTIONS, referring).changes
    assert json.loads(change.after or b"") == after


def test_docker_unregister_removes_the_file_that_it_made(tmp_path: Path) -> None:
    put(tmp_path, docker.FILE, REGISTERED)
    assert Docker(str(tmp_path)).unregister(OPTIONS, False).changes[0].after is None


def test_docker_unregister_leaves_a_stranger_alone(tmp_path: Path) -> None:
    put(tmp_path, docker.FILE, '{"default-runtime": "runc"}')
    assert not Docker(str(tmp_path)).unregister(OPTIONS, False).changes
    put(tmp_path, docker.FILE, '{"default-runtime": "nvidia", "runtimes": {"nvidia": {"path": "n"}}}')
    assert not Docker(str(tmp_path)).unregister(OPTIONS, False).changes


@pytest.mark.parametrize("text", ['{"default-runtime": "flowtag"}', REGISTERED, "{}"])
def test_docker_state_without_a_daemon(tmp_path: Path, text: str) -> None:
    put(tmp_path, docker.FILE, text)
    state = Docker(str(tmp_path)).state(OPTIONS)
    assert state.effective is None
    assert state.registered == (text == REGISTERED)
    assert bool(state.problem) == (text == '{"default-runtime": "flowtag"}')


def test_docker_that_does_not_answer_still_needs_the_wrapper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have our default in memory, and starts nothing once the wrapper is gone."""
    put(tmp_path, docker.FILE, "{}")
    running = dockerd.Daemon(1, (), "/usr/bin", "/usr/bin/dockerd")
    monkeypatch.setattr(Docker, "daemon", lambda *_: running)
    options = Options(str(tmp_path / "hook"))
    assert Docker(str(tmp_path)).state(options).effective is False
    put(tmp_path, "/hook/flowtag-runc", "")
    state = Docker(str(tmp_path)).state(options)
    assert (state.registered, state.effective, state.restart) == (False, True, docker.RELOAD)
    assert "does not answer" in state.problem


def test_dockerd_of_pid_is_no_other_process() -> None:
    assert dockerd.of_pid(os.getpid()) is None
    assert dockerd.of_pid_file("/nowhere/docker.pid") is None


def test_dockerd_flag_the_last_one_counts() -> None:
    daemon = dockerd.Daemon(1, ("-p", "/a", "--debug", "--pidfile=/b", "x", "--log-level"), "", "")
    assert daemon.flag("pidfile", "p") == "/b"
    assert daemon.flag("log-level") == ""
    assert daemon.flag("x") == ""


def test_podman_writes_where_it_reads(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert Podman(root).directories(OPTIONS) == [root + hooks_d.DISTRIBUTION]
    put(tmp_path, "/etc/containers/containers.conf", '[engine]\nhooks_dir = ["/a", "/b"]\n')
    assert Podman(root).register(OPTIONS).changes[0].path == f"{root}/b/flowtag-poststop.json"
    put(
        tmp_path,
        "/etc/containers/containers.conf.d/10-x.conf",
        f'[engine]\nhooks_dir = ["{hooks_d.ADMINISTRATOR}", {{append = true}}]\n',
    )
    put(tmp_path, "/etc/containers/containers.conf.d/20-x.conf.bak", "[engine]\nhooks_dir = []\n")
    assert Podman(root).directories(OPTIONS) == [root + path for path in ("/a", "/b", hooks_d.ADMINISTRATOR)]
    put(
        tmp_path,
        "/etc/containers/containers.conf.d/20-x.conf",
        f'[engine]\nhooks_dir = ["{hooks_d.ADMINISTRATOR}", "/z"]\n',
    )
    assert Podman(root).register(OPTIONS).changes[0].path.startswith(root + hooks_d.ADMINISTRATOR)


@pytest.mark.parametrize(
    ("text", "said"), [("[engine]\nhooks_dir = []\n", "is empty"), ("[engine\n", "reading")]
)
def test_podman_refuses(tmp_path: Path, text: str, said: str) -> None:
    put(tmp_path, "/etc/containers/containers.conf", text)
    with pytest.raises(FlowtagError, match=said) as caught:
        Podman(str(tmp_path)).register(OPTIONS)
    assert caught.value.hint


def test_crio_reads_its_drop_ins(tmp_path: Path) -> None:
    root = str(tmp_path)
    put(tmp_path, "/etc/crio/crio.conf", '[crio.runtime]\nhooks_dir = ["/a"]\n')
    put(tmp_path, "/etc/crio/crio.conf.d/10-crun.conf", '[crio.runtime]\ndefault_runtime = "crun"\n')
    assert Crio(root).directories(OPTIONS) == [root + "/a"]
    assert Crio(root).found(OPTIONS)
    assert Crio(root).register(OPTIONS).then  # it does not watch a directory that was not there
    (tmp_path / "a").mkdir()
    assert not Crio(root).register(OPTIONS).then


def test_hooks_d_is_what_the_format_asks(tmp_path: Path) -> None:
    changes = hooks_d.register(OPTIONS._replace(run_directory="/r"), str(tmp_path))
    assert [os.path.basename(change.path) for change in changes] == [
        "flowtag-poststop.json",
        "flowtag-createRuntime.json",
    ]
    for change, event in zip(changes, ("poststop", "createRuntime"), strict=True):
        document = json.loads(change.after or b"")
        assert document["version"] == "1.0.0"
        assert document["when"] == {"always": True}
        assert document["stages"] == [event]
        assert document["hook"]["args"] == ["/hook/flowtag-hook", event, "/r"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"version": "1.0.0"}',
        '{"version": "1.0.0", "hook": {"path": "x"}, "when": {"always": true}, "stages": ["a"]}',
    ],
)
def test_hooks_d_broken_json_never_counts(tmp_path: Path, text: str) -> None:
    change = hooks_d.register(OPTIONS, str(tmp_path))[0]
    with pytest.raises(FlowtagError, match="checking the new"):
        hooks_d.validate(change, str(put(tmp_path, "temporary", text)))


def test_hooks_d_unregister_begins_with_what_begins(tmp_path: Path) -> None:
    for change in hooks_d.register(OPTIONS, str(tmp_path)):
        Path(change.path).write_bytes(change.after or b"")
    paths = [change.path for change in hooks_d.unregister(OPTIONS, [str(tmp_path)]).changes]
    assert paths == [hooks_d.file_of(str(tmp_path), event) for event in ("createRuntime", "poststop")]


def test_hooks_d_unregister_leaves_another_installation_alone(tmp_path: Path) -> None:
    for change in hooks_d.register(OPTIONS._replace(hook_directory="/other"), str(tmp_path)):
        Path(change.path).write_bytes(change.after or b"")
    assert not hooks_d.unregister(OPTIONS, [str(tmp_path)]).changes
    assert not hooks_d.state(OPTIONS, [str(tmp_path)]).registered


def runc_host(root: Path, path: str) -> Runc:
    put(root, "/etc/login.defs", f"# comment\nENV_SUPATH\tPATH={path}\n")
    put(root, "/sbin/runc", "#!/bin/sh\n", 0o755)
    return Runc(str(root))


def test_runc_link_before_the_real_one(tmp_path: Path) -> None:
    adapter = runc_host(tmp_path, f"{tmp_path}/usr/local/sbin:{tmp_path}/sbin")
    plan = adapter.register(OPTIONS)
    assert plan.wraps == f"{tmp_path}/sbin/runc"
    (change,) = plan.changes
    assert (change.path, change.after) == (f"{tmp_path}{runc.LINK}", b"/hook/flowtag-runc")
    assert change.link


def test_runc_refuses(tmp_path: Path) -> None:
    local, sbin = f"{tmp_path}/usr/local/sbin", f"{tmp_path}/sbin"
    for path in (f"{sbin}:{local}", sbin):
        with pytest.raises(FlowtagError, match="does not come before") as caught:
            runc_host(tmp_path, path).register(OPTIONS)
        assert "/hook/flowtag-runc" in caught.value.hint
    with pytest.raises(FlowtagError, match="PATH holds no runc"):
        runc_host(tmp_path, local).register(OPTIONS)
    put(tmp_path, runc.LINK, "a program")
    with pytest.raises(FlowtagError, match="not a link"):
        runc_host(tmp_path, f"{local}:{sbin}").register(OPTIONS)
    (tmp_path / runc.LINK.lstrip("/")).unlink()
    (tmp_path / runc.LINK.lstrip("/")).symlink_to("/opt/runc")
    with pytest.raises(FlowtagError, match="leads to /opt/runc"):
        runc_host(tmp_path, f"{local}:{sbin}").register(OPTIONS)
    assert not runc_host(tmp_path, f"{local}:{sbin}").unregister(OPTIONS, False).changes


def test_real_runc_is_never_the_wrapper(tmp_path: Path) -> None:
    hook = put(tmp_path, "/hook/flowtag-runc", "#!/bin/sh\n", 0o755)
    (tmp_path / "local").mkdir()
    (tmp_path / "local/runc").symlink_to(hook)
    put(tmp_path, "/sbin/runc", "#!/bin/sh\n", 0o755)
    path = f"{tmp_path}/local:relative::{tmp_path}/sbin/"
    assert runc.real(path, f"{tmp_path}/hook") == f"{tmp_path}/sbin/runc"
    assert runc.real(path, f"{tmp_path}/hook", f"{tmp_path}/local/runc") == ""
    assert runc.real(path, f"{tmp_path}/hook", f"{tmp_path}/sbin/runc") == f"{tmp_path}/sbin/runc"
