# SPDX-License-Identifier: Apache-2.0
"""A host of a test's own: programs on private pins, a private run directory, a first-level engine root.

with OwnHost(tmp_path) as host:
    with host.container("web") as pid: ...      # a cgroup below the root, with a process in it
    host.create_runtime("web", pid)             # the hook; host.poststop("web")
    host.claim("ft_cgroup", number)             # a Claim, or None
    host.tick()                                 # the exporter's reconciler
    host.collect(seconds=61)                    # its garbage collection, so much later
    host.flow(socket)                           # the record of a refused connect
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType

from bpf import abi
from exporter import garbage
from exporter.config import Config, Host
from exporter.host_life import HostLife
from exporter.reconcile import Reconciler
from hooks import oci_hook
from identity import incarnation, netns
from identity.claim import Claim
from identity.incarnation import Incarnation
from identity.workload import KIND_CONTAINER, SOURCE_HOOK, Workload, new_id
from tests.kernel.cgroup import cgroup, cgroup_id
from tests.kernel.pair import boottime
from tests.rig.kernel import Flow, Watch, socket_cookie
from tests.rig.network import Namespace, Network

BUNDLE = "/bundle"
_serial = itertools.count()


@contextmanager
def resident(path: Path, namespace: Namespace | None = None) -> Iterator[int]:
    """A process in a cgroup and a network namespace; its pid."""
    with namespace.entered() if namespace else nullcontext():
        process = subprocess.Popen(["sleep", "1000"])
    try:
        (path / "cgroup.procs").write_text(str(process.pid), encoding="ascii")
        yield process.pid
    finally:
        process.kill()
        process.wait()


class OwnHost:
    """watch sees the namespace `space` as the host's; `pod` is a container's."""

    def __init__(self, directory: Path) -> None:
        self.root_name = f"flowtag-own-{os.getpid()}-{next(_serial)}"
        self.run = directory / "run"
        (self.run / "lock").mkdir(parents=True)
        self._network = Network()

    def __enter__(self) -> OwnHost:
        try:
            self._network.__enter__()
            self.space = self._network.namespace("host", bridge=False)
            self.pod = self._network.namespace("pod", bridge=False)
            self.watch = Watch(host=self.space, roots=((self.root_name, False),)).__enter__()
        except BaseException:
            self._network.close()
            raise
        self._root = cgroup(self.root_name)
        self.root = self._root.__enter__()
        self.pins = str(self.watch.directory)
        self.config = Config(
            host=Host(pin_directory=self.pins, run_directory=str(self.run), engine_roots=(self.root_name,))
        )
        self.settings = {"pin_directory": self.pins, "host_netns": str(netns.host_cookie())}
        self.reconciler = self.new_reconciler()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._root.__exit__(None, None, None)
        self.watch.__exit__(None, None, None)
        self._network.close()

    def new_reconciler(self) -> Reconciler:
        return Reconciler(self.config, self.watch.programs, self.watch.map("ft_count"))

    def identify(self) -> int:
        """Give the host its identity, as the exporter does at its start; the incarnation's id."""
        life = HostLife(self.config, self.watch.map("ft_workload"), self.watch.programs.host)
        life.begin()
        assert life.current
        return life.current.id

    def tick(self) -> None:
        self.reconciler.tick()

    def collect(self, seconds: float = 0) -> garbage.Collector:
        collector = garbage.Collector(self.config, boottime() + int(seconds * 1e9))
        collector.run()
        return collector

    @contextmanager
    def container(self, name: str, namespace: Namespace | None = None) -> Iterator[int]:
        path = self.root / name
        path.mkdir(exist_ok=True)
        with resident(path, namespace) as pid:
            yield pid

    def create_runtime(self, cid: str, pid: int, *, pins: str = "", **names: int | str) -> Workload:
        """The hook; `pins` may be a wrong place, `names` are more of the workload's fields."""
        fields = {"kind": KIND_CONTAINER, **names}
        workload = Workload(id=new_id(), start=boottime(), source=SOURCE_HOOK, container_id=cid, **fields)
        settings = {**self.settings, "pin_directory": pins or self.pins}
        new = Incarnation(workload, pid=pid)
        oci_hook.start(new, self.file_name(cid), str(self.run), settings, str(os.getpid()))
        return workload

    def poststop(self, cid: str) -> None:
        oci_hook.stop(self.file_name(cid), str(self.run), self.settings, boottime())

    def file_name(self, cid: str) -> str:
        return incarnation.file_name(BUNDLE, cid)

    def files(self, directory: str) -> list[Incarnation]:
        return [found for _, found in incarnation.every(str(self.run / directory))]

    def claim(self, name: str, number: int) -> Claim | None:
        value = self.watch.map(name).get(abi.ID.pack(number))
        return Claim.unpack(value) if value else None

    def owner(self, name: str) -> Claim:
        """The claim on the cgroup `name` below the root."""
        claim = self.claim("ft_cgroup", cgroup_id(self.root / name))
        assert claim is not None
        return claim

    def workload(self, number: int) -> Workload | None:
        value = self.watch.map("ft_workload").get(abi.ID.pack(number))
        return Workload.unpack(value) if value else None

    def workloads(self) -> list[Workload]:
        return [Workload.unpack(value) for _, value in self.watch.map("ft_workload").items()]

    def flow(self, of: socket.socket) -> Flow:
        """The record of a refused connect in the host's namespace."""
        cookie = socket_cookie(of)
        of.connect_ex(("127.0.0.1", 9))
        of.close()
        return self.record(cookie)

    def record(self, cookie: int) -> Flow:
        """The only record of a socket that has closed."""
        self.watch.settle()
        spaces = self.space, self.pod
        count = len(self.watch.columns(*spaces))
        (found,) = (f for f in self.watch.flows(*spaces, count=count) if f.cookie == cookie)
        return found
