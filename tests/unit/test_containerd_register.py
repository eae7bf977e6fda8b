# SPDX-License-Identifier: Apache-2.0
"""containerd without containerd: what real dumps say, what is refused, who still refers to the hook."""

from __future__ import annotations

import copy
import json
import os
import socket
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bpf.error import FlowtagError
from hooks.bundles import every
from hooks.runtime import Options, State
from hooks.runtimes import containerd as adapter
from hooks.runtimes import containerd_cri as cri
from hooks.runtimes import containerd_engine, containerd_site
from hooks.runtimes.containerd_config import without_zeros
from hooks.runtimes.containerd_engine import Engine, comparable, difference
from hooks.runtimes.containerd_spec import check_spec

FIXTURES = Path(__file__).parent / "fixtures" / "containerd"
VERSIONS = ("1.6", "1.7", "2.1")
WRAPPER = "/var/lib/flowtag/hook/flowtag-runc"
SPEC = "/etc/containerd/flowtag-base-spec.json"


@pytest.fixture(params=VERSIONS)
def dump(request: pytest.FixtureRequest) -> dict[str, Any]:
    return tomllib.loads((FIXTURES / f"dump-{request.param}.toml").read_text(encoding="utf-8"))


def handlers(dump: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = dump["plugins"][cri.section_of_dump(dump)]["containerd"]["runtimes"]
    return found


def choose(dump: dict[str, Any], method: str = cri.WRAPPER) -> cri.Choice:
    return cri.choose(dump, method, WRAPPER if method == cri.WRAPPER else SPEC)


@pytest.mark.parametrize("method", [cri.WRAPPER, cri.BASE])
def test_choose_of_defaults_is_runc(dump: dict[str, Any], method: str) -> None:
    choice = choose(dump, method)
    assert list(choice.entries) == ["runc"]
    assert choice.notes == ()


def test_choose_puts_default_first_and_notes_who_is_left_alone(dump: dict[str, Any]) -> None:
    runtimes = handlers(dump)
    for name in ("a-slow", "crun", "kata"):
        runtimes[name] = copy.deepcopy(runtimes["runc"])
    runtimes["crun"]["options"]["BinaryName"] = "/usr/bin/crun"
    runtimes["kata"]["runtime_type"] = "io.containerd.kata.v2"
    choice = choose(dump)
    assert list(choice.entries) == ["runc", "a-slow"]
    assert [note.split("'")[1] for note in choice.notes] == ["crun", "kata"]
    # A runtime that runs hooks from the specification is no obstacle to a base spec.
    assert list(choose(dump, cri.BASE).entries) == ["runc", "a-slow", "crun"]


@pytest.mark.parametrize(
    ("method", "key", "value", "hint"),
    [
        (cri.WRAPPER, "BinaryName", "/usr/bin/nvidia-container-runtime", "--method base-spec"),
        (cri.WRAPPER, "base_runtime_spec", SPEC, "unregister --runtime containerd --method base-spec"),
        (cri.BASE, "base_runtime_spec", "/etc/containerd/limits.json", "--method wrapper"),
        (cri.BASE, "BinaryName", WRAPPER, "unregister --runtime containerd --method wrapper"),
    ],
)
def test_choose_refuses_default_that_is_taken(
    dump: dict[str, Any], method: str, key: str, value: str, hint: str
) -> None:
    runc = handlers(dump)["runc"]
    (runc["options"] if key == "BinaryName" else runc)[key] = value
    with pytest.raises(FlowtagError, match="default runtime 'runc'") as caught:
        choose(dump, method)
    assert hint in caught.value.hint


def test_choose_with_cri_off_is_refused(dump: dict[str, Any]) -> None:
    dump["disabled_plugins"] = ["io.containerd.grpc.v1.cri"]
    with pytest.raises(FlowtagError, match="CRI plugin is off"):
        choose(dump)


def test_choose_with_deprecated_default_runtime_is_refused(dump: dict[str, Any]) -> None:
    section = dump["plugins"][cri.section_of_dump(dump)]["containerd"]
    section["default_runtime"] = {"runtime_type": "io.containerd.runc.v2"}
    with pytest.raises(FlowtagError, match="default_runtime"):
        choose(dump)


@pytest.mark.parametrize("product", ["k3s", "rke2"])
def test_generated_file_is_refused_with_its_template(product: str) -> None:
    folder = f"/var/lib/rancher/{product}/agent/etc/containerd"
    with pytest.raises(FlowtagError, match="from a template") as caught:
        cri.refuse_generated("version = 2\n", f"{folder}/config.toml", WRAPPER)
    assert f"{folder}/config-v3.toml.tmpl" in caught.value.hint
    assert f'BinaryName = "{WRAPPER}"' in caught.value.hint


def test_difference_names_first_key_that_differs(dump: dict[str, Any]) -> None:
    other = copy.deepcopy(dump)
    assert difference(comparable(dump, "/a"), comparable(other, "/b")) == ""
    handlers(other)["runc"]["options"]["SystemdCgroup"] = True
    found = difference(comparable(dump, "/a"), comparable(other, "/b"))
    assert found.endswith("containerd.runtimes.runc.options = {'SystemdCgroup': True} instead of None")


def test_comparable_knows_imports_but_for_the_file_itself() -> None:
    one = {"imports": ["/etc/a.toml", "/etc/b.toml"], "zero": 0}
    other = {"imports": ["/etc/b.toml", "/etc/.a.toml.new"]}
    assert comparable(one, "/etc/a.toml") == comparable(other, "/etc/.a.toml.new")
    assert comparable({"imports": []}, "") != comparable(other, "/etc/.a.toml.new")


def test_without_zeros_keeps_what_is_set_at_any_depth() -> None:
    assert without_zeros({"a": {"b": "", "c": {}}, "d": [], "e": {"f": False, "g": 1}}) == {"e": {"g": 1}}


def test_engine_is_not_whoever_listens_at_its_socket(tmp_path: Path) -> None:
    address = str(tmp_path / "c.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        found = containerd_engine.find(address)  # this process is no containerd
    assert found is None or found.pid == 0


def test_engine_started_is_a_time_of_the_wall_clock() -> None:
    started = Engine("", "", "", os.getpid(), True).started()
    assert started is not None
    assert 0 < time.time() - started < 24 * 3600
    assert Engine("", "", "", 0, True).started() is None


class Running(Engine):
    """A containerd of this process's age that finds in force what the file says."""

    def dump(self, file: str) -> dict[str, Any]:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))


