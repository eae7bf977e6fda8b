# SPDX-License-Identifier: Apache-2.0
"""`flowtag maps verify`: silent on a healthy host, one line with what to do for each thing amiss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpf import abi
from exporter.config_file import dump
from exporter.verify import Finding, persistent, verify
from identity.workload import KIND_CONTAINER, Workload
from tests.kernel.cgroup import cgroup_id
from tests.kernel.own_host import OwnHost

ME = 0x1111_1111_1111_1111
NOWHERE = "/sys/fs/bpf/nowhere"


@pytest.fixture
def host(kernel: None, tmp_path: Path) -> Iterator[OwnHost]:
    """A host with one container of the hook, one that the exporter found, and an identity."""
    with OwnHost(tmp_path) as host, host.container("hooked", host.pod) as pid, host.container("plain"):
        host.create_runtime("hooked", pid)
        host.identify()
        deadline = time.monotonic() + 10
        while host.owner("plain").workload == abi.OWNER_UNCLAIMED and time.monotonic() < deadline:
            host.tick()
            time.sleep(0.01)
        yield host


def findings(host: OwnHost) -> list[Finding]:
    """What does not fit here; other tests' engines' cgroups are no concern of these maps."""
    return [found for found in persistent(host.config) if found.kind != "unmarked"]


def put(host: OwnHost, name: str, number: int, workload: int, **fields: int) -> None:
    value = abi.OWNER.pack(workload, 1, 0, fields.get("flags", 0))
    if name == "ft_netns":
        value = abi.NETNS.pack(workload, 1, 0, fields.get("flags", 0), fields.get("kind", 1))
    host.watch.map(name).update(abi.ID.pack(number), value)


def add_workload(host: OwnHost, number: int = ME, **fields: int) -> None:
    known = Workload(id=number, start=1, kind=KIND_CONTAINER, container_id="c", **fields)
    host.watch.map("ft_workload").update(abi.ID.pack(number), known.pack())


def test_verify_says_nothing_about_a_healthy_host(host: OwnHost) -> None:
    """Also with tombstones, a pod's shared namespace, nested cgroups and an empty container."""
    (host.root / "hooked" / "init.scope" / "deep").mkdir(parents=True)
    (host.root / "empty").mkdir()
    with host.container("gone", host.pod) as pid:
        host.create_runtime("gone", pid)
    host.poststop("gone")
    (host.root / "gone").rmdir()
    assert findings(host) == []


def gone_cgroup(host: OwnHost) -> str:
    add_workload(host)
    put(host, "ft_cgroup", 1 << 40, ME)
    return f"cgroup {1 << 40} (gone): the cgroup is gone"


def gone_namespace(host: OwnHost) -> str:
    add_workload(host)
    put(host, "ft_netns", 1 << 40, ME)
    return f"netns {1 << 40} (no process): the network namespace is gone"


def contested(host: OwnHost) -> str:
    number = cgroup_id(host.root / "plain")
    put(host, "ft_cgroup", number, abi.OWNER_CONTESTED)
    owner = next(known for known in host.workloads() if known.container_id == "plain")
    host.watch.map("ft_workload").delete(abi.ID.pack(owner.id))
    return f"cgroup {number} /{host.root_name}/plain: two living containers claim it"


def nameless(host: OwnHost) -> str:
    number = host.owner("hooked").workload
    host.watch.map("ft_workload").delete(abi.ID.pack(number))
    return f"its owner {number} is not in ft_workload"


def unclaimed(host: OwnHost) -> str:
    host.watch.map("ft_workload").delete(abi.ID.pack(host.owner("plain").workload))
    put(host, "ft_cgroup", cgroup_id(host.root / "plain"), abi.OWNER_UNCLAIMED)
    return f"cgroup /{host.root_name}/plain ({cgroup_id(host.root / 'plain')}): nobody claims"


