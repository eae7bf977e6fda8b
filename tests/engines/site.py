# SPDX-License-Identifier: Apache-2.0
"""A host with flowtag on it, for engines of the rig: exporter, hook directory, and who owned which flow.

with Site(tmp_path, pin_directory, engine.cgroup_root) as site:
    site.hook_directory                        # stub and wrapper, as `flowtag register` puts them there
    site.write_hooks_d(podman.hooks)
    flow = site.flow(client, "10.195.3.10", 8080)
    flow.client, flow.server                   # the two records of one connection
    site.from_host("10.195.3.10", 8080)        # the same, this process being the client
    site.await_identity(container_id)          # what the hook remembered of it: identity/incarnation.py
    site.await_end(incarnation)                # until its claims are no longer alive
    site.claims(incarnation)                   # those on its cgroup and namespace
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from bpf import abi
from hooks import installed
from hooks.bundle import PATH
from identity import incarnation
from identity.claim import Claim
from identity.incarnation import Incarnation
from identity.pinned import open_map
from identity.workload import Workload
from tests.rig.exporter import ROOT, Exporter, Record
from tests.rig.puppet import Puppet
from tests.rig.view import View


class Flow(NamedTuple):
    """What was reported of one connection, at each end."""

    client: Record
    server: Record


class Site:
    """flowtag's side; the exporter runs in `view`."""

    def __init__(
        self,
        directory: Path,
        pin_directory: Path,
        *engine_roots: str,
        view: View | None = None,
        runtime: str = "/usr/sbin/runc",
    ) -> None:
        """`runtime` is what the wrapper runs; empty: the hook directory is left to registration."""
        self.pins = pin_directory
        self.hook_directory = directory / "hook"
        self.exporter = Exporter(directory / "flowtag", pin_directory, engine_roots=engine_roots, view=view)
        self.run = self.exporter.run_directory
        self._runtime = runtime

    def __enter__(self) -> Site:
        self.exporter.start()
        if self._runtime:
            installed.install(str(self.hook_directory), str(ROOT), self._runtime, str(self.run))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.exporter.stop()

    @property
    def hooks(self) -> dict[str, list[dict[str, Any]]]:
        """The `hooks` of a config.json or base spec."""
        stub = str(self.hook_directory / installed.STUB)
        return {
            event: [{"path": stub, "args": [stub, event, str(self.run)], "env": [PATH], "timeout": 2}]
            for event in ("createRuntime", "poststop")
        }

    def write_hooks_d(self, directory: Path) -> None:
        """What calls the hook in Podman and CRI-O: a JSON an event."""
        for event, (hook,) in self.hooks.items():
            document = {"version": "1.0.0", "hook": hook, "when": {"always": True}, "stages": [event]}
            (directory / f"flowtag-{event}.json").write_text(json.dumps(document), encoding="ascii")

    def flow(self, client: Puppet, address: str, port: int) -> Flow:
        """Let the puppet connect; the records of both ends."""
        return self._both(client.connect(address, port), port)

    def from_host(self, address: str, port: int) -> Flow:
        """Connect from this process."""
        with socket.create_connection((address, port), 5) as peer:
            peer.recv(5, socket.MSG_WAITALL)
            local: int = peer.getsockname()[1]
        return self._both(local, port)

    def to_host(self, client: Puppet, address: str) -> Flow:
        """Let the puppet connect to a listener of this process."""
        with socket.create_server((address, 0)) as listener:
            listener.settimeout(10)
            port: int = listener.getsockname()[1]
            local = client.connect(address, port, serve=lambda: _serve(listener))
        return self._both(local, port)

    def await_owned(self, client: Puppet, address: str, container_id: str, source: str = "") -> Record:
        """Let the puppet connect to this process until a flow is its container's, found by `source`.

        Until then its flows are nobody's; AssertionError if one is anybody else's.
        """
        deadline = time.monotonic() + 10
        while True:
            record = self.to_host(client, address).client
            if record["container_id"] == container_id and source in ("", record["identity_source"]):
                return record
            assert record["workload"] is None or record["container_id"] == container_id, record
            assert time.monotonic() < deadline, record
            time.sleep(0.2)

    def await_reconciled(self, client: Puppet, address: str, container_id: str) -> Record:
        """The same for a container that nobody called the hook for."""
        return self.await_owned(client, address, container_id, "reconciled")

    def _both(self, local: int, port: int) -> Flow:
        def end(role: str, mine: int, other: int) -> Callable[[Record], bool]:
            return lambda r: (r["role"], r["local_port"], r["peer_port"]) == (role, mine, other)

        return Flow(
            self.exporter.await_record(end("client", local, port)),
            self.exporter.await_record(end("server", port, local)),
        )

    def live(self) -> list[Incarnation]:
        return [found for _, found in incarnation.every(str(self.run / "live"))]

    def pending(self) -> list[Incarnation]:
        return [found for _, found in incarnation.every(str(self.run / "pending"))]

    def await_identity(self, container_id: str, timeout: float = 10) -> Incarnation:
        """The living incarnation of a container."""

        def found() -> Incarnation | None:
            return next((one for one in self.live() if one.workload.container_id == container_id), None)

        one: Incarnation | None = _await(found, timeout)
        assert one is not None, f"no identity of {container_id}: {self.pending()} {self.exporter.log}"
        return one

    def claims(self, of: Incarnation, *maps: str) -> list[Claim]:
        """The claims on its keys that are this incarnation's own, in both maps or the one named."""
        claims = []
        for name, number in (("ft_cgroup", of.cgroup), ("ft_netns", of.netns)):
            if number and name in (maps or (name,)):
                with open_map(name, str(self.pins)) as keys:
                    value = keys.get(abi.ID.pack(number))
                if value is not None and Claim.unpack(value).workload == of.workload.id:
                    claims.append(Claim.unpack(value))
        return claims

    def workload(self, of: Incarnation) -> Workload | None:
        with open_map("ft_workload", str(self.pins)) as workloads:
            value = workloads.get(abi.ID.pack(of.workload.id))
        return Workload.unpack(value) if value else None

    def ended_by_hook(self) -> int:
        """How many containers a poststop has ended, as the hook counts itself."""
        lines = (self.run / "hook-runs").read_text(encoding="ascii").splitlines()
        return sum(line.startswith("poststop ended ") for line in lines)

    def await_end(self, of: Incarnation, *maps: str, timeout: float = 10) -> None:
        """Wait until it is over: its file gone, its end known, no living claim (in the map named)."""

        def over() -> bool:
            workload = self.workload(of)
            remembered = any(one.workload.id == of.workload.id for one in self.live())
            ended = workload is None or workload.end != 0
            return ended and not remembered and all(claim.until for claim in self.claims(of, *maps))

        if not _await(over, timeout):
            claims = [(claim.since, claim.until) for claim in self.claims(of, *maps)]
            raise AssertionError(f"{of.workload.name} does not end: {claims} {self.workload(of)}")


def _serve(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.sendall(b"hello")
        peer.recv(1)  # the client closes first


def _await(found: Callable[[], Any], timeout: float) -> Any:
    deadline = time.monotonic() + timeout
    while not (value := found()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value
