# SPDX-License-Identifier: Apache-2.0
"""Who runs, and whose its flows are: every living container with the claim that stands for it.

Containers are found as the exporter finds them, by the names of cgroups below engines' roots, and besides by
what the hook remembers (live/, pending/) and by processes that somebody else knows. Nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from bpf import abi, syscall
from bpf.error import FlowtagError
from identity import cgroup, cgroup_life, engines, incarnation
from identity.claim import Claim
from identity.incarnation import Incarnation
from identity.pinned import open_map
from identity.workload import Workload

HOOK, RECONCILED, NAMESPACE, TRANSLATOR = "hook", "reconciled", "namespace", "translator"
PENDING, UNCLAIMED, CONTESTED, ENDED, NONE = "pending", "unclaimed", "contested", "ended", "none"
UNREADABLE = "unreadable"
IDENTIFIED = (HOOK, RECONCILED, NAMESPACE, TRANSLATOR)
STATES = (*IDENTIFIED, PENDING, UNCLAIMED, CONTESTED, ENDED, NONE, UNREADABLE)
"""Who owns its flows:

hook: its own, by its hook's claim on its cgroup; reconciled: its own, found without a hook; namespace: its
own, by the claim on its network namespace alone, for it has no cgroup of its own; translator: each socket
is whose the translator says
pending: nobody, its hook could not write; unclaimed: nobody yet; contested: nobody, two claim its cgroup;
ended: nobody, the claim has ended but a process lives; none: there is no claim; unreadable: the maps are not
"""


@dataclass(frozen=True, slots=True)
class Process:
    """A container that somebody knows by a process of it, 0 if they do not know which."""

    container_id: str
    runtime: str
    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class Container:
    """One that runs. runtime and cgroup (a path) are empty, started (boottime ns) 0, where not known.

    started: of its oldest process. believed: only root could give its cgroup the name by which it was found.
    detail: why it is pending.
    """

    container_id: str
    runtime: str
    name: str
    state: str
    cgroup: str = ""
    pid: int = 0
    started: int = 0
    believed: bool = True
    detail: str = ""


class Census:
    """What the maps and the files say, read once."""

    def __init__(self, pins: str, run_directory: str, mount: str | None) -> None:
        """mount: of cgroup v2; None: the host has none.

        problem says why the maps cannot be read; pending, how many identities could not be written.
        """
        self.problem = ""
        self._mount = mount
        self._live = [one for _, one in incarnation.every(f"{run_directory}/live")]
        # Without a reason its hook is still at work on it.
        self._pending = [one for _, one in incarnation.every(f"{run_directory}/pending") if one.reason]
        self.pending = len(self._pending)
        self._claims: dict[int, Claim] = {}
        self._spaces: dict[int, Claim] = {}
        self._workloads: dict[int, Workload] = {}
        try:
            self._read(pins)
        except (FlowtagError, OSError) as error:
            self.problem = str(error)

    def take(self, extra: tuple[str, ...] = (), known: Sequence[Process] = ()) -> list[Container]:
        """Every container that runs, by name. extra: more first-level cgroups that are engines'."""
        found: dict[str, Container] = {}
        for one in (*self._of_cgroups(extra), *self._remembered()):
            found.setdefault(one.cgroup or one.container_id, one)
        ids = {one.container_id for one in found.values()}
        for process in known:
            if process.container_id in ids:
                continue
            one = self._of_process(process)
            found.setdefault(one.cgroup or one.container_id, one)
        names = {one.container_id: one.name for one in known if one.name}
        named = (replace(one, name=one.name or names.get(one.container_id, "")) for one in found.values())
        return sorted(named, key=lambda one: (one.name or one.container_id, one.cgroup))

    def _read(self, pins: str) -> None:
        with ExitStack() as stack:
            workloads, cgroups, spaces = (
                stack.enter_context(open_map(name, pins)) for name in ("ft_workload", "ft_cgroup", "ft_netns")
            )
            self._claims = {_number(key): Claim.unpack(value) for key, value in cgroups.items()}
            self._spaces = {_number(key): Claim.unpack(value) for key, value in spaces.items()}
            for number in {claim.workload for claim in self._claims.values()}:
                self._look_up(workloads, number)

    def _look_up(self, workloads: syscall.Map, number: int) -> None:
        value = workloads.get(abi.ID.pack(number)) if number > abi.OWNER_SPECIAL else None
        if value is not None:
            self._workloads[number] = Workload.unpack(value)

    def _of_cgroups(self, extra: tuple[str, ...]) -> Iterator[Container]:
        """As the exporter's walk: below a root, and no container inside another."""
        todo = [(self._mount, "", 0, False)] if self._mount else []
        while todo:
            directory, path, level, inside = todo.pop()
            container = engines.container(path) if inside else None
            if container and (container.certain or cgroup.holds_processes(directory)):
                if cgroup_life.populated(directory):
                    yield self._of_cgroup(directory, path, container)
                continue
            try:
                with os.scandir(directory) as entries:
                    names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:
                continue  # it has gone, or its path is too long
            for name in names:
                below = inside or engines.is_root(name, level + 1, extra)
                todo.append((f"{directory}/{name}", f"{path}/{name}", level + 1, below))

    def _of_cgroup(self, directory: str, path: str, found: engines.Found) -> Container:
        state, workload = self._claim(_id(directory))
        pid, started = cgroup_life.oldest(directory)
        one = Container(
            found.container_id,
            (workload and workload.runtime) or found.runtime,
            _name(workload),
            state,
            path,
            pid,
            started,
            cgroup_life.named_by_root(directory),
        )
        return self._with_pending(one)

    def _claim(self, number: int) -> tuple[str, Workload | None]:
        """The state that a cgroup's claim makes, and its owner if that is a container of its own."""
        if self.problem:
            return UNREADABLE, None
        claim = self._claims.get(number)
        if claim is None:
            return NONE, None
        workload = self._workloads.get(claim.workload)
        if claim.workload == abi.OWNER_CONTESTED:
            return CONTESTED, None
        if claim.until:
            return ENDED, workload
        if claim.workload == abi.OWNER_TRANSLATOR:
            return TRANSLATOR, None
        if claim.workload <= abi.OWNER_SPECIAL:
            return UNCLAIMED, None
        return (RECONCILED if claim.flags & abi.FLAG_RECONCILED else HOOK), workload

    def _with_pending(self, one: Container) -> Container:
        """A container whose hook could not write is pending, unless the exporter found it since."""
        if one.state in IDENTIFIED:
            return one
        for left in self._pending:
            if left.workload.container_id == one.container_id and left.process_lives():
                return replace(
                    one,
                    state=PENDING if one.state != UNREADABLE else UNREADABLE,
                    name=_name(left.workload),
                    runtime=left.workload.runtime,
                    detail=left.reason,
                )
        return one

    def _remembered(self) -> Iterator[Container]:
        """Those that the hook announced and that live, in whichever cgroup."""
        for one in self._live:
            if one.lives():
                yield self._of_incarnation(one)
        for one in self._pending:
            if one.lives():
                state = UNREADABLE if self.problem else PENDING
                yield replace(self._of_incarnation(one), state=state, detail=one.reason)

    def _of_incarnation(self, one: Incarnation) -> Container:
        path = one.cgroup_directory.removeprefix(self._mount or "") if one.cgroup else ""
        if one.cgroup:
            state, _ = self._claim(one.cgroup)
        elif self.problem:
            state = UNREADABLE
        else:
            space = self._spaces.get(one.netns)
            owned = space is not None and space.workload == one.workload.id and not space.until
            state = NAMESPACE if owned else NONE
            if space is not None and space.workload == abi.OWNER_CONTESTED:
                state = CONTESTED
        pid = one.pid if one.process_lives() else 0
        workload = one.workload
        return Container(
            workload.container_id, workload.runtime, _name(workload), state, path, pid, workload.start
        )

    def _of_process(self, known: Process) -> Container:
        """A container that only an engine's files name; its cgroup is the process's, wherever that is."""
        path = None
        if known.pid and self._mount:
            try:
                path = cgroup.path_of(known.pid)
            except OSError:
                path = None  # it has ended meanwhile
        state, workload = UNREADABLE if self.problem else NONE, None
        if path and path != "/":
            state, workload = self._claim(_id(f"{self._mount}{path}"))
        one = Container(
            known.container_id,
            known.runtime,
            known.name or _name(workload),
            state,
            path if path and path != "/" else "",
            known.pid,
            cgroup_life.started(known.pid) if known.pid else 0,
        )
        return self._with_pending(one)


def _name(workload: Workload | None) -> str:
    """Its name, where that is more than its id."""
    if workload is None or workload.name == workload.container_id:
        return ""
    return workload.name


def _number(key: bytes) -> int:
    return int.from_bytes(key, "little")


def _id(directory: str) -> int:
    """The id of a cgroup, 0 if it has gone: nobody's key."""
    try:
        return cgroup.id_of(directory)
    except OSError:
        return 0
