# SPDX-License-Identifier: Apache-2.0
"""Where a scenario plays: an exporter, runc with the hook, a network, and everybody's nonces.

with Stage("churn", directory) as stage:
    net = stage.network.namespace("web")
    web = stage.container("web", net)                    # hooked; its flows must be its own
    stray = stage.container("stray", net, hook=False)    # nobody's until it has been found
    shell = stage.process(net, expect=nobodys(HOST, "foreign_process"))
    host = stage.process()                               # beside the containers
    hub = stage.far(net2)                                # a far end outside every container
    stage.leave(web)                                     # ends, poststop has run
stage.evidence                                           # after the `with`
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from exporter.programs import remove_pins
from tests.rig.bundle import HOST as HOST_NETWORK
from tests.rig.container import Container, Runc, cgroup_mounts
from tests.rig.exporter import flowtag
from tests.rig.network import Namespace, Network
from tests.truth import log as traffic
from tests.truth.actor import Actor
from tests.truth.current import Close, Current
from tests.truth.living import Life, Living
from tests.truth.owner import HOST, Expectation, Register, hooked, nobodys, unhooked
from tests.truth.process import PAYLOAD, PYTHON, Process
from tests.truth.tap import Tap, Verdict

SETTLE = 8.0
"""How long records may take to come after the last socket has closed."""
QUIET = 0.4
HUB = 7000
_serial = itertools.count()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is left of a scenario when everybody has gone."""

    sockets: list[traffic.Socket]
    expected: dict[str, Expectation]
    verdicts: list[Verdict]
    closes: list[Close]
    living: Living
    lost: int
    seconds: float


