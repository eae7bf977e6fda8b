# SPDX-License-Identifier: Apache-2.0
"""Names of real engines' containers in real records: current, labelled, and no matter what the daemon does.

Where no hook is in place the exporter finds the containers by their cgroups and has only their ids.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hooks.cli import hooks_object
from tests.rig.docker import IMAGE, Docker
from tests.rig.exporter import Exporter, Record
from tests.rig.podman import Podman
from tests.rig.puppet import Puppet
from tests.rig.wrapper import make_wrapper

LABELS = ("--label", "team=shop", "--label", "com.docker.compose.service=web", "--label", "flowtag.io/x=y")


@pytest.fixture
def docker() -> Iterator[Docker]:
    if shutil.which("dockerd") is None:
        pytest.skip("needs Docker")
    with Docker() as docker:
        yield docker


class Host:
    """An exporter, and a container that connects to the machine whenever a record is wanted."""

    def __init__(self, exporter: Exporter, puppet: Puppet, address: str) -> None:
        self.exporter = exporter
        self.puppet = puppet
        self.address = address

    def record(self) -> Record:
        """The record of a new flow of the container, a refused one."""
        known = len(self.exporter.records)
        with pytest.raises(ConnectionError):
            self.puppet.connect(self.address, 9)

        def ours(record: Record) -> bool:
            return record in self.exporter.records[known:] and record["peer_address"] == self.address

        return self.exporter.await_record(ours)

    def await_record(self, wanted: Callable[[Record], bool], seconds: float = 10) -> Record:
        """The record of a new flow, made again until it is `wanted`."""
        end = time.monotonic() + seconds
        while not wanted(record := self.record()):
            assert time.monotonic() < end, json.dumps(record, indent=1)
            time.sleep(0.1)
        return record


def tables(docker: str, podman: str, more: str = "") -> str:
    return f"[identity]\ndocker = {json.dumps(docker)}\npodman = {json.dumps(podman)}\n{more}"


def test_docker_container_has_its_current_names(docker: Docker, tmp_path: Path, pin_directory: Path) -> None:
    config = tables(str(docker.socket), "off", 'app_labels = ["com.docker.compose.service"]')
    with Exporter(tmp_path, pin_directory, engine_roots=[docker.cgroup_root], tables=config) as exporter:
        puppet = Puppet(tmp_path / "web", "web")
        container = docker.run("web", puppet, *LABELS)
        host = Host(exporter, puppet, docker.bridge.ipv4)

        first = host.await_record(lambda record: record["workload"] == "web")
        assert (first["container"], first["container_id"]) == ("web", container)
        assert (first["image"], first["app"]) == (IMAGE, "web")
        assert first["labels"] == {
            "com.docker.compose.service": "web",
            "flowtag.io/networks": "bridge",
            "team": "shop",
        }

        docker.command("rename", "web", "shop")
        host.await_record(lambda record: record["workload"] == record["container"] == "shop")

        docker.command("network", "create", "second")
        docker.command("network", "connect", "second", "shop")
        host.await_record(lambda record: record["labels"]["flowtag.io/networks"] == "bridge,second")
        docker.command("network", "disconnect", "second", "shop")
        host.await_record(lambda record: record["labels"]["flowtag.io/networks"] == "bridge")


def test_docker_container_with_a_hook_has_its_names_from_the_first_flow(
    docker: Docker, tmp_path: Path, pin_directory: Path
) -> None:
    config = tables(str(docker.socket), "off")
    with Exporter(tmp_path, pin_directory, engine_roots=[docker.cgroup_root], tables=config) as exporter:
        exporter.await_log("names from Docker")
        hooks = hooks_object(str(exporter.run_directory))
        wrapper = make_wrapper(docker.directory, "runc", name="runc-flowtag", hooks=hooks)
        docker.settings["runtimes"] = {"flowtag": {"path": str(wrapper)}}
        docker.write_config()
        docker.reload()
        puppet = Puppet(tmp_path / "web", "web")
        container = docker.run("web", puppet, "--runtime", "flowtag", *LABELS)
        found = Host(exporter, puppet, docker.bridge.ipv4).record()
        assert (found["runtime"], found["container_id"], found["identity_source"]) == (
            "docker",
            container,
            "hook",
        )
        assert (found["workload"], found["container"], found["image"]) == ("web", "web", IMAGE)
        assert found["labels"]["team"] == "shop"


def test_docker_daemon_that_is_away_costs_no_names(
    docker: Docker, tmp_path: Path, pin_directory: Path
) -> None:
    config = tables(str(docker.socket), "off")
    with Exporter(tmp_path, pin_directory, engine_roots=[docker.cgroup_root], tables=config) as exporter:
        puppet = Puppet(tmp_path / "web", "web")
        docker.run("web", puppet, *LABELS)
        host = Host(exporter, puppet, docker.bridge.ipv4)
        host.await_record(lambda record: record["container"] == "web")
        docker.stop()
        exporter.await_log("no news of names from Docker")
        assert host.record()["container"] == "web"
        docker.start()
        docker.command("rename", "web", "shop")
        host.await_record(lambda record: record["container"] == "shop", 30)


def test_exporter_that_comes_later_learns_names_of_what_runs(
    docker: Docker, tmp_path: Path, pin_directory: Path
) -> None:
    puppet = Puppet(tmp_path / "web", "web")
    docker.run("web", puppet, *LABELS)
    config = tables(str(docker.socket), "off")
    with Exporter(tmp_path, pin_directory, engine_roots=[docker.cgroup_root], tables=config) as exporter:
        host = Host(exporter, puppet, docker.bridge.ipv4)
        found = host.await_record(lambda record: record["container"] == "web")
        assert found["app"] is None, "a label decides nothing unless configured"


def test_records_come_without_a_docker_daemon(docker: Docker, tmp_path: Path, pin_directory: Path) -> None:
    puppet = Puppet(tmp_path / "web", "web")
    container = docker.run("web", puppet, *LABELS)
    config = tables(str(tmp_path / "absent.sock"), "off")
    with Exporter(tmp_path, pin_directory, engine_roots=[docker.cgroup_root], tables=config) as exporter:
        found = Host(exporter, puppet, docker.bridge.ipv4).await_record(
            lambda record: record["container_id"] == container
        )
        assert (found["workload"], found["container"], found["labels"]) == (container, None, {})


def test_podman_container_has_its_current_name(tmp_path: Path, pin_directory: Path) -> None:
    if shutil.which("podman") is None:
        pytest.skip("needs Podman")
    with Podman() as podman:
        roots, config = [podman.cgroup_root], tables("off", f"{podman.directory}/root")
        with Exporter(tmp_path, pin_directory, engine_roots=roots, tables=config) as exporter:
            puppet = Puppet(tmp_path / "web", "web")
            container = podman.run("web", puppet, *LABELS)
            host = Host(exporter, puppet, podman.bridge.ipv4)
            found = host.await_record(lambda record: record["workload"] == "web")
            assert (found["container_id"], found["image"]) == (container, "flowtag.test/base:1")
            podman.command("rename", "web", "shop")
            host.await_record(lambda record: record["container"] == "shop")
