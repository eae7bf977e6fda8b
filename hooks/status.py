# SPDX-License-Identifier: Apache-2.0
"""What `flowtag status` finds: engines, hook, maps, hook runs, containers; and what of it needs a hand.

Everything is read: engines are asked for what is in force, the stub is run with a state that names no
container. What cannot be read is said in its place, and never an exception.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from bpf import abi
from bpf.error import FlowtagError
from hooks import edit, installed, oci_hook, references, runs, why
from hooks.bundles import Known
from hooks.runtime import Options, Reference, Runtime, State
from hooks.runtimes import hooks_d
from hooks.self_test import self_test
from hooks.status_problems import problems
from identity import census, cgroup, gap
from identity.census import Census, Container
from identity.pinned import open_map

_LAYOUT = re.compile(r"v\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Engine:
    """One that is here or registered. found: how it was noticed; the rest is hooks/runtime.py's State."""

    name: str
    found: str
    state: State


@dataclass(frozen=True, slots=True)
class Hook:
    """The hook directory. disabled: since when the kill switch is set (wall clock, seconds), None if not.

    self_test: None: not installed, so not run; empty: passed; else what is wrong. hint: what to do then.
    """

    directory: str
    installed: bool
    application: str
    application_there: bool
    disabled: float | None
    self_test: str | None
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Maps:
    """The pinned maps: which are there, which of this version's are not, and other layouts beside them."""

    directory: str
    there: tuple[str, ...]
    missing: tuple[str, ...]
    problem: str
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """A container that runs.

    engine: whose it is, empty if nothing tells; reason: why it has no identity from the hook.
    """

    container: Container
    engine: str
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
    """All of it. gap: since when (boottime ns) a claim is missing, 0: none; lost: it is in no file either.

    needed_by: who still refers to stub, wrapper or runtime entry. problems: what needs a hand, a line each.
    """

    engines: Sequence[Engine]
    hook: Hook
    maps: Maps
    runs: runs.Runs
    gap: int
    lost: bool
    pending: int
    containers: Sequence[Running]
    needed_by: Sequence[Reference]
    problems: Sequence[str] = ()


def look(
    options: Options,
    adapters: Sequence[Runtime],
    only: str = "auto",
    docker_roots: Sequence[str] | None = None,
    bundles: Sequence[tuple[str, str]] | None = None,
) -> Status:
    """Look at everything, or at one engine and its containers. FlowtagError if that is not permitted.

    docker_roots and bundles: as in hooks/references.py.
    """
    if os.geteuid() != 0:
        raise FlowtagError(f"reading {options.run_directory} and the maps: not permitted", "run as root")
    settings = oci_hook.read_settings(f"{options.run_directory}/hook")
    pins = oci_hook.pins(settings)
    with ThreadPoolExecutor(1) as beside:  # it waits for the interpreter most of the time
        tested = beside.submit(_hook, options.hook_directory)
        engines = [engine for one in adapters if (engine := _engine(one, options, only)) is not None]
        known = references.containers(options, only, docker_roots, bundles)
        people = Census(pins, options.run_directory, settings.get("cgroup_mount") or cgroup.mount_point())
        extra = tuple(filter(None, settings.get("engine_roots", "").split("/")))
        living = [
            census.Process(one.container_id, one.engine, one.name, one.pid) for one in known if one.running
        ]
        containers = people.take(extra, living)
        hook = tested.result()
    ran = runs.read(options.run_directory)
    evidence = why.Evidence(
        _states(engines), _since(engines, hook), hook.disabled, hook.application_there, ran, people.problem
    )
    missing = _gap(pins)
    shown = [one for one in engines if only in ("auto", _family(one.name))]
    found = Status(
        shown,
        hook,
        _maps(pins),
        ran,
        missing.since,
        missing.by == gap.LOST,
        people.pending,
        [one for one in _judged(containers, known, evidence) if only in ("auto", one.engine)],
        [one for one in references.referring(known, options.run_directory) if only in ("auto", one.engine)],
    )
    return replace(found, problems=problems(found))


def _engine(runtime: Runtime, options: Options, only: str) -> Engine | None:
    """None for one that is neither here nor registered; the options' file and socket are the named one's."""
    if runtime.name != only:
        options = options._replace(file="", socket="", method="")
    found = ""
    try:
        found = runtime.found(options)
        state = runtime.state(options)
    except (FlowtagError, OSError) as error:
        state = State(False, None, problem=f"cannot be told: {error}")
    optional = runtime.name != _family(runtime.name)  # NRI's socket is open wherever containerd is new
    if not state.registered and not state.effective and (not found or optional):
        return None
    return Engine(runtime.name, found, state)


def _family(name: str) -> str:
    """containerd, of containerd-nri: whose containers a registration is for."""
    return name.partition("-")[0]


def _states(engines: Sequence[Engine]) -> dict[str, State]:
    """By engine; of two ways into one the registered one counts."""
    states: dict[str, State] = {}
    for one in engines:
        name = _family(one.name)
        if name not in states or (one.state.registered and not states[name].effective):
            states[name] = one.state
    return states


def _since(engines: Sequence[Engine], hook: Hook) -> dict[str, float]:
    """When each registration was written, by the file that says so, else by the stub.

    Best by what nobody else writes: the backup of that moment, or our own file in a hooks.d.
    """
    since = {}
    for one in engines:
        file = one.state.detail
        ours = hooks_d.file_of(file, "createRuntime")
        paths = [f"{file}{edit.BACKUP}", ours, file, f"{hook.directory}/{installed.STUB}"]
        times = [os.lstat(path).st_ctime for path in paths if os.path.lexists(path)]
        if one.state.registered and times:
            since[_family(one.name)] = times[0]
    return since


def _hook(directory: str) -> Hook:
    there = os.path.lexists(f"{directory}/{installed.STUB}")
    application = os.path.realpath(f"{directory}/app") if there else ""
    try:
        disabled = os.lstat(f"{directory}/{installed.SWITCH}").st_ctime
    except OSError:
        disabled = None
    test, hint = ("", "") if there else (None, "")
    try:
        if there:
            self_test(directory)
    except (FlowtagError, OSError) as error:
        test, hint = str(error), getattr(error, "hint", "")
    main = os.path.isfile(f"{application}/hooks/main.py")
    return Hook(directory, there, application, main if there else True, disabled, test, hint)


def _maps(pins: str) -> Maps:
    there, missing, problem = [], [], ""
    for name in abi.MAPS:
        try:
            open_map(name, pins).close()
            there.append(name)
        except FlowtagError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                missing.append(name)
            else:
                problem = problem or str(error)
    above, mine = os.path.split(pins.rstrip("/"))
    try:
        others = sorted(name for name in os.listdir(above) if _LAYOUT.fullmatch(name) and name != mine)
    except OSError:
        others = []
    return Maps(pins, tuple(there), tuple(missing), problem, tuple(others))


def _gap(pins: str) -> gap.Gap:
    try:
        return gap.read(pins)
    except FlowtagError:
        return gap.Gap(0, 0)  # the maps' own problem says so


def _judged(containers: Sequence[Container], known: Sequence[Known], evidence: why.Evidence) -> list[Running]:
    by_id = {one.container_id: one for one in known}
    found = []
    for one in containers:
        of = by_id.get(one.container_id)
        found.append(Running(one, of.engine if of else one.runtime, why.reason(one, of, evidence)))
    return found
