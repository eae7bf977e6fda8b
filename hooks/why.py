# SPDX-License-Identifier: Apache-2.0
"""Why a container that runs has no identity from the hook, as far as there is evidence; else `unknown`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hooks.bundles import Known
from hooks.runs import Runs
from hooks.runtime import State
from hooks.runtimes.containerd_tasks import TASKS
from identity import census, cgroup_life
from identity.census import Container

UNKNOWN = "unknown"
NOT_REGISTERED = "engine not registered"
BEFORE = "started before the hook was registered"
DISABLED = "hook disabled"
GONE = "hook failed: the application is gone"
MANY = 3
"""Kinds of failure that are named."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What there is to judge by. Times are seconds of the wall clock.

    states: of the engines that are here, by name; since: when an engine's registration was last written,
    where a file tells; disabled: when the kill switch was set, None where it is not; application: whether
    it is there; problem: why the maps cannot be read.
    """

    states: Mapping[str, State]
    since: Mapping[str, float]
    disabled: float | None
    application: bool
    runs: Runs
    problem: str = ""


def reason(one: Container, known: Known | None, evidence: Evidence) -> str:
    """Empty for a container with its hook's identity."""
    if one.state in (census.HOOK, census.NAMESPACE, census.TRANSLATOR):
        return ""
    if one.detail:
        return f"hook could not write: {one.detail}"
    if one.state == census.UNREADABLE:
        return f"the maps cannot be read: {evidence.problem}"
    if one.state == census.CONTESTED:
        return "two living containers claim its cgroup"
    if one.state == census.ENDED:
        return "its claim was ended, though a process of it lives"
    why = _not_called(one, known, evidence) if known is None or not known.refers else _failed(one, evidence)
    if not one.believed and one.state != census.RECONCILED:
        return f"name not believed: its cgroup's parent is not root's; {why}"
    return why


def _failed(one: Container, evidence: Evidence) -> str:
    """It calls the stub or runs by the wrapper, but the hook has written nothing of it."""
    if _disabled(one, evidence):
        return DISABLED
    if not evidence.application:
        return GONE
    kinds = {
        kind for name, event in evidence.runs.events.items() if name != "poststop" for kind in event.failures
    }
    if kinds:
        said = ", ".join(sorted(kinds)[:MANY])
        return f"hook failed: {said}" if len(kinds) == 1 else f"hook failed: one of {said}"
    return "it calls the hook, which left no trace: disabled at that time, or not run"


def _not_called(one: Container, known: Known | None, evidence: Evidence) -> str:
    engine = known.engine if known else one.runtime
    state = evidence.states.get(engine)
    if (
        engine == "containerd"
        and known
        and f"/{TASKS}/" in known.file
        and f"/{TASKS}/k8s.io/" not in known.file
    ):
        link = evidence.states.get("runc")
        if not (link and link.registered):
            return "made by ctr or nerdctl, which no registration with containerd reaches"
        state, engine = link, "runc"
    if state is None:
        return UNKNOWN
    if not state.registered:
        return NOT_REGISTERED
    if state.effective is False:
        return f"registered but not yet effective{state.restart and f': {state.restart}'}"
    if _disabled(one, evidence):
        return DISABLED
    if known and known.sandbox and "pause containers" in state.detail:
        return "base-spec does not reach pause containers"
    since = evidence.since.get(engine)
    if since is not None and one.started and cgroup_life.wall(one.started) < since:
        return BEFORE
    return UNKNOWN if evidence.application else GONE


def _disabled(one: Container, evidence: Evidence) -> bool:
    """Whether it started while the kill switch was set that is set now."""
    return (
        evidence.disabled is not None
        and one.started > 0
        and cgroup_life.wall(one.started) >= evidence.disabled
    )