def state(directory: Path, monkeypatch: pytest.MonkeyPatch, age: float) -> State:
    """The adapter's view of a registered file that changed `age` seconds after containerd's start."""
    file, hook = directory / "config.toml", directory / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "flowtag-runc").touch()
    file.write_text(
        f'version = 2\n[plugins."{cri.V2}".containerd.runtimes.runc]\n'
        f'runtime_type = "io.containerd.runc.v2"\noptions.BinaryName = "{hook}/flowtag-runc"\n',
        encoding="utf-8",
    )
    engine = Running("", str(file), "", os.getpid(), True)
    monkeypatch.setattr(Running, "started", lambda _: file.stat().st_ctime - age)
    monkeypatch.setattr(containerd_site, "find", lambda _: engine)
    return adapter.Containerd().state(Options(hook_directory=str(hook), file=str(file)))


def test_state_is_effective_if_containerd_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert state(tmp_path, monkeypatch, -1) == (True, True, "", "", "runc: BinaryName")


def test_state_needs_restart_if_file_changed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state(tmp_path, monkeypatch, 1)[:3] == (True, False, adapter.RESTART)


@pytest.mark.parametrize(
    ("age", "wrapper", "effective"), [(1, True, True), (1, False, False), (-1, True, False)]
)
def test_state_after_unregister_counts_as_effective_until_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, wrapper: bool, effective: bool
) -> None:
    state(tmp_path, monkeypatch, age)
    file, hook = tmp_path / "config.toml", tmp_path / "hook"
    file.write_text(file.read_text(encoding="utf-8").replace("options.BinaryName", "#"), encoding="utf-8")
    if not wrapper:  # then containerd cannot have been told of it
        (hook / "flowtag-runc").unlink()
    found = adapter.Containerd().state(Options(hook_directory=str(hook), file=str(file)))
    assert found[:3] == (False, effective, adapter.RESTART if effective else "")