def boottime() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Stage:
    """A context manager; `evidence` is there after it ended without an exception."""

    evidence: Evidence

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        activators: Sequence[str] = (),
        tables: str = "",
        started: bool = True,
    ) -> None:
        serial = next(_serial)
        self.directory = directory / name
        self.logs = self.directory / "logs"
        self.shared = self.directory / "shared"
        for path in (self.logs, self.shared):
            path.mkdir(parents=True)
            path.chmod(0o777)  # payloads that have given up root write there too
        self.register = Register()
        self.living = Living()
        self.network = Network()
        self.runc = Runc(self.directory / "runc", f"/flowtag-truth-{os.getpid()}-{serial}")
        pins = Path(f"/sys/fs/bpf/flowtag-truth-{os.getpid()}-{serial}")
        self.exporter = Tap(
            self.directory / "exporter",
            pins,
            [self.runc.cgroup_root.strip("/")],
            (f"activators = {json.dumps(list(activators))}\n" if activators else "") + tables,
        )
        self._current = Current(self.directory, pins.with_name(pins.name + "-current"))
        self._started = started
        self._actors: dict[Actor, tuple[Container | Process, Life | None]] = {}
        self._logs: dict[Actor, Path] = {}
        self._files = itertools.count()
        self.living.born(HOST, frozenset(("127.0.0.1", "::1")), boottime())
        self._began = time.monotonic()

    def __enter__(self) -> Stage:
        try:
            self._current.__enter__()
            self.network.__enter__()
            flowtag("maps", "create", config=self.exporter.config)
            self.hooks: dict[str, Any] = json.loads(
                flowtag(
                    *("register", "--runtime", "runc", "--print"),
                    *("--run-directory", str(self.exporter.run_directory)),
                )
            )
            if self._started:
                self.exporter.start()
        except BaseException as error:
            self._close(error)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._close(error)

    def _finish(self) -> None:
        """Everybody leaves, the records come, the exporter tells what it lost."""
        for actor in list(self._actors):
            self.leave(actor)
        sockets = traffic.sockets(traffic.read(self.logs))
        keys = {socket.key for socket in sockets}
        self._settle(keys, len(sockets))
        self.exporter.stop()
        self.evidence = Evidence(
            sockets,
            self.register.by_nonce,
            self.exporter.verdicts(keys),
            self._current.closes({netns for netns, _, _ in keys}),
            self.living,
            self.exporter.lost(),
            time.monotonic() - self._began,
        )

    def _settle(self, keys: Set[traffic.Key], wanted: int) -> None:
        """Until there are enough records and no more come, so that doubled ones are seen too."""
        quiet = time.monotonic()
        deadline, count = quiet + SETTLE, -1
        while time.monotonic() < deadline:
            found = self.exporter.absorb(keys)
            if found != count:
                quiet, count = time.monotonic(), found
            if count >= wanted and time.monotonic() - quiet > QUIET:
                return
            time.sleep(0.05)

    def _close(self, error: BaseException | None) -> None:
        for speaker, _ in self._actors.values():
            speaker.close()
        self.runc.close()
        with suppress(AssertionError):  # it was never started
            self.exporter.stop()
        self.network.close()
        self._current.__exit__(None, None, None)
        remove_pins(str(self.exporter.pin_directory))
        if error is None:
            shutil.rmtree(self.directory, ignore_errors=True)

    # Who may come.

    def container(
        self,
        id: str,  # noqa: A002 - what OCI calls it
        place: Namespace | str,
        *,
        hook: bool = True,
        hooks: Mapping[str, Any] | None = None,
        expect: Expectation | None = None,
        addresses: Sequence[str] = (),
        name: str = "payload",
        prefix: Sequence[str] = (),
        runc: Runc | None = None,
        **bundle: Any,
    ) -> Actor:
        """A real container, its payload ready. `place` is a namespace, or HOST_NETWORK.

        hooks: others than those that `flowtag register` prints.
        """
        if isinstance(place, Namespace):
            bundle["netns"] = place.path
            addresses = addresses or (place.ipv4, place.ipv6)
        else:
            bundle["netns"] = place
        if place == HOST_NETWORK:
            addresses = ()
        number = next(self._files)
        life = self.living.born(id, frozenset(filter(None, addresses)), boottime())
        container = (runc or self.runc).run(
            id,
            PAYLOAD.read_text(encoding="utf-8"),
            hooks=(hooks or self.hooks) if hook else None,
            binds={str(self.logs): "/log", str(self.shared): "/shared"},
            args=(*prefix, *PYTHON, "/payload.py", f"/log/{number}", name),
            **bundle,
        )
        with suppress(OSError, IndexError):  # not in cgroup v2
            self.living.cgroups[container.cgroup_id] = id
        if expect is None:
            expect = hooked(id) if hook else unhooked(id)
        actor = Actor(container, self.register, expect, hooked=hook)
        self._actors[actor] = container, life
        self._logs[actor] = self.logs / str(number)
        return actor

    def process(
        self,
        place: Namespace | None = None,
        *,
        expect: Expectation | None = None,
        name: str = "payload",
        prefix: Sequence[str] = (),
        cgroup: Path | None = None,
    ) -> Actor:
        """A process of this machine, by default the host's own."""
        inside = place.command() if place else []
        log = self.logs / str(next(self._files))
        process = Process([*inside, *prefix], log, name, cgroup)
        actor = Actor(process, self.register, expect or Expectation(HOST))
        self._actors[actor] = process, None
        self._logs[actor] = log
        return actor

    def far(self, place: Namespace) -> Actor:
        """A far end in a namespace that is no container's and not the host's."""
        return self.process(place, expect=nobodys(HOST, "no_claim"))

    def hub(self) -> Namespace:
        """Where a far end listens on port HUB, of both families."""
        place = self.network.namespace("hub")
        self.far(place).do(f"listen :: {HUB}")
        return place

    def uplink(self) -> str:
        """The host's own IPv4 address on the network."""
        addresses = self.network.uplink()
        self.living.born(HOST, frozenset(addresses), boottime())
        return addresses[0]

    @contextmanager
    def plain_cgroup(self, name: str) -> Iterator[Path]:
        """A cgroup below no engine's root, as a service of the host has; removed at the end."""
        path = cgroup_mounts("cgroup2")[0] / f"truth-{name}-{os.getpid()}"
        path.mkdir()
        try:
            yield path
        finally:
            path.rmdir()

    def log_of(self, actor: Actor) -> Path:
        """Where its payload notes connections, one a line."""
        return self._logs[actor]

    # How they go.

    def leave(self, actor: Actor) -> None:
        """The payload ends by itself."""
        self._gone(actor)
        actor.exit()
        self._forget(actor)

    def kill(self, actor: Actor) -> None:
        """SIGKILL, as by the kernel."""
        speaker, _ = self._actors[actor]
        assert isinstance(speaker, Container)
        self._gone(actor)
        speaker.kill()
        speaker.wait()
        self._forget(actor)

    def _gone(self, actor: Actor) -> None:
        life = self._actors[actor][1]
        if life:
            life.until = boottime()

    def _forget(self, actor: Actor) -> None:
        self._actors.pop(actor)[0].close()