def ended(host: OwnHost) -> str:
    number = host.owner("plain").workload
    known = host.workload(number)
    assert known is not None
    host.watch.map("ft_workload").update(abi.ID.pack(number), known.replace(end=2).pack())
    return f"its owner plain ({number}) has ended, but the claim has not"


def keyless(host: OwnHost) -> str:
    add_workload(host)
    return f"workload c ({ME}) lives, but no living key names it"


def dead(host: OwnHost) -> str:
    with host.container("killed") as pid:
        host.create_runtime("killed", pid)
    return f"container killed (process {pid}) does not live any more"


def pending(host: OwnHost) -> str:
    host.create_runtime("late", os.getpid(), pins=NOWHERE)
    return f"container late (process {os.getpid()}) could not be written: opening pinned map {NOWHERE}"


def damaged(host: OwnHost) -> str:
    (host.run / "live" / "x.json").write_text("{", encoding="ascii")
    return f"{host.run}/live/x.json cannot be read"


def host_slot(host: OwnHost) -> str:
    slot = host.workload(abi.OWNER_HOST_SLOT)
    assert slot is not None
    host.watch.map("ft_workload").delete(abi.ID.pack(slot.id))
    return f"the host's slot points to workload {slot.id}, which is not in ft_workload"


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (gone_cgroup, "gone"),
        (gone_namespace, "gone"),
        (contested, "contested"),
        (nameless, "nameless"),
        (unclaimed, "unclaimed"),
        (ended, "ended"),
        (keyless, "keyless"),
        (dead, "dead"),
        (pending, "pending"),
        (damaged, "damaged"),
        (host_slot, "host"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_verify_finds(host: OwnHost, spoil: Callable[[OwnHost], str], kind: str) -> None:
    text = spoil(host)
    found = findings(host)
    assert {each.kind for each in found} == {kind}, found
    assert text in found[0].text
    assert found[0].hint


def test_verify_finds_an_engines_cgroup_without_a_mark(host: OwnHost) -> None:
    host.watch.map("ft_cgroup").delete(abi.ID.pack(cgroup_id(host.root)))
    found = [each for each in persistent(host.config) if host.root_name in each.text]
    assert [each.kind for each in found] == ["unmarked"]


def test_verify_passes_over_what_is_on_its_way(host: OwnHost) -> None:
    """A container that is being made while the maps are read is no finding."""
    add_workload(host)

    def later() -> None:
        time.sleep(0.3)
        (host.root / "new").mkdir()
        put(host, "ft_cgroup", cgroup_id(host.root / "new"), ME)

    thread = threading.Thread(target=later)
    thread.start()
    found = findings(host)
    thread.join()
    assert found == []


def test_verify_command(host: OwnHost, tmp_path: Path) -> None:
    """Exit status and both outputs, as one calls it."""
    config = tmp_path / "flowtag.toml"
    config.write_text(dump(host.config), encoding="utf-8")
    command = [sys.executable, "flowtag.py", "maps", "verify", "--config", str(config)]
    add_workload(host)
    text = subprocess.run(command, capture_output=True, text=True, check=False)
    data = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert text.returncode == data.returncode == 1
    (line,) = (line for line in text.stdout.splitlines() if str(ME) in line)
    assert line.startswith(f"keyless: workload c ({ME}) lives")
    answer = json.loads(data.stdout)
    assert answer["consistent"] is False
    (found,) = (each for each in answer["findings"] if each["subject"] == str(ME))
    assert line == f"{found['kind']}: {found['text']}; {found['hint']}"


def test_verify_consistent_is_zero(host: OwnHost, capsys: pytest.CaptureFixture[str]) -> None:
    if any(found.kind == "unmarked" for found in persistent(host.config)):
        pytest.skip("another test's engine is at work on this machine")
    assert verify(host.config, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == {"consistent": True, "findings": []}
    assert verify(host.config, as_json=False) == 0
    assert capsys.readouterr().out == "the maps fit the live cgroups, namespaces and containers\n"
