# SPDX-License-Identifier: Apache-2.0
"""The maps' state machine against a plain model: hook, poststop, restart, reuse, reconciling and garbage
collection in any order, on real maps, cgroups and processes; the kernel's programs do mkdir and rmdir.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bpf import abi
from bpf.syscall import Map
from exporter import containers, garbage, programs
from exporter.config import Config, Host
from exporter.containers import RECONCILED, Walk
from exporter.orphans import Orphans
from exporter.reconcile import Reconciler
from hooks import oci_hook
from identity import incarnation, lifetime, netns
from identity.claim import Claim
from identity.incarnation import Incarnation
from identity.pinned import open_map
from identity.workload import KIND_CONTAINER, SOURCE_HOOK, Workload, new_id
from tests.kernel.cgroup import cgroup_id, mount
from tests.kernel.claims_model import CONTESTED, UNCLAIMED, Key, Model, Record
from tests.rig.kernel import netns_cookie
from tests.rig.network import Namespace, Network

EXAMPLES = int(os.environ.get("FLOWTAG_MODEL_EXAMPLES", "100"))
ROOT = f"flowtag-model-{os.getpid()}"
CIDS = ("a", "b", "c")
SPECIAL = {abi.OWNER_UNCLAIMED: UNCLAIMED, abi.OWNER_CONTESTED: CONTESTED}
BUNDLE = "/bundle"
PICK = st.integers(0, len(CIDS) - 1)
T = TypeVar("T")


@dataclass(slots=True)
class Site:
    """What all runs share: pins with the cgroup programs attached, and two pods' namespaces."""

    config: Config
    loaded: programs.Programs
    counts: Map
    spaces: tuple[Namespace, Namespace]


@dataclass(slots=True)
class Container:
    """A process that is a container's; hooked when its createRuntime could write."""

    cid: str
    process: subprocess.Popen[bytes]
    cgroup: int
    space: int
    hooked: str = ""

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


@pytest.fixture(scope="module")
def site(kernel: None) -> Iterator[Site]:
    pins = f"/sys/fs/bpf/flowtag-model-{os.getpid()}"
    with tempfile.TemporaryDirectory() as run, Network() as network:
        config = Config(host=Host(pin_directory=pins, run_directory=run, engine_roots=(ROOT,)))
        one, two = (network.namespace(name, bridge=False) for name in ("one", "two"))
        knobs = programs.Knobs(netns.host_cookie(), False, ((ROOT, False),), ())
        (Path(run) / "lock").mkdir()
        try:
            with programs.Programs(knobs, pins, 4096) as loaded:
                loaded.attach(programs.CGROUP_PROGRAMS)
                with open_map("ft_count", pins) as counts:
                    yield Site(config, loaded, counts, (one, two))
        finally:
            programs.remove_pins(pins)


