# SPDX-License-Identifier: Apache-2.0
"""What of a status needs a hand: a line each, with what to do.

That nothing is registered is a choice, and needs none; an engine forgotten beside another one does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bpf import abi
from hooks import installed, runs, why
from identity import census

if TYPE_CHECKING:
    from hooks.status import Status

NOT_MISSED = "runc"
"""Where other engines are registered: `register` takes plain runc only where there is no other."""


def problems(found: Status) -> list[str]:
    """Empty where all is well."""
    return [*_of_engines(found), *_of_hook(found), *_of_maps(found), *_of_containers(found)]


def _of_engines(found: Status) -> Iterator[str]:
    for one in found.engines:
        if one.state.problem and (found.hook.installed or one.state.registered):
            yield f"{one.name}: {one.state.problem}"
        if one.state.restart:
            what = "registered, not yet effective" if one.state.registered else "still calls the hook"
            yield f"{one.name}: {what}: {one.state.restart}"
        elif one.state.registered and one.state.effective is False and not one.state.problem:
            yield f"{one.name}: registered, but not effective: something comes before {one.state.detail}"
    if _registered(found):
        missed = Counter(
            one.engine
            for one in found.containers
            if one.reason == why.NOT_REGISTERED and one.engine != NOT_MISSED
        )
        for engine, count in sorted(missed.items()):
            yield (
                f"{engine}: not registered, and runs {count} containers: flowtag register --runtime {engine}"
            )


def _of_hook(found: Status) -> Iterator[str]:
    hook = found.hook
    if not hook.installed and _registered(found):
        yield f"hook: {hook.directory}/{installed.STUB} is missing: flowtag register"
    if hook.disabled is not None:
        yield "hook: disabled: flowtag enable"
    if not hook.application_there:
        yield f"hook: {hook.application} is gone: install flowtag again, or flowtag unregister"
    elif hook.self_test:
        yield f"hook: {hook.self_test}{hook.hint and f': {hook.hint}'}"
    if found.runs.lately:
        yield f"hook runs: {found.runs.lately} of the last {min(runs.LATELY, found.runs.total)} failed"


def _of_maps(found: Status) -> Iterator[str]:
    maps = found.maps
    if maps.problem:
        yield f"maps: {maps.problem}"
    if maps.missing and (maps.there or _registered(found)):
        yield f"maps: {len(maps.missing)} of {len(abi.MAPS)} are not in {maps.directory}: flowtag maps create"
    if found.gap:
        then = "end the containers on the host's network, remove the maps" if found.lost else "flowtag run"
        yield f"maps: a claim is missing, so the host's own flows are nobody's: {then}"


def _of_containers(found: Status) -> Iterator[str]:
    if found.pending:
        what, them = ("1 identity", "it") if found.pending == 1 else (f"{found.pending} identities", "them")
        yield f"containers: {what} could not be written: flowtag run writes {them}"
    contested = sum(one.container.state == census.CONTESTED for one in found.containers)
    if contested:
        yield f"containers: {contested} contested: give each a cgroup of its own"


def _registered(found: Status) -> bool:
    return any(one.state.registered for one in found.engines)