def test_look_at_other_file_than_the_running_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine("", str(tmp_path / "read.toml"), "", os.getpid(), True)
    monkeypatch.setattr(containerd_site, "find", lambda _: engine)
    with pytest.raises(FlowtagError, match=r"reads .*read\.toml, not") as caught:
        containerd_site.look(Options(file=str(tmp_path / "named.toml")))
    assert f"--file {tmp_path}/read.toml" in caught.value.hint


def test_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FlowtagError, match="no method 'magic'") as caught:
        adapter.Containerd().register(Options(method="magic"))
    assert caught.value.hint == "wrapper, base-spec or nri"


def test_wrapped_runtime_is_not_our_own_wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook, link, real = (tmp_path / name for name in ("hook", "link", "real"))
    for folder in (hook, link, real):
        folder.mkdir()
    for program in (hook / "flowtag-runc", real / "runc"):
        program.touch(mode=0o755)
    (link / "runc").symlink_to(hook / "flowtag-runc")
    (tmp_path / "config.toml").write_text((FIXTURES / "dump-1.6.toml").read_text(encoding="utf-8"))
    engine = Running("", str(tmp_path / "config.toml"), f":{link}:{real}", os.getpid(), True)
    monkeypatch.setattr(containerd_site, "find", lambda _: engine)
    assert adapter.Containerd().register(Options(hook_directory=str(hook))).wraps == f"{real}/runc"


def task(state: Path, namespace: str, name: str, **files: str) -> None:
    folder = state / "io.containerd.runtime.v2.task" / namespace / name
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file.replace("_", ".")).write_text(content, encoding="utf-8")


def test_referring_finds_wrapper_in_options_and_stub_in_hooks(tmp_path: Path) -> None:
    annotations = {
        f"io.kubernetes.cri.{key}": value
        for key, value in {
            "sandbox-namespace": "shop",
            "sandbox-name": "web",
            "container-name": "app",
        }.items()
    }
    options = json.dumps({"binary_name": "/h/flowtag-runc", "root": "/run/runc"})
    hooks = json.dumps({"hooks": {"poststop": [{"path": "/h/flowtag-hook"}]}})
    task(tmp_path, "k8s.io", "a", options_json=options, config_json=json.dumps({"annotations": annotations}))
    task(tmp_path, "moby", "b", options_json="{}", config_json=hooks)
    task(tmp_path, "moby", "c", runtime="/h/flowtag-runc", config_json="{}")
    task(tmp_path, "k8s.io", "d", options_json="{}", config_json="{}")
    tasks = [("containerd", f"{tmp_path}/io.containerd.runtime.v2.task/*/*/config.json")]
    found = every("/h", patterns=tasks)
    files = {one.name or one.container_id: os.path.basename(one.refers) for one in found if one.refers}
    assert files == {"shop/web/app": "options.json", "b": "config.json", "c": "runtime"}
    assert {one.container_id: one.engine for one in found} == {
        "a": "containerd",
        "b": "docker",
        "c": "docker",
    }
    assert not any(one.refers for one in every("/other", patterns=tasks))
    assert every("/h", patterns=[("containerd", f"{tmp_path}/none/*/*/config.json")]) == []


def test_reference_by_wrapper_needs_no_hook(tmp_path: Path) -> None:
    options = json.dumps({"binary_name": "/h/flowtag-runc"})
    task(tmp_path, "k8s.io", "disabled", options_json=options, config_json="{}")
    task(tmp_path, "k8s.io", "stranger", options_json="{}", config_json='{"env": "/h/flowtag-runc"}')
    tasks = f"{tmp_path}/io.containerd.runtime.v2.task/*/*/config.json"
    (found,) = (one for one in every("/h", patterns=[("containerd", tasks)]) if one.refers)
    assert (found.engine, found.container_id) == ("containerd", "disabled")
    assert (found.hooked, found.refers.rpartition("/")[2]) == (False, "options.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"ociVersion": "1.0"}', b'{"hooks": {}}', b"\xff"])
def test_check_spec_refuses_what_containerd_could_not_use(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(content)
    with pytest.raises(FlowtagError, match="checking"):
        check_spec(str(path))
