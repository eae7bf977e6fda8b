# SPDX-License-Identifier: Apache-2.0
"""A status as one page for people, and as one JSON object for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from bpf import abi
from hooks.runs import Event
from hooks.status import Engine, Running, Status
from identity import census, cgroup_life

MOST = 20
"""Containers, and references, that the page names; `--json` has all."""


def text(found: Status) -> list[str]:
    """The page, in lines."""
    return [
        *_problems(found.problems),
        *_engines(found.engines),
        *_hook(found),
        *_runs(found),
        *_containers(found.containers),
        *_needed(found),
    ]


def _problems(problems: Sequence[str]) -> Iterator[str]:
    if not problems:
        yield "nothing needs a hand"
    else:
        yield f"{_many(len(problems), 'thing')} {'needs' if len(problems) == 1 else 'need'} a hand:"
        yield from (f"  ! {clean(problem)}" for problem in problems)


def _engines(engines: Sequence[Engine]) -> Iterator[str]:
    yield ""
    yield "engines" if engines else "engines: none found"
    for one in engines:
        state = one.state
        said = "registered" if state.registered else "not registered"
        if state.registered:
            said += {True: ", effective", False: ", not effective", None: ""}[state.effective]
        elif state.effective:
            said += ", still calls the hook"
        about = (state.registered and state.detail) or one.found or state.detail
        yield f"  {one.name:<15} {said:<27} {clean(about)}".rstrip()


def _hook(found: Status) -> Iterator[str]:
    hook, maps = found.hook, found.maps
    yield ""
    if not hook.installed:
        yield f"hook   not in {hook.directory}"
    else:
        switch = "enabled" if hook.disabled is None else f"DISABLED since {_time(hook.disabled)}"
        yield f"hook   {hook.directory}: {switch}; self-test {'FAILED' if hook.self_test else 'passed'}"
        yield f"       calls {clean(hook.application)}{'' if hook.application_there else ': GONE'}"
    state = f"{len(maps.there)} of {len(abi.MAPS)}" if maps.missing or maps.problem else "all"
    beside = f"; beside it: {', '.join(maps.others)}" if maps.others else ""
    yield f"maps   layout {abi.LAYOUT}, {state} in {clean(maps.directory)}{beside}"


def _runs(found: Status) -> Iterator[str]:
    yield ""
    since = "of the last ones" if found.runs.old else "since boot"
    if not found.runs.events:
        yield f"hook runs {since}: none"
        return
    yield f"hook runs {since}: {found.runs.total}, of which {found.runs.failed} failed"
    for name, event in found.runs.events.items():
        counts = ", ".join(f"{what} {count}" for what, count in sorted(event.outcomes.items()))
        failed = ", ".join(f"{kind} {count}" for kind, count in sorted(event.failures.items()))
        took = f"p50 {event.p50_ms:.1f} ms, p99 {event.p99_ms:.1f} ms" if event.p50_ms is not None else ""
        parts = filter(None, (counts, failed and f"failed: {failed}", took))
        yield f"  {name:<14} {'; '.join(parts)}"


def _containers(containers: Sequence[Running]) -> Iterator[str]:
    yield ""
    if not containers:
        yield "containers: none runs"
        return
    counts = Counter(one.container.state for one in containers)
    said = ", ".join(f"{state} {counts[state]}" for state in census.STATES if counts[state])
    yield f"containers: {_many(len(containers), 'runs', 'run')}: {said}"
    without = [one for one in containers if one.reason]
    for one in without[:MOST]:
        container = one.container
        name = clean(container.name or container.container_id[:12])[:40]
        yield f"  {name:<40} {one.engine or '?':<11} {container.state:<11} {clean(one.reason)}"
    if len(without) > MOST:
        yield f"  and {len(without) - MOST} more without an identity from the hook:"
        for reason, count in Counter(one.reason for one in without[MOST:]).most_common(MOST):
            yield f"    {count:>6}  {clean(reason)}"


def _needed(found: Status) -> Iterator[str]:
    if not found.needed_by:
        return
    running = sum(one.running is True for one in found.needed_by)
    yield ""
    count = _many(len(found.needed_by), "container")
    yield f"stub and wrapper are needed by {count}, of which {running} run"
    stopped = [one for one in found.needed_by if one.running is not True]
    for one in stopped[:MOST]:
        yield f"  {clean(one.container)[:40]:<40} {one.engine:<11} stopped"
    if len(stopped) > MOST:
        yield f"  and {len(stopped) - MOST} more that are stopped"


def document(found: Status) -> dict[str, Any]:
    """The JSON object; its keys are in docs/runtimes.md."""
    hook, maps, ran = found.hook, found.maps, found.runs
    counts = Counter(one.container.state for one in found.containers)
    return {
        "healthy": not found.problems,
        "problems": list(found.problems),
        "engines": [{"name": one.name, "found": one.found, **one.state._asdict()} for one in found.engines],
        "hook": {
            "directory": hook.directory,
            "installed": hook.installed,
            "enabled": hook.disabled is None,
            "disabled_since": None if hook.disabled is None else _time(hook.disabled),
            "application": hook.application,
            "application_there": hook.application_there,
            "self_test": None if hook.self_test is None else not hook.self_test,
            "self_test_problem": hook.self_test or "",
        },
        "maps": {
            "directory": maps.directory,
            "layout": abi.LAYOUT,
            "there": list(maps.there),
            "missing": list(maps.missing),
            "problem": maps.problem,
            "other_layouts": list(maps.others),
            "claim_missing": bool(found.gap),
        },
        "runs": {
            "total": ran.total,
            "failed": ran.failed,
            "failed_lately": ran.lately,
            "whole": not ran.old,
            "events": {name: _event(event) for name, event in ran.events.items()},
        },
        "containers": {
            "total": len(found.containers),
            "identified": sum(counts[state] for state in census.IDENTIFIED),
            "pending": found.pending,
            "states": {state: counts[state] for state in census.STATES},
            "running": [_running(one) for one in found.containers],
        },
        "needed_by": [one._asdict() for one in found.needed_by],
    }


def _event(event: Event) -> dict[str, Any]:
    return {
        "outcomes": dict(event.outcomes),
        "failures": dict(event.failures),
        "p50_ms": event.p50_ms,
        "p99_ms": event.p99_ms,
    }


def _running(one: Running) -> dict[str, Any]:
    container = one.container
    return {
        "container_id": container.container_id,
        "name": container.name,
        "engine": one.engine,
        "state": container.state,
        "reason": one.reason,
        "cgroup": container.cgroup,
        "pid": container.pid,
        "started": _time(cgroup_life.wall(container.started)) if container.started else None,
    }


def clean(said: str) -> str:
    """On one line, without what a terminal would act on: names and reasons may be a tenant's."""
    return "".join(c if c.isprintable() else " " for c in said).encode("utf-8", "replace").decode()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _many(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