class Machine(RuleBasedStateMachine):
    """Every rule does the real thing and tells the model; then the maps must say what the model says."""

    site: Site

    def __init__(self) -> None:
        super().__init__()
        self.run = self.site.config.host.run_directory
        self.pins = self.site.config.host.pin_directory
        self.maps = {name: open_map(name, self.pins) for name in ("ft_workload", "ft_cgroup", "ft_netns")}
        self.reconciler = Reconciler(self.site.config, self.site.loaded, self.site.counts)
        self.model = Model(self.process_lives, self.populated)
        self.paths: dict[int, Path] = {}
        self.containers: list[Container] = []
        self.moved: dict[int, int] = {}
        self.owners: dict[str, int] = {}
        self.clock = 0
        self.serial = itertools.count()

    @initialize()
    def make_root(self) -> None:
        self.root = mount() / ROOT
        self.root.mkdir()
        number = cgroup_id(self.root)
        self.paths[number] = self.root
        self.model.parent[number] = 0
        self.model.cgroups[number] = Key(UNCLAIMED)

    def teardown(self) -> None:
        for container in self.containers:
            kill(container)
        if hasattr(self, "root"):
            for directory, _, _ in os.walk(self.root, topdown=False):
                remove(Path(directory))
        for keys in self.maps.values():
            for key in list(keys.keys()):
                keys.delete(key)
            keys.close()
        for directory in ("live", "pending"):
            for name, _ in incarnation.every(f"{self.run}/{directory}"):
                os.unlink(f"{self.run}/{directory}/{name}")

    # What the model may ask of the world.

    def process_lives(self, pid: int) -> bool:
        return any(found.process.pid == pid and found.alive for found in self.containers)

    def populated(self, number: int) -> bool:
        below = {number} | {child for child, parent in self.model.parent.items() if parent == number}
        return any(found.alive and self.place(found) in below for found in self.containers)

    def place(self, container: Container) -> int:
        return self.moved.get(container.process.pid, container.cgroup)

    def current(self, *, alive: bool) -> list[Container]:
        """The last container of each id, of those that live or of those that do not."""
        last = {found.cid: found for found in self.containers}
        return [found for found in last.values() if found.alive == alive]

    def directory(self, name: str) -> int | None:
        return next((number for number, path in self.paths.items() if path == self.root / name), None)

    def make(self, path: Path) -> int:
        path.mkdir()
        number = cgroup_id(path)
        self.paths[number] = path
        self.model.mkdir(number, cgroup_id(path.parent))
        return number

    # The world.

    @precondition(lambda self: len(self.current(alive=True)) < len(CIDS))
    @rule(pick=PICK, name=st.sampled_from((*CIDS, *CIDS, "")), space=st.integers(0, 2))
    def start(self, pick: int, name: str, space: int) -> None:
        """A container's process, in a cgroup of any container's name; without one in the engine's own."""
        running = {found.cid for found in self.current(alive=True)}
        self.launch(choose(pick, [cid for cid in CIDS if cid not in running]), name, space)

    @precondition(lambda self: not self.current(alive=True))
    @rule(space=st.integers(1, 2), names=st.permutations(CIDS), bare=st.booleans())
    def start_pod(self, space: int, names: list[str], bare: bool) -> None:
        """Two that share a namespace, in cgroups of their own; bare: the first one has none."""
        for cid, name in zip(CIDS, ["" if bare else names[0], names[1]], strict=False):
            self.launch(cid, name, space)
            self.create(self.containers[-1], broken=False)

    @precondition(lambda self: self.model.spaces and len(self.current(alive=True)) < len(CIDS))
    @rule(pick=PICK)
    def start_beside(self, pick: int) -> None:
        """A container in a known namespace, and in the engine's own cgroup: the namespace is all there is."""
        running = {found.cid for found in self.current(alive=True)}
        cid = choose(pick, [cid for cid in CIDS if cid not in running])
        self.launch(cid, "", 1 + pick % 2)
        self.create(self.containers[-1], broken=False)

    def launch(self, cid: str, name: str, space: int) -> None:
        number = (self.directory(name) or self.make(self.root / name)) if name else 0
        place = self.site.spaces[space - 1] if space else None
        with place.entered() if place else nullcontext():
            process = subprocess.Popen(["sleep", "1000"])
        if name:
            (self.root / name / "cgroup.procs").write_text(str(process.pid), encoding="ascii")
        self.containers.append(Container(cid, process, number, netns_cookie(place) if place else 0))

    @precondition(lambda self: self.current(alive=True))
    @rule(pick=PICK)
    def die(self, pick: int) -> None:
        kill(choose(pick, self.current(alive=True)))

    @precondition(lambda self: self.without_inner())
    @rule(pick=PICK)
    def nest(self, pick: int) -> None:
        self.make(self.root / choose(pick, self.without_inner()) / "inner")

    def without_inner(self) -> list[str]:
        return [name for name in CIDS if self.directory(name) and not self.directory(f"{name}/inner")]

    @precondition(lambda self: self.movable())
    @rule(pick=PICK)
    def move(self, pick: int) -> None:
        """A container that the hook knows moves into a cgroup of its own making."""
        found = choose(pick, self.movable())
        inner = self.paths[found.cgroup] / "inner"
        (inner / "cgroup.procs").write_text(str(found.process.pid), encoding="ascii")
        self.moved[found.process.pid] = cgroup_id(inner)

    def movable(self) -> list[Container]:
        there = [found for found in self.hookable(alive=True) if found.hooked and found.cgroup]
        return [found for found in there if (self.paths[found.cgroup] / "inner").exists()]

    @precondition(lambda self: self.empty())
    @rule(pick=PICK)
    def remove_cgroup(self, pick: int) -> None:
        self.remove_named(choose(pick, self.empty()))

    def empty(self) -> list[str]:
        there = {name: self.directory(name) for name in CIDS}
        return [name for name, number in there.items() if number and not self.populated(number)]

    def remove_named(self, name: str) -> None:
        for path in (self.root / name / "inner", self.root / name):
            gone = self.directory(str(path.relative_to(self.root)))
            if gone:
                remove(path)
                del self.paths[gone]
                self.model.rmdir(gone)

    # The hook.

    def record(self, found: Container, owner: str) -> Record:
        return Record(
            found.cid, owner, found.process.pid, found.cgroup, found.space, no_cgroup=not found.cgroup
        )

    def call(self, found: Container, pins: str) -> tuple[str, int]:
        """createRuntime; the owner's name and id."""
        owner = f"hook:{next(self.serial)}"
        workload = Workload(
            id=new_id(),
            start=boottime(),
            kind=KIND_CONTAINER,
            source=SOURCE_HOOK,
            container_id=found.cid,
        )
        self.owners[owner] = workload.id
        oci_hook.start(
            Incarnation(workload, pid=found.process.pid),
            incarnation.file_name(BUNDLE, found.cid),
            self.run,
            {"pin_directory": pins},
            str(os.getpid()),
        )
        return owner, workload.id

    def hookable(self, *, alive: bool) -> list[Container]:
        """The hook runs before a container's own process does."""
        return [found for found in self.current(alive=alive) if found.process.pid not in self.moved]

    @precondition(lambda self: self.hookable(alive=True))
    @rule(pick=PICK, broken=st.sampled_from((False, False, True)))
    def create_runtime(self, pick: int, broken: bool) -> None:
        """Also late, twice, and without maps."""
        self.create(choose(pick, self.hookable(alive=True)), broken)

    @precondition(lambda self: self.hookable(alive=False))
    @rule(pick=PICK)
    def create_runtime_of_the_dead(self, pick: int) -> None:
        self.create(choose(pick, self.hookable(alive=False)), broken=False)

    def create(self, found: Container, broken: bool) -> None:
        cid = found.cid
        owner, _ = self.call(found, "/sys/fs/bpf/nowhere" if broken else self.pins)
        new = self.record(found, owner)
        if not found.alive:
            self.model.pending.pop(cid, None)
        elif broken:
            self.model.pending[cid] = new
        else:
            self.model.live[cid] = self.model.begin(new)
            found.hooked = self.model.live[cid].owner
            self.model.pending.pop(cid, None)

    @precondition(lambda self: self.hookable(alive=True))
    @rule(pick=PICK, gone=st.booleans())
    def create_runtime_of_a_dying(self, pick: int, gone: bool) -> None:
        """The process dies, and perhaps its cgroup goes, after the hook has looked at them."""
        found = choose(pick, self.hookable(alive=True))
        cid = found.cid
        real = lifetime.begin

        def begin(new: Incarnation, maps: lifetime.Maps, run: str) -> None:
            kill(found)
            if gone and found.cgroup and not self.populated(found.cgroup):
                self.remove_named(self.paths[found.cgroup].name)
            real(new, maps, run)

        lifetime.begin = begin
        try:
            owner, _ = self.call(found, self.pins)
        finally:
            lifetime.begin = real
        record = self.model.begin(self.record(found, owner))
        self.model.pending.pop(cid, None)
        self.model.live.pop(cid, None)
        self.model.end(record)

    @precondition(lambda self: self.model.live or self.model.pending)
    @rule(pick=PICK, ended=st.booleans())
    def poststop(self, pick: int, ended: bool) -> None:
        """In time, or while another incarnation lives already; late, twice."""
        cid = choose(pick, sorted(self.model.live | self.model.pending))
        if ended:
            for found in self.current(alive=True):
                if found.cid == cid:
                    kill(found)
        for _ in range(2):
            self.stop(cid)

    def stop(self, cid: str) -> None:
        name = incarnation.file_name(BUNDLE, cid)
        oci_hook.stop(name, self.run, {"pin_directory": self.pins}, boottime())
        self.model.poststop(cid)

    # The exporter.

    @precondition(lambda self: self.model.live)
    @rule()
    def end_orphans(self) -> None:
        Orphans(self.site.config).end_dead()
        self.model.end_orphans()

    @precondition(lambda self: self.model.pending)
    @rule()
    def replay(self) -> None:
        named = {incarnation.file_name(BUNDLE, cid): cid for cid in CIDS}
        left = [named[name] for name, _ in incarnation.every(f"{self.run}/pending")]
        self.reconciler._replay()
        for cid in left:
            self.model.replay(cid)
            for found in self.containers:
                if cid in self.model.live and found.process.pid == self.model.live[cid].process:
                    found.hooked = self.model.live[cid].owner

    @precondition(lambda self: len(self.paths) > 1)
    @rule(patient=st.booleans())
    def walk(self, patient: bool) -> None:
        shaped = {}
        for entry in os.scandir(self.root):  # in the walk's order: the first in a namespace keeps it
            if entry.is_dir():
                path = Path(entry.path)
                shaped[cgroup_id(path)] = path.name, self.first_space(path)
        containers.HOOK_NS = 0 if patient else 1 << 62
        assert Walk(self.site.config, str(mount())).run()
        self.model.walk(shaped, patient=patient)

    def first_space(self, path: Path) -> int:
        for directory, _, _ in os.walk(path):
            for pid in Path(directory, "cgroup.procs").read_text(encoding="ascii").split():
                return next(found.space for found in self.containers if found.process.pid == int(pid))
        return 0

    @precondition(lambda self: self.containers)
    @rule(seconds=st.sampled_from((0, 1, 59, 60, 3601)))
    def collect(self, seconds: int) -> None:
        self.clock += seconds * garbage.SECOND
        before = {number: self.claim("ft_cgroup", number) for number in self.model.cgroups}
        now = garbage.now() + self.clock
        garbage.Collector(self.site.config, now).run()
        removed = {number for number in before if self.claim("ft_cgroup", number) is None}
        for number in before:
            claim = before[number]
            long_ended = claim is not None and claim.until != 0 and now - claim.until >= garbage.KEY_GRACE
            assert (number in removed) == (number not in self.model.parent and long_ended)
        self.model.collect(removed)

    # What must hold after every step.

    def claim(self, name: str, number: int) -> Claim | None:
        value = self.maps[name].get(abi.ID.pack(number))
        return Claim.unpack(value) if value else None

    @invariant()
    def maps_say_what_the_model_says(self) -> None:
        for name, wanted in (("ft_cgroup", self.model.cgroups), ("ft_netns", self.model.spaces)):
            for number, key in wanted.items():
                claim = self.claim(name, number)
                assert claim is not None, f"{name}: {number} is absent, not {key}"
                if key.found and key.owner not in self.owners:
                    assert claim.workload not in self.owners.values()
                    self.owners[key.owner] = claim.workload
                owner = SPECIAL.get(claim.workload, claim.workload)
                assert owner == self.owners.get(key.owner, key.owner), (name, number, key)
                assert (claim.until != 0) == key.ended, (name, number, key)
                if name == "ft_cgroup":
                    assert bool(claim.flags & abi.FLAG_INHERITED) == key.inherited
                assert bool(claim.flags & abi.FLAG_RECONCILED) == bool(key.found)
                assert bool(claim.flags & abi.FLAG_NO_CGROUP) == key.no_cgroup
                assert claim.since <= boottime()

    @invariant()
    def nobody_has_anothers_cgroup(self) -> None:
        """The truth, without the model: who lives in a cgroup, and whom the map would name."""
        for number in self.paths:
            claim = self.claim("ft_cgroup", number)
            if claim is None or claim.until or claim.workload <= abi.OWNER_SPECIAL:
                continue
            owner = self.workload(claim.workload)
            for found in self.containers:
                if found.alive and found.hooked and self.place(found) == number:
                    assert owner.container_id == found.cid
                    assert owner.source == RECONCILED or owner.id == self.owners[found.hooked]

    @invariant()
    def owners_have_names(self) -> None:
        for name in ("ft_cgroup", "ft_netns"):
            for value in dict(self.maps[name].items()).values():
                number = Claim.unpack(value).workload
                assert number <= abi.OWNER_SPECIAL or self.workload(number).id == number
        for found in self.containers:
            if found.alive and found.hooked:
                assert self.workload(self.owners[found.hooked]).end == 0

    def workload(self, number: int) -> Workload:
        value = self.maps["ft_workload"].get(abi.ID.pack(number))
        assert value is not None, f"workload {number} is named by a key, and absent"
        return Workload.unpack(value)

    @invariant()
    def files_are_the_models(self) -> None:
        for directory, book in (("live", self.model.live), ("pending", self.model.pending)):
            there = {found.workload.id for _, found in incarnation.every(f"{self.run}/{directory}")}
            assert there == {self.owners[record.owner] for record in book.values()}


def choose(pick: int, among: list[T]) -> T:
    return among[pick % len(among)]


def kill(container: Container) -> None:
    container.process.kill()
    container.process.wait()


def boottime() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def remove(path: Path) -> None:
    """rmdir; the last process of a cgroup leaves it a moment after it was waited for."""
    deadline = time.monotonic() + 5
    while True:
        try:
            path.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def test_maps_follow_the_model(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "HOOK_NS", containers.HOOK_NS)  # put back at the end
    Machine.site = site
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            derandomize="FLOWTAG_MODEL_EXAMPLES" not in os.environ,
            suppress_health_check=list(HealthCheck),
            database=None,
            report_multiple_bugs=False,
        ),
    )
