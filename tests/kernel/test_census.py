# SPDX-License-Identifier: Apache-2.0
"""The census over a cgroup tree of files and real maps: every state, and how quick it is with a thousand."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from bpf import abi
from hooks import status, status_text
from hooks.runtime import Options
from identity import cgroup, incarnation
from identity.census import Census, Process
from identity.claim import Claim
from identity.incarnation import Incarnation
from identity.pinned import open_map
from identity.workload import Workload
from tests.hook_maps import entry, make_maps

ALIVE = 1 << 40


class Host:
    """Cgroups that are directories with the two files that are read, and maps with claims on them."""

    def __init__(self, directory: Path, pins: Path) -> None:
        self.mount, self.run, self.pins = directory / "cgroup", directory / "run", pins
        self.mount.mkdir()
        make_maps(pins)

    def cgroup(self, path: str, populated: bool = True) -> Path:
        made = self.mount / path.lstrip("/")
        made.mkdir(parents=True)
        (made / "cgroup.events").write_text(f"populated {int(populated)}\nfrozen 0\n", encoding="ascii")
        (made / "cgroup.procs").write_text(f"{os.getpid()}\n" if populated else "", encoding="ascii")
        return made

    def claim(self, directory: Path, workload: int, flags: int = 0, until: int = 0, name: str = "") -> None:
        with open_map("ft_cgroup", str(self.pins)) as cgroups:
            value = Claim(workload, 1, until, flags).pack()
            cgroups.update(entry(cgroup.id_of(str(directory))), value)
        if workload > abi.OWNER_SPECIAL:
            with open_map("ft_workload", str(self.pins)) as workloads:
                workloads.update(
                    entry(workload), Workload(id=workload, container=name, runtime="docker").pack()
                )

    def census(self) -> Census:
        return Census(str(self.pins), str(self.run), str(self.mount))


@pytest.fixture
def host(tmp_path: Path, pin_directory: Path) -> Host:
    return Host(tmp_path, pin_directory)


def number(i: int) -> str:
    return f"{i:064x}"


def test_every_state_is_told(host: Host) -> None:
    places = {name: host.cgroup(f"/docker/{number(i)}") for i, name in enumerate("abcdefg")}
    host.cgroup(f"/docker/{number(99)}", populated=False)
    host.cgroup(f"/docker/{number(0)}/docker/{number(98)}")  # inside another container
    host.cgroup(f"/other/{number(97)}")  # below no engine's root
    host.claim(places["a"], ALIVE, name="web")
    host.claim(places["b"], ALIVE + 1, abi.FLAG_RECONCILED)
    host.claim(places["c"], abi.OWNER_UNCLAIMED)
    host.claim(places["d"], abi.OWNER_CONTESTED)
    host.claim(places["e"], ALIVE + 2, until=5)
    host.claim(places["f"], abi.OWNER_TRANSLATOR)
    found = {one.container_id: one for one in host.census().take()}
    assert {int(name, 16): one.state for name, one in found.items()} == {
        0: "hook",
        1: "reconciled",
        2: "unclaimed",
        3: "contested",
        4: "ended",
        5: "translator",
        6: "none",
    }
    assert (found[number(0)].name, found[number(0)].runtime) == ("web", "docker")
    assert found[number(0)].pid == os.getpid()
    assert found[number(0)].started > 0


def test_namespace_and_pending_are_told_by_files(host: Host) -> None:
    started = cgroup.start_time(os.getpid())
    assert started
    alone = Incarnation(
        Workload(id=ALIVE, container_id="alone", runtime="docker"),
        pid=os.getpid(),
        start_time=started,
        netns=7,
        netns_flags=abi.FLAG_NO_CGROUP,
    )
    incarnation.write(f"{host.run}/live/a.json", alone)
    with open_map("ft_netns", str(host.pins)) as spaces:
        spaces.update(entry(7), Claim(ALIVE, 1, 0, abi.FLAG_NO_CGROUP, 1).pack())
    place = host.cgroup(f"/docker/{number(1)}")
    waiting = Incarnation(
        Workload(id=ALIVE + 1, container_id=number(1), container="db"),
        pid=os.getpid(),
        start_time=started,
        reason="no room",
        cgroup=cgroup.id_of(str(place)),
        cgroup_directory=str(place),
    )
    incarnation.write(f"{host.run}/pending/b.json", waiting)
    people = host.census()
    first, second = sorted(people.take(), key=lambda one: one.state)
    assert (first.container_id, first.state, first.cgroup) == ("alone", "namespace", "")
    assert (second.name, second.state, second.detail) == ("db", "pending", "no room")
    assert people.pending == 1


def test_maps_that_cannot_be_read_are_said(host: Host) -> None:
    host.cgroup(f"/docker/{number(1)}")
    (host.pins / "ft_cgroup").unlink()
    people = host.census()
    assert "ft_cgroup" in people.problem
    assert [one.state for one in people.take()] == ["unreadable"]


def test_name_in_somebody_elses_cgroup_is_not_believed(host: Host) -> None:
    place = host.cgroup(f"/user.slice/libpod-{number(1)}.scope")
    os.chown(place.parent, 1000, 1000)
    assert [(one.state, one.believed) for one in host.census().take()] == [("none", False)]


def test_host_without_cgroup_v2_has_what_engines_know(host: Host) -> None:
    people = Census(str(host.pins), str(host.run), None)
    (one,) = people.take(known=[Process("web", "runc", "", os.getpid())])
    assert (one.container_id, one.state, one.cgroup) == ("web", "none", "")


def test_status_of_a_thousand_containers_is_quick(host: Host, tmp_path: Path) -> None:
    tasks = tmp_path / "io.containerd.runtime.v2.task" / "k8s.io"
    annotations = {f"io.kubernetes.cri.sandbox-{key}": "value" for key in ("namespace", "name", "uid")}
    filler = [{"destination": f"/{i}", "type": "bind", "options": ["rbind", "ro"]} for i in range(100)]
    for i in range(1000):
        place = host.cgroup(f"/kubepods/burstable/pod{i // 3}/{number(i)}")
        host.claim(place, ALIVE + i if i % 2 else abi.OWNER_UNCLAIMED)
        task = tasks / number(i)
        task.mkdir(parents=True)
        config = {"annotations": annotations, "mounts": filler, "hooks": {}}
        (task / "config.json").write_text(json.dumps(config), encoding="ascii")
        (task / "init.pid").write_text(str(os.getpid()), encoding="ascii")
    host.run.mkdir()
    settings = f"pin_directory {host.pins}\ncgroup_mount {host.mount}\n"
    (host.run / "hook").write_text(settings, encoding="ascii")
    options = Options(str(tmp_path / "hook"), str(host.run))
    cpu, clock = time.process_time(), time.monotonic()
    found = status.look(options, [], "auto", [], [("containerd", f"{tasks}/*/config.json")])
    lines = status_text.text(found)
    json.dumps(status_text.document(found))
    cpu, clock = time.process_time() - cpu, time.monotonic() - clock
    print(f"status of {len(found.containers)} containers: {clock:.3f} s, {cpu:.3f} s of processor time")
    assert len(found.containers) == 1000
    assert "containers: 1000 run: hook 500, unclaimed 500" in lines
    assert len(lines) < 60
    assert cpu < 1
