# SPDX-License-Identifier: Apache-2.0
"""The hook under real runc, on real maps: what it writes, what it ends, and that no container waits."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bpf import abi
from hooks import place
from hooks.cli import FOLDER, PATH, STUB, hooks_object
from identity import cgroup, incarnation, netns
from identity.claim import STRIPES, Claim
from identity.incarnation import Incarnation
from identity.pinned import open_map
from identity.workload import KIND_CONTAINER, Workload
from tests.hook_maps import WRITTEN, entry, make_map, make_maps
from tests.rig.bundle import HOST
from tests.rig.container import Container, Runc

WAIT = "import sys; print('up'); sys.stdin.readline()"
TRUE = ("/bin/true",)


@pytest.fixture
def runc(tmp_path: Path) -> Iterator[Runc]:
    if shutil.which("runc") is None:
        pytest.skip("needs runc")
    with Runc(tmp_path, f"/flowtag-hook-test-{os.getpid()}") as found:
        yield found


class Site(NamedTuple):
    """A private run directory and pin directory, and what stands in them."""

    run: Path
    pins: Path

    @property
    def hooks(self) -> dict[str, Any]:
        return hooks_object(str(self.run))

    def files(self, name: str) -> list[Incarnation]:
        return [found for _, found in incarnation.every(str(self.run / name))]

    def workload(self, number: int) -> Workload:
        with open_map("ft_workload", str(self.pins)) as workloads:
            value = workloads.get(entry(number))
        assert value is not None
        return Workload.unpack(value)

    def claim(self, name: str, number: int) -> Claim | None:
        with open_map(name, str(self.pins)) as keys:
            value = keys.get(entry(number))
        return Claim.unpack(value) if value else None

    def size(self, name: str) -> int:
        with open_map(name, str(self.pins)) as keys:
            return len(list(keys.keys()))

    def call(self, event: str, **state: object) -> None:
        """The hook as a runtime calls it, without a runtime."""
        subprocess.run(
            [STUB, event, self.run],
            input=json.dumps(state).encode(),
            env={"PATH": PATH.partition("=")[2]},
            check=True,
        )


@pytest.fixture
def site(run_directory: Path, pin_directory: Path) -> Site:
    run_directory.mkdir(mode=0o700)
    (run_directory / "hook").write_text(f"pin_directory {pin_directory}\n", encoding="ascii")
    make_maps(pin_directory)
    return Site(run_directory, pin_directory)


def boottime() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def finish(container: Container) -> None:
    container.start()
    container.wait()
    container.delete()


def create_seconds(runc: Runc, name: str, hooks: dict[str, Any], **bundle: Any) -> float:
    """What `runc create` takes; the container then runs to its end."""
    began = time.monotonic()
    container = runc.create(name, "", hooks=hooks, args=TRUE, **bundle)
    seconds = time.monotonic() - began
    finish(container)
    return seconds


def test_hook_life_of_a_container(runc: Runc, site: Site) -> None:
    began = boottime()
    container = runc.create("web", WAIT, hooks=site.hooks)
    created = boottime()
    (live,) = site.files("live")
    owner = live.workload.id
    space = netns.cookie(container.pid)
    assert (live.pid, live.cgroup, live.netns) == (container.pid, container.cgroup_id, space)

    workload = site.workload(owner)
    assert workload == live.workload
    assert (workload.name, workload.runtime, workload.kind) == ("web", "runc", KIND_CONTAINER)
    assert began <= workload.start <= created
    for name, number in (("ft_cgroup", live.cgroup), ("ft_netns", space)):
        claim = site.claim(name, number)
        assert claim is not None
        assert (claim.workload, claim.since, claim.until) == (owner, workload.start, 0)
        assert claim.flags == 0

    # A late poststop of an earlier incarnation: this one lives, so nothing happens.
    container.start()
    site.call("poststop", id="web", bundle=str(container.bundle))
    assert site.workload(owner).end == 0
    assert len(site.files("live")) == 1

    container.say("end")
    container.wait()
    container.delete()
    ended = site.workload(owner).end
    assert created < ended < boottime()
    for name, number in (("ft_cgroup", live.cgroup), ("ft_netns", space)):
        claim = site.claim(name, number)
        assert claim is not None
        assert (claim.workload, claim.until) == (owner, ended)
    assert site.files("live") == []

    site.call("poststop", id="web", bundle=str(container.bundle))  # twice is once
    assert site.workload(owner).end == ended
    assert site.files("pending") == []


def test_hook_host_network_has_no_namespace_key(runc: Runc, site: Site) -> None:
    container = runc.create("web", "", hooks=site.hooks, netns=HOST, args=TRUE)
    (live,) = site.files("live")
    assert (live.cgroup, live.netns) == (container.cgroup_id, 0)
    assert site.size("ft_netns") == 0
    finish(container)


def test_hook_shared_namespace_stays_with_its_first(runc: Runc, site: Site) -> None:
    with subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        path = f"/proc/{holder.pid}/ns/net"
        space = netns.cookie(path)
        first = runc.create("first", "", hooks=site.hooks, netns=path, args=TRUE)
        second = runc.create("second", "", hooks=site.hooks, netns=path, args=TRUE)
        owner = {live.workload.name: live.workload.id for live in site.files("live")}
        assert owner.keys() == {"first", "second"}
        finish(first)
        claim = site.claim("ft_netns", space)
        assert claim is not None
        assert (claim.workload, claim.until) == (owner["first"], 0)
        assert site.workload(owner["first"]).end != 0
        finish(second)
        holder.kill()


def test_hook_namespace_of_the_last_ends(runc: Runc, site: Site) -> None:
    with subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        path = f"/proc/{holder.pid}/ns/net"
        for name in ("one", "two"):  # the second claims anew what the first left
            container = runc.create(name, "", hooks=site.hooks, netns=path, args=TRUE)
            (live,) = site.files("live")
            claim = site.claim("ft_netns", netns.cookie(path))
            assert claim is not None
            assert (claim.workload, claim.until) == (live.workload.id, 0)
            finish(container)
        holder.kill()


def test_hook_restart_without_poststop_ends_the_earlier_one(runc: Runc, site: Site) -> None:
    only_start = {"createRuntime": site.hooks["createRuntime"]}
    container = runc.run("web", "", hooks=only_start, args=TRUE)
    container.wait()
    (old,) = site.files("live")
    again = runc.command("run", "--bundle", str(container.bundle), "web")
    subprocess.run(again, check=True, stdin=subprocess.DEVNULL)
    (new,) = site.files("live")
    assert new.workload.id != old.workload.id
    assert site.workload(old.workload.id).end == new.workload.start
    claim = site.claim("ft_cgroup", old.cgroup)
    assert claim is not None
    if old.cgroup != new.cgroup:
        assert (claim.workload, claim.until) == (old.workload.id, new.workload.start)
    claim = site.claim("ft_cgroup", new.cgroup)
    assert claim is not None
    assert (claim.workload, claim.until) == (new.workload.id, 0)


def test_hook_registered_twice_is_one_incarnation(runc: Runc, site: Site) -> None:
    stub = site.hooks["createRuntime"][0]
    twice = {**site.hooks, "prestart": [{**stub, "args": [STUB, "prestart", str(site.run)]}]}
    container = runc.create("web", "", hooks=twice, args=TRUE)
    (live,) = site.files("live")
    claim = site.claim("ft_cgroup", container.cgroup_id)
    assert claim is not None
    assert claim.workload == live.workload.id
    assert site.size("ft_workload") == 1
    finish(container)


def test_hook_two_containers_in_one_cgroup_are_contested(runc: Runc, site: Site) -> None:
    path = f"{runc.cgroup_root}/both"
    one = runc.create("one", WAIT, hooks=site.hooks, cgroup=path)
    one.start()
    mount = cgroup.mount_point()
    with subprocess.Popen(["sleep", "60"]) as other:
        Path(f"{mount}{path}/cgroup.procs").write_text(str(other.pid), encoding="ascii")
        site.call("createRuntime", id="two", bundle="/b", pid=other.pid, annotations={})
        claim = site.claim("ft_cgroup", one.cgroup_id)
        assert claim is not None
        assert claim.workload == abi.OWNER_CONTESTED
        other.kill()
    one.say("end")
    one.wait()
    one.delete()
    claim = site.claim("ft_cgroup", site.files("live")[0].cgroup)
    assert claim is not None
    assert claim.workload == abi.OWNER_CONTESTED


def test_hook_process_in_the_engines_cgroup(site: Site) -> None:
    with subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        site.call("createRuntime", id="a", bundle="/b", pid=process.pid, annotations={})
        (live,) = site.files("live")
        assert (live.cgroup, site.size("ft_cgroup")) == (0, 0)
        claim = site.claim("ft_netns", netns.cookie(process.pid))
        assert claim is not None
        assert claim.flags == abi.FLAG_NO_CGROUP
        process.kill()


def test_hook_crun_leaf_claims_its_parent_too(site: Site) -> None:
    name = f"flowtag-hook-leaf-{os.getpid()}"
    scope = Path(f"{cgroup.mount_point()}/libpod-{name}.scope")
    leaf = scope / "container"
    leaf.mkdir(parents=True)
    try:
        with subprocess.Popen(["sleep", "60"]) as process:
            (leaf / "cgroup.procs").write_text(str(process.pid), encoding="ascii")
            site.call("createRuntime", id=name, bundle="/b", pid=process.pid, annotations={})
            (live,) = site.files("live")
            assert live.cgroup == leaf.stat().st_ino
            assert live.cgroup_parent == scope.stat().st_ino
            for number in (live.cgroup, live.cgroup_parent):
                claim = site.claim("ft_cgroup", number)
                assert claim is not None
                assert claim.workload == live.workload.id
            process.kill()
    finally:
        leaf.rmdir()
        scope.rmdir()


def test_hook_sandboxed_runtime_names_only_the_pod(tmp_path: Path, site: Site) -> None:
    runsc = tmp_path / "runsc"
    shutil.copy("/usr/bin/sleep", runsc)
    notes = {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.sandbox-name": "p",
        "io.kubernetes.cri.sandbox-namespace": "n",
    }
    argv = ["/usr/bin/python3", "-I", "-S", f"{FOLDER}/main.py"]
    with subprocess.Popen([runsc, "60"]) as process:
        while not place.sandboxed(str(process.pid)):  # until it has called exec
            assert process.poll() is None
        assert not place.sandboxed(str(os.getpid()))
        for kind, files in (("container", 0), ("sandbox", 1)):
            state = {
                "id": "a",
                "bundle": "/run/containerd/io.containerd.runtime.v2.task/k8s.io/a",
                "pid": process.pid,
                "annotations": {**notes, "io.kubernetes.cri.container-type": kind},
            }
            subprocess.run(
                [*argv, str(process.pid), "createRuntime", str(site.run)],
                input=json.dumps(state).encode(),
                check=True,
            )
            assert len(site.files("live")) == files
        assert site.files("live")[0].workload.name == "n/p"
        process.kill()


# What may be wrong, and all the same the container starts, within a second of what it needs.


def crash(folder: Path) -> None:
    (folder / "main.py").write_text("import os; os.abort()\n", encoding="ascii")


def error(folder: Path) -> None:
    (folder / "main.py").write_text("raise SystemExit(3)\n", encoding="ascii")


def hang(folder: Path) -> None:
    (folder / "main.py").write_text("import time; time.sleep(60)\n", encoding="ascii")


def hang_with_a_child(folder: Path) -> None:
    text = "import os, time; os.fork(); time.sleep(60)\n"
    (folder / "main.py").write_text(text, encoding="ascii")


def leave_a_child(folder: Path) -> None:
    text = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(5)\n"
    (folder / "main.py").write_text(text, encoding="ascii")


def shout(folder: Path) -> None:
    text = "while True: print('x' * 10000, flush=True)\n"
    (folder / "main.py").write_text(text, encoding="ascii")


def miss_the_script(folder: Path) -> None:
    (folder / "main.py").unlink()


def miss_a_module(folder: Path) -> None:
    (folder.parent / "identity" / "claim.py").unlink()


def miss_python(folder: Path) -> None:
    stub = folder / "flowtag-hook"
    text = stub.read_text(encoding="ascii")
    assert "/usr/bin/python3" in text
    stub.write_text(text.replace("/usr/bin/python3", "/nowhere/python3"), encoding="ascii")


@pytest.mark.parametrize(
    "damage",
    [
        crash,
        error,
        hang,
        hang_with_a_child,
        leave_a_child,
        shout,
        miss_the_script,
        miss_a_module,
        miss_python,
    ],
    ids=lambda damage: str(damage.__name__),
)
def test_container_starts_with_a_damaged_hook(
    runc: Runc, site: Site, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    for package in ("bpf", "hooks", "identity"):
        shutil.copytree(
            f"{FOLDER}/../{package}",
            tmp_path / "app" / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    folder = tmp_path / "app" / "hooks"
    damage(folder)
    hooks = json.loads(json.dumps(site.hooks).replace(FOLDER, str(folder)))
    without = create_seconds(runc, "without", {})
    assert create_seconds(runc, "with", hooks) < without + 1


def test_container_starts_without_timeout_command(runc: Runc, site: Site) -> None:
    hooks = json.loads(json.dumps(site.hooks).replace(PATH, "PATH=/nowhere"))
    without = create_seconds(runc, "without", {})
    assert create_seconds(runc, "with", hooks) < without + 1
    assert not (site.run / "live").exists()  # nothing runs that nothing would stop


@pytest.mark.parametrize("megabytes", [1.2, 6])
def test_container_is_claimed_whatever_the_size_of_its_state(
    runc: Runc, site: Site, megabytes: float
) -> None:
    notes = {f"key-{i}": "a" * 60_000 for i in range(int(megabytes * 1e6 / 60_000))}
    without = create_seconds(runc, "without", {})
    began = time.monotonic()
    container = runc.create("web", "", hooks=site.hooks, args=TRUE, annotations=notes)
    assert time.monotonic() - began < without + 1
    (live,) = site.files("live")
    claim = site.claim("ft_cgroup", container.cgroup_id)
    assert claim is not None
    assert claim.workload == live.workload.id
    container.start()
    container.wait()
    container.delete()


@pytest.mark.parametrize("where", ["/proc/none/run", "/dev/null", "/sys/kernel/flowtag"])
def test_container_starts_with_an_unwritable_run_directory(runc: Runc, site: Site, where: str) -> None:
    without = create_seconds(runc, "without", {})
    assert create_seconds(runc, "with", hooks_object(where)) < without + 1


def test_container_starts_with_a_read_only_run_directory(runc: Runc, site: Site, tmp_path: Path) -> None:
    place = tmp_path / "read-only"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place], check=True)
    try:
        without = create_seconds(runc, "without", {})
        assert create_seconds(runc, "with", hooks_object(str(place))) < without + 1
    finally:
        subprocess.run(["umount", place], check=True)


def only_pending(runc: Runc, site: Site) -> Incarnation:
    """Run a container whose hook cannot write; what it left while the container was there."""
    without = create_seconds(runc, "without", {})
    began = time.monotonic()
    container = runc.create("web", "", hooks=site.hooks, args=TRUE)
    assert time.monotonic() - began < without + 1
    (pending,) = site.files("pending")
    assert site.files("live") == []
    assert (pending.pid, pending.cgroup) == (container.pid, container.cgroup_id)
    assert pending.netns == netns.cookie(container.pid)
    assert pending.workload.name == "web"
    assert pending.workload.id > abi.OWNER_SPECIAL
    assert 0 < pending.workload.start <= boottime()
    finish(container)
    return pending


def test_hook_maps_not_pinned_goes_to_pending(runc: Runc, site: Site) -> None:
    for name in WRITTEN:
        (site.pins / name).unlink()
    pending = only_pending(runc, site)
    assert "it does not exist" in pending.reason
    assert site.files("pending") == []  # it has ended, and there was nothing to end


def test_hook_map_of_another_layout_goes_to_pending(runc: Runc, site: Site) -> None:
    (site.pins / "ft_netns").unlink()
    make_map(site.pins, "ft_netns", value=32)
    assert "layout 1 has" in only_pending(runc, site).reason
    assert site.size("ft_cgroup") == 0
    (left,) = site.files("pending")
    assert left.workload.end != 0  # for the exporter to end


def test_hook_map_full_goes_to_pending(runc: Runc, site: Site) -> None:
    (site.pins / "ft_netns").unlink()
    make_map(site.pins, "ft_netns", entries=1)
    with open_map("ft_netns", str(site.pins)) as spaces:
        spaces.update(entry(1), bytes(40))
    pending = only_pending(runc, site)
    assert "ft_netns" in pending.reason
    claim = site.claim("ft_cgroup", pending.cgroup)  # this one was written, and has ended
    assert claim is not None
    assert claim.workload == pending.workload.id
    assert claim.until != 0
    assert site.files("pending") == []


def test_hook_claims_a_new_cgroup_although_locks_are_held(runc: Runc, site: Site) -> None:
    """A stopped process may hold them; what it takes a lock for is to replace somebody's claim."""
    (site.run / "lock").mkdir()
    held = [os.open(site.run / "lock" / f"{i:02x}", os.O_CREAT) for i in range(STRIPES)]
    for fd in held:
        fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        container = runc.create("web", "", hooks=site.hooks, args=TRUE)
        (live,) = site.files("live")
        claim = site.claim("ft_cgroup", container.cgroup_id)
        assert claim is not None
        assert claim.workload == live.workload.id
    finally:
        for fd in held:
            os.close(fd)
    finish(container)
