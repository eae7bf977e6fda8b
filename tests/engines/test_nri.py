# SPDX-License-Identifier: Apache-2.0
"""The NRI plugin in real containerds: pods get their hooks, and no plugin keeps a container from starting."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bpf.error import FlowtagError
from hooks import nri
from hooks import nri_wire as wire
from hooks.nri_wire import Message, field
from hooks.runtime import Options
from hooks.runtimes.nri import Nri
from identity import incarnation
from identity.claim import Claim
from identity.incarnation import Incarnation
from identity.pinned import open_map
from tests.hook_maps import entry, make_maps
from tests.rig import debian
from tests.rig.containerd import Containerd, Pod
from tests.rig.leavings import scratch, sweep
from tests.rig.nri import Plugin, configuration, erring
from tests.rig.puppet import Puppet

LIMIT = 2.0  # seconds that containerd waits for an answer
QUICK = 1.5  # that a start may take on a busy machine; 0.1 on an idle one


class Site(NamedTuple):
    """A containerd with NRI on, and what the hook of one test writes to."""

    engine: Containerd
    folder: Path
    run: Path
    pins: Path

    def live(self) -> list[Incarnation]:
        return [found for _, found in incarnation.every(str(self.run / "live"))]

    def pod(self, name: str) -> Pod:
        return self.engine.run_pod(name, {}, namespace="shop", uid=f"uid-{name}")

    def add(self, pod: Pod, name: str) -> float:
        """Create and start one more container; the seconds that it took."""
        puppet = Puppet(self.folder / "puppets" / pod.name, name)
        began = time.monotonic()
        pod.add(name, puppet)
        seconds = time.monotonic() - began
        puppet.await_up()
        return seconds

    def hooks(self, container: str) -> dict[str, list[dict[str, object]]]:
        """The hooks of a container as runc was told."""
        task = self.engine.directory / "state/io.containerd.runtime.v2.task/k8s.io" / container
        config = json.loads((task / "config.json").read_text(encoding="utf-8"))
        found: dict[str, list[dict[str, object]]] = config.get("hooks") or {}
        return found


@pytest.fixture(scope="module", params=["trixie", "sid"])
def containerd(request: pytest.FixtureRequest, kernel: None) -> Iterator[tuple[Containerd, Path]]:
    """1.7.24 and 2.1.9, at the time of writing."""
    try:
        binaries = debian.unpacked(request.param, "containerd") / "usr/bin"
    except RuntimeError as error:
        pytest.skip(f"needs containerd of Debian {request.param}: {error}")
    folder = scratch("ftn")
    with Containerd(binaries=binaries, plugins=configuration(folder)) as engine:
        yield engine, folder
    sweep(folder)


@pytest.fixture
def site(
    containerd: tuple[Containerd, Path], run_directory: Path, pin_directory: Path, tmp_path: Path
) -> Iterator[Site]:
    engine, folder = containerd
    run_directory.mkdir(mode=0o700)
    (run_directory / "hook").write_text(f"pin_directory {pin_directory}\n", encoding="ascii")
    make_maps(pin_directory)
    yield Site(engine, folder, run_directory, pin_directory)
    for pod in engine.pods:
        pod.stop()
        pod.remove()
    engine.pods.clear()
    (folder / "plugin.log").unlink(missing_ok=True)


@pytest.fixture
def plugin(site: Site) -> Iterator[Plugin]:
    with Plugin(site.folder, site.run) as found:
        found.await_connected()
        yield found


def test_nri_life_of_a_pod(site: Site, plugin: Plugin) -> None:
    pod = site.pod("web-0")
    for name in ("app", "side"):
        site.add(pod, name)
    live = {found.workload.container: found for found in site.live()}
    assert set(live) == {"app", "side"}  # the sandbox is created without asking plugins
    for name, found in live.items():
        who = found.workload
        assert who.container_id == pod.containers[name]
        assert (who.namespace, who.pod, who.pod_uid) == ("shop", "web-0", "uid-web-0")
        assert (who.runtime, who.image) == ("containerd", "flowtag.test/base:1")
        with open_map("ft_cgroup", str(site.pins)) as claims:
            value = claims.get(entry(found.cgroup))
        assert value is not None
        claim = Claim.unpack(value)
        assert (claim.workload, claim.until) == (who.id, 0)
    pod.stop()
    assert site.live() == []


def test_nri_container_from_before_the_plugin_has_no_hook_and_ends_well(site: Site) -> None:
    pod = site.pod("web-0")
    site.add(pod, "before")
    with Plugin(site.folder, site.run) as plugin:
        plugin.await_connected()
        site.add(pod, "since")
        assert site.hooks(pod.containers["before"]) == {}
        assert [found.workload.container for found in site.live()] == ["since"]
        pod.stop()
    assert site.live() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nri_plugin_that_was_killed_costs_nothing(site: Site, plugin: Plugin, number: signal.Signals) -> None:
    pod = site.pod("web-0")
    plugin.process.send_signal(number)
    plugin.process.wait()
    assert site.add(pod, "app") < QUICK
    assert site.hooks(pod.containers["app"]) == {}


def test_nri_plugin_that_is_stopped_costs_one_start_two_seconds(site: Site, plugin: Plugin) -> None:
    pod = site.pod("web-0")
    plugin.process.send_signal(signal.SIGSTOP)
    assert LIMIT < site.add(pod, "first") < LIMIT + QUICK
    assert site.add(pod, "second") < QUICK
    state = Nri().state(Options(run_directory=str(site.run)))
    assert not state.effective
    assert "is stopped" in state.problem

    plugin.process.send_signal(signal.SIGCONT)
    plugin.await_connected(times=2)
    assert site.add(pod, "third") < QUICK
    assert [found.workload.container for found in site.live()] == ["third"]


def test_nri_plugin_killed_while_containerd_waits_for_it(site: Site, plugin: Plugin) -> None:
    pod = site.pod("web-0")
    plugin.process.send_signal(signal.SIGSTOP)  # so it cannot answer before
    killer = threading.Timer(0.5, plugin.kill)
    killer.start()
    assert 0.4 < site.add(pod, "app") < 0.5 + QUICK
    killer.join()


def half(line: socket.socket, stream: int) -> None:
    """Half an answer, and the end."""
    line.sendall(nri.reply(stream, b"")[:12])
    line.shutdown(socket.SHUT_RDWR)


def slow(line: socket.socket, stream: int) -> None:
    """The right answer, late."""
    time.sleep(1)
    line.sendall(nri.reply(stream, b""))


# What a plugin may answer, and the seconds that containerd then waits.
FAULTS: dict[str, tuple[Callable[[socket.socket, int], None], float]] = {
    "empty-frames": (lambda line, _: line.sendall(bytes(4096)), LIMIT),
    "long-frame": (lambda line, _: line.sendall(b"\0\0\0\1\0\0\xff\xffnot ttrpc"), LIMIT),
    "other-stream": (lambda line, stream: line.sendall(nri.reply(stream + 2, b"")), LIMIT),
    "other-kind": (lambda line, stream: line.sendall(wire.encode(Message(1, stream, 3, b""))), 0),
    "half": (half, 0),
    "end": (lambda line, _: line.shutdown(socket.SHUT_RDWR), 0),
    "slow": (slow, 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nri_answer_that_is_none_keeps_no_container_from_starting(site: Site, fault: str) -> None:
    pod = site.pod("web-0")
    err, costs = FAULTS[fault]
    with erring(site.folder, err):
        assert costs <= site.add(pod, "first") < costs + QUICK
        assert site.add(pod, "second") < (1 if fault == "slow" else 0) + QUICK


@pytest.mark.parametrize(
    "body",
    [field(2, b"\x0a\xff\xff"), b"\x0a\xff\xff", field(1, field(1, 12) + field(2, "not today"))],
    ids=["malformed", "malformed-ttrpc", "error"],
)
def test_nri_answer_that_we_must_never_give(site: Site, body: bytes) -> None:
    """Why the plugin has encoded its answers beforehand, and has no answer for an error."""
    pod = site.pod("web-0")
    with (
        erring(site.folder, lambda line, stream: line.sendall(wire.encode(Message(1, stream, 2, body)))),
        pytest.raises(RuntimeError, match="failed to get NRI adjustment"),
    ):
        site.add(pod, "app")


def test_nri_plugin_connects_again_when_containerd_restarts(site: Site, plugin: Plugin) -> None:
    pod = site.pod("web-0")
    site.add(pod, "first")
    site.engine.restart()
    plugin.await_connected(times=2)
    site.add(pod, "second")
    assert {found.workload.container for found in site.live()} == {"first", "second"}


def test_nri_disabled_adds_nothing(site: Site, plugin: Plugin) -> None:
    pod = site.pod("web-0")
    (plugin.hook_directory / "disabled").touch()
    site.add(pod, "disabled")
    (plugin.hook_directory / "disabled").unlink()
    site.add(pod, "enabled")
    assert site.hooks(pod.containers["disabled"]) == {}
    assert set(site.hooks(pod.containers["enabled"])) == {"createRuntime", "poststop"}


def test_nri_second_plugin_sees_the_first_ones_hook(site: Site, plugin: Plugin, tmp_path: Path) -> None:
    other = Plugin(site.folder, tmp_path / "other")  # another run directory, so no lock keeps it away
    other.start()
    try:
        plugin.await_connected(times=2)  # they share a log
        pod = site.pod("web-0")
        site.add(pod, "app")
        hooks = site.hooks(pod.containers["app"])
        assert {event: len(entries) for event, entries in hooks.items()} == {
            "createRuntime": 1,
            "poststop": 1,
        }
    finally:
        other.kill()


def test_nri_state_and_registration(
    site: Site, plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{site.engine.daemon.argv[-3].rpartition('/')[0]}:/usr/bin:/bin")
    options = Options(
        str(plugin.hook_directory), str(site.run), str(site.engine.config), f"{site.folder}/nri.sock"
    )
    adapter = Nri()
    assert adapter.found(options)
    state = adapter.state(options)
    assert (state.registered, state.effective, state.problem) == (True, True, "")
    assert "containerd " in state.detail
    assert adapter.register(options).then == ""
    assert "disable --now" in adapter.unregister(options, False).then

    plugin.kill()
    assert not adapter.state(options).registered
    plan = adapter.register(options)
    assert plan.changes == ()
    assert plan.then.endswith(
        f"flowtag nri --socket {site.folder}/nri.sock --hook-directory {plugin.hook_directory} "
        f"--run-directory {site.run}"
    )
    (tmp_path / "default.toml").write_text("version = 2\n", encoding="ascii")
    default = Options(file=str(tmp_path / "default.toml"))
    if site.engine.version() >= (2, 0):
        assert "enable --now flowtag-nri" in adapter.register(default).then
    else:
        with pytest.raises(FlowtagError, match="disable = true"):
            adapter.register(default)
