# SPDX-License-Identifier: Apache-2.0
"""What `flowtag check` says about the host's identity: each source, and the one that is in force."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from bpf.error import FlowtagError
from exporter import host
from exporter.check import OK, WARN, Check, Finding
from exporter.config import Config
from exporter.host import Incarnation
from exporter.host_sources import Sources
from identity.certificate import Certificate
from identity.instance import MISSING, UNVERIFIED, Identity, Outcome, Refused
from identity.pinned import open_map

UNTRUSTING = "set identity.certificate.trust to the authority's root, or nothing is verified"
SOON = 300.0


def sources(config: Config) -> Iterator[Finding]:
    """Each source in its order, up to the one that speaks."""
    outcome = Sources(config.identity).look()
    for name, error in outcome.refused.items():
        yield _refusal(config, name, error)
    if outcome.identity:
        yield _speaker(config, outcome.identity)
    yield from _in_force(config, outcome)


def _refusal(config: Config, name: str, error: Refused) -> Finding:
    nobody_asked = name == "static" or (
        name == "certificate" and config.identity.certificate == Certificate()
    )
    if error.reason == MISSING and nobody_asked:
        return Finding(OK, "identity", f"{name}: none ({error})")
    return Finding(WARN, "identity", f"{name} refused, {error.reason}: {error}", error.hint)


def _speaker(config: Config, found: Identity) -> Finding:
    text = f"{found.source}: {found.workload}, {found.state}"
    if found.not_after is not None:
        text += f", until {_date(found.not_after)}"
        if found.not_after - time.time() < SOON:
            return Finding(WARN, "identity", text, "does whatever renews it run?")
    if found.source == "certificate" and found.state == UNVERIFIED:
        return Finding(WARN, "identity", text, UNTRUSTING)
    return Finding(OK, "identity", text)


def _in_force(config: Config, outcome: Outcome) -> Iterator[Finding]:
    """What the exporter made of the sources: with it, or before it, or in spite of them."""
    try:
        with open_map("ft_workload", config.host.pin_directory) as workloads:
            current = host.load(workloads, config.host.run_directory)
    except FlowtagError:
        return  # maps() says so
    if current is None:
        return
    text = f"in force: {current.identity.workload}, by {current.identity.source}, {_state(current)}"
    if current.stale or _differs(current, outcome):
        yield Finding(
            WARN, "identity", text, "the last good identity is kept; see above, and the exporter's log"
        )
    else:
        yield Finding(OK, "identity", text)


def _state(current: Incarnation) -> str:
    state = "stale" if current.stale else current.identity.state
    return f"{state}, provisional" if current.provisional else state


def _differs(current: Incarnation, outcome: Outcome) -> bool:
    found = outcome.identity
    return found is not None and replace(found, not_after=None) != replace(current.identity, not_after=None)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


CHECKS: tuple[Check, ...] = (sources,)
