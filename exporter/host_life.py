# SPDX-License-Identifier: Apache-2.0
"""The life of the host's identity: found at start, waited for, rotated, kept when its source fails.

A thread looks (exporter/host_watch.py); what it found is put into the maps and the kernel's history by
tick(), in the exporter's own thread, between two batches.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType

import structlog

from bpf.syscall import Map
from exporter import host
from exporter.config import Config
from exporter.host import SUCCEED, TAKE_ON, Incarnation
from exporter.host_history import LEAD_NS, HostHistory, now
from exporter.host_sources import Sources, waited_for
from exporter.host_watch import Watcher
from identity.instance import MISSING, STALE, Identity, Outcome, Refused
from identity.names import Names
from identity.workload import Workload, new_id

TRIES = 5
REMEMBERED = 1024
"""Incarnations whose labels are known: as many as ft_workload keeps, for flows that are open for days."""


@dataclass(slots=True)
class Numbers:
    """What the metrics tell: refused by (source, reason), each counted when it begins."""

    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    changes: int = 0
    certificate_not_after: float | None = None


class HostNames:
    """App and labels of the host's incarnations, as a source of names."""

    name = "host"
    working = None
    """The host's identity has metrics of its own."""

    def __init__(self) -> None:
        self._known: dict[int, Identity] = {}

    def learn(self, current: Incarnation) -> None:
        self._known[current.id] = current.identity
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    def names(self, workload: Workload) -> Names | None:
        known = self._known.get(workload.id)
        return Names(app=known.app, labels=known.labels) if known else None

    def close(self) -> None:
        """It keeps nothing open."""


class HostLife:
    """begin() before the programs are attached; then, in a `with`, tick() again and again."""

    def __init__(self, config: Config, workload_map: Map, history: HostHistory) -> None:
        self.names = HostNames()
        self.numbers = Numbers()
        self._config = config.identity
        self._run_directory = config.host.run_directory
        self._map = workload_map
        self._history = history
        self._sources = Sources(config.identity)
        self._watcher = Watcher(config.identity, self._sources)
        self._refused: Mapping[str, Refused] = {}
        self._doubted: float | None = None
        self._current: Incarnation | None = None
        self._first: Outcome | None = None
        self._log = structlog.get_logger()

    @property
    def current(self) -> Incarnation | None:
        return self._current

    def begin(self) -> None:
        """The identity that the programs start with: the one that an earlier exporter left, else the best
        that can be had now without asking anybody.

        A better or another one follows by tick(): as long as the earlier exporter's programs are attached,
        both must say the same.
        """
        self._first = self._sources.look(ask=False)
        self._current = host.load(self._map, self._run_directory)
        if self._current is None and self._first.identity:
            self._current = self._incarnation(now(), self._first.identity, self._first)
            host.store(self._current, self._map, self._run_directory)
            self._tell("host identity", self._current)
        if self._current:
            self._history.begin(self._current.id, self._current.start)
            self.names.learn(self._current)

    def __enter__(self) -> HostLife:
        self._watcher.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watcher.__exit__(kind, error, trace)

    def tick(self) -> bool:
        """Take in what was found; True if what is known of an incarnation has changed."""
        outcome, self._first = self._watcher.take() or self._first, None
        before = self._current
        try:
            if outcome is not None:
                self._hear(outcome)
            self._doubt()
        except OSError as error:  # ft_workload is full, say: the next look tries again
            self._log.warning("storing the host's identity", error=str(error))
        if self._current == before or self._current is None:
            return False
        self.names.learn(self._current)
        return True

    def _hear(self, outcome: Outcome) -> None:
        self._tell_refusals(outcome)
        found = outcome.identity
        if found is None:
            return
        if found.source == "certificate":
            self.numbers.certificate_not_after = found.not_after
        current, following = self._current, self._incarnation(0, found, outcome)
        step = host.decide(current, outcome, self._config.order)
        if current is None or step == SUCCEED:
            self._succeed(current, following)
        elif step == TAKE_ON:
            # The better source speaks at last: what has not left yet is told under its name, too.
            self._become(replace(following, id=current.id, start=current.start), "host identity taken on")
            self.numbers.changes += 1
        else:
            self._keep(current, outcome)

    def _keep(self, current: Incarnation, outcome: Outcome) -> None:
        if not host.confirmed(current, outcome):
            if self._doubted is None:
                self._doubted = time.monotonic()
                self._tell("host identity kept, though its source does not confirm it", current)
            return
        if self._doubted is not None and not current.stale:
            self._tell("host identity confirmed again", current)
        self._doubted = None
        same = replace(current, stale=False, provisional=waited_for(self._config, outcome))
        if same != current:
            self._become(same, "host identity confirmed")

    def _become(self, incarnation: Incarnation, event: str) -> None:
        """The current incarnation, known better."""
        host.store(incarnation, self._map, self._run_directory)
        self._current = incarnation
        if not incarnation.stale:
            self._doubted = None
        self._tell(event, incarnation)

    def _succeed(self, old: Incarnation | None, following: Incarnation) -> None:
        """Another certificate: sockets that open from a time just ahead of now are its."""
        for _ in range(TRIES):
            following = replace(following, start=now() + LEAD_NS)
            host.store(following, self._map, self._run_directory)
            if old:
                host.end(old, self._map, following.start)
            if self._history.succeed(following.id, following.start):
                break
        else:  # this machine does not let us run for a quarter of a second at a time
            self._log.warning("host identity not changed yet", workload=following.identity.workload)
            if old:
                host.store(old, self._map, self._run_directory)
            return
        self._doubted = None
        self._current = following
        self.numbers.changes += 1
        self._tell("host identity", following)

    def _doubt(self) -> None:
        """Mark as stale what has not been confirmed for too long."""
        current = self._current
        if current is None or current.stale or self._doubted is None:
            return
        if time.monotonic() - self._doubted >= self._config.stale_seconds:
            self._become(replace(current, stale=True), "host identity is stale")

    def _incarnation(self, start: int, identity: Identity, outcome: Outcome) -> Incarnation:
        return Incarnation(new_id(), start, identity, waited_for(self._config, outcome))

    def _tell(self, event: str, incarnation: Incarnation) -> None:
        identity = incarnation.identity
        self._log.info(
            event,
            workload=identity.workload,
            source=identity.source,
            state=STALE if incarnation.stale else identity.state,
            id=incarnation.id,
        )

    def _tell_refusals(self, outcome: Outcome) -> None:
        for source, error in outcome.refused.items():
            before = self._refused.get(source)
            if before is not None and str(before) == str(error):
                continue
            self.numbers.refused[source, error.reason] += 1
            if source == "static":  # that it is not set is no news
                continue
            tell = self._log.info if error.reason == MISSING else self._log.warning
            hint = {"hint": error.hint} if error.hint else {}
            tell("host identity refused", source=source, reason=error.reason, error=str(error), **hint)
        self._refused = outcome.refused
