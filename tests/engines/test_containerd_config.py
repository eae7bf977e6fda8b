# SPDX-License-Identifier: Apache-2.0
"""Registration judged by a real containerd, which only reads its file here.

tests/newest runs the same with newer releases.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from bpf.error import FlowtagError
from hooks import edit
from hooks.runtime import Options, Plan
from hooks.runtimes import containerd_engine
from hooks.runtimes.containerd import Containerd
from hooks.runtimes.containerd_engine import Engine

DEBIAN = (Path(__file__).parents[1] / "unit/fixtures/containerd/debian.toml").read_text(encoding="utf-8")
CRI = '[plugins."io.containerd.grpc.v1.cri".containerd'


class Site:
    """A private config.toml that nothing runs with, and the containerd that judges it."""

    def __init__(self, directory: Path, version: str, method: str = "") -> None:
        self.version = version
        self.file = directory / "etc" / "config.toml"
        self.file.parent.mkdir(mode=0o755)
        self.options = Options(
            hook_directory="/opt/flowtag-test",
            file=str(self.file),
            socket=str(directory / "none.sock"),
            method=method,
        )
        self.adapter = Containerd()

    @property
    def key(self) -> str:
        return "base_runtime_spec" if self.options.method == "base-spec" else "BinaryName"

    @property
    def value(self) -> str:
        name = "flowtag-base-spec.json"
        return (
            str(self.file.with_name(name)) if self.key != "BinaryName" else "/opt/flowtag-test/flowtag-runc"
        )

    def apply(self, plan: Plan) -> Plan:
        for change in plan.changes:
            edit.apply(change, lambda one, new: self.adapter.validate(self.options, one, new), backup=False)
        return plan

    def register(self) -> Plan:
        return self.apply(self.adapter.register(self.options))

    def unregister(self) -> Plan:
        return self.apply(self.adapter.unregister(self.options, True))

    def refused(self) -> FlowtagError:
        before = self.file.read_bytes() if self.file.exists() else None
        with pytest.raises(FlowtagError) as caught:
            self.register()
        assert (self.file.read_bytes() if self.file.exists() else None) == before
        assert caught.value.hint
        return caught.value

    def handler(self, name: str = "runc") -> dict[str, object]:
        engine = containerd_engine.find(self.options.socket)
        assert engine
        plugins = engine.dump(str(self.file))["plugins"]
        section = plugins.get("io.containerd.cri.v1.runtime") or plugins["io.containerd.grpc.v1.cri"]
        found: dict[str, object] = section["containerd"]["runtimes"][name]
        return found


@pytest.fixture
def version() -> str:
    """The containerd in PATH."""
    if shutil.which("containerd") is None:
        pytest.skip("needs containerd")
    return "1.6"


@pytest.fixture(params=["wrapper", "base-spec"])
def site(request: pytest.FixtureRequest, version: str, tmp_path: Path) -> Site:
    return Site(tmp_path, version, request.param)


def test_register_is_in_force_and_unregister_gives_same_bytes(site: Site) -> None:
    site.file.write_text(DEBIAN, encoding="utf-8")
    before = site.handler()
    plan = site.register()
    assert plan.then == ""  # nothing runs
    after = site.handler()
    options = after["options"]
    assert isinstance(options, dict)
    assert (options if site.key == "BinaryName" else after)[site.key] == site.value
    assert (after["runtime_type"], after.get("sandbox_mode")) == (
        before["runtime_type"],
        before.get("sandbox_mode"),
    )
    assert site.adapter.state(site.options).registered
    assert not site.register().changes
    site.unregister()
    assert site.file.read_text(encoding="utf-8") == DEBIAN
    assert os.listdir(site.file.parent) == ["config.toml"]
    assert not site.unregister().changes
    assert not site.adapter.state(site.options).registered


def test_register_without_file_makes_one_that_unregister_removes(site: Site) -> None:
    site.register()
    first = site.file.read_text(encoding="utf-8").splitlines()[1]
    assert first == f"version = {3 if site.version == '2.1' else 2}"
    assert site.adapter.state(site.options).registered
    site.unregister()
    assert os.listdir(site.file.parent) == []


def test_register_keeps_options_and_covers_runc_handlers(site: Site) -> None:
    text = (
        f'version = 2\n{CRI}]\ndefault_runtime_name = "main"\n'
        f'{CRI}.runtimes.main]\nruntime_type = "io.containerd.runc.v2"\n'
        f"{CRI}.runtimes.main.options]\nSystemdCgroup = true\n"
        f'{CRI}.runtimes.slow]\nruntime_type = "io.containerd.runc.v2"\n'
        f'{CRI}.runtimes.gvisor]\nruntime_type = "io.containerd.runsc.v1"\n'
    )
    site.file.write_text(text, encoding="utf-8")
    plan = site.register()
    assert any("'gvisor' is left alone" in note for note in plan.notes)
    main, slow, gvisor = (site.handler(name) for name in ("main", "slow", "gvisor"))
    assert isinstance(main["options"], dict)
    assert main["options"]["SystemdCgroup"] is True
    for handler in (main, slow):
        holder = handler["options"] if site.key == "BinaryName" else handler
        assert isinstance(holder, dict)
        assert holder[site.key] == site.value
    assert site.value not in str(gvisor)
    site.unregister()
    assert site.file.read_text(encoding="utf-8") == text


def test_register_refuses_default_set_by_somebody_else(site: Site) -> None:
    mine = {"BinaryName": "options]\nBinaryName", "base_runtime_spec": "]\nbase_runtime_spec"}[site.key]
    header = f"{CRI}.runtimes.runc.{mine}" if site.key == "BinaryName" else f"{CRI}.runtimes.runc{mine}"
    (site.file.parent / "theirs.json").write_text('{"ociVersion": "1.0.2"}')
    site.file.write_text(
        f'version = 2\n{CRI}.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"\n'
        f'{header} = "{site.file.parent}/theirs.json"\n'.replace(f"{CRI}.runtimes.runc]\nbase", "base"),
        encoding="utf-8",
    )
    assert "set by somebody else" in str(site.refused())


def test_register_with_other_method_than_in_force_is_refused(version: str, tmp_path: Path) -> None:
    site = Site(tmp_path, version, "wrapper")
    site.file.write_text(DEBIAN, encoding="utf-8")
    site.register()
    site.options = site.options._replace(method="base-spec")
    assert "calls the hook by wrapper already" in str(site.refused())


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('disabled_plugins = ["cri"]\n', "its CRI plugin is off"),
        ("oom_score = -999\n", "has version 1"),
        ("version = 2\n[plug", "not TOML"),
        (
            f'version = 2\n{CRI}]\ndefault_runtime_name = "kata"\n'
            f'{CRI}.runtimes.kata]\nruntime_type = "io.containerd.kata.v2"\n',
            "not runc's",
        ),
        ("# k0s_managed=true\nversion = 2\n", "whenever k0s starts"),
    ],
)
def test_register_refuses_what_it_cannot_do_safely(
    version: str, tmp_path: Path, text: str, cause: str
) -> None:
    site = Site(tmp_path, version)
    site.file.write_text(text, encoding="utf-8")
    assert cause in str(site.refused())


def test_register_refuses_file_whose_section_an_import_replaces(version: str, tmp_path: Path) -> None:
    site = Site(tmp_path, version)
    site.file.with_name("more.toml").write_text(
        'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nmax_container_log_line_size = 9999\n',
        encoding="utf-8",
    )
    site.file.write_text(f'imports = ["{site.file.parent}/more.toml"]\n{DEBIAN}', encoding="utf-8")
    if version == "2.1":  # merges
        site.register()
        assert site.adapter.state(site.options).registered
    else:
        assert "in force would be" in str(site.refused())


def test_validate_refuses_any_other_change(version: str, tmp_path: Path) -> None:
    site = Site(tmp_path, version)
    site.file.write_text(DEBIAN, encoding="utf-8")
    plan = site.adapter.register(site.options)
    more = plan.changes[0]._replace(
        after=(plan.changes[0].after or b"") + b"[metrics]\naddress = '127.0.0.1:1'\n"
    )
    with pytest.raises(FlowtagError, match=r"in force would be metrics"):
        site.apply(plan._replace(changes=(more,)))
    lost = plan.changes[0]._replace(
        after=(plan.changes[0].after or b"").replace(b'runtime_type = "io.containerd.runc.v2"', b"")
    )
    if version != "2.1":  # fills it in by itself
        with pytest.raises(FlowtagError, match=r"runtimes\.runc\.runtime_type"):
            site.apply(plan._replace(changes=(lost,)))
    assert site.file.read_text(encoding="utf-8") == DEBIAN


def test_base_spec_is_the_default_of_this_version_without_limits(version: str, tmp_path: Path) -> None:
    site = Site(tmp_path, version, "base-spec")
    site.file.write_text(DEBIAN, encoding="utf-8")
    plan = site.register()
    assert [os.path.basename(change.path) for change in plan.changes] == [
        "flowtag-base-spec.json",
        "config.toml",
    ]
    spec = json.loads(Path(site.value).read_bytes())
    assert "rlimits" not in spec["process"]
    assert spec["hooks"]["createRuntime"][0]["path"] == "/opt/flowtag-test/flowtag-hook"
    assert {mount["destination"] for mount in spec["mounts"]} > {"/proc", "/dev", "/sys"}


def test_engine_without_socket_is_found_in_path(version: str) -> None:
    engine = containerd_engine.find("/nonexistent")
    assert isinstance(engine, Engine)
    assert engine.pid == 0
    assert engine.defaults()["version"] == (3 if version == "2.1" else 2)
