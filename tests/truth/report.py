# SPDX-License-Identifier: Apache-2.0
"""A run as a table for people, as Markdown for docs/accuracy.md, and as JSON for machines."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bpf import abi
from tests.truth.methods import FLOWTAG, METHODS
from tests.truth.tally import Count, Tally, total

COLUMNS = (
    "flows",
    "correct",
    "misattributed",
    "unattributed",
    "by_design",
    "missing",
    "doubled",
    "lost_counted",
)
LEAST = 500
LEAST_IN_ALL = 20_000
WANTED = tuple(name for name in (*abi.RULES, *abi.REASONS) if name and name != "none")

DOCUMENT = """\
# How often flowtag is right

Printed by `.venv/bin/python -m tests.truth --markdown` (root, a few minutes) on Linux {kernel}.

Every workload gets a random nonce that flowtag cannot know and writes it as the first bytes of every
connection, in both directions. Both ends note address, port, time and the nonce that they read. Then each
record of `flowtag run --output json` is joined with those notes: the traffic itself says who owned it.

- correct: the owner that the far end read. misattributed: any other.
- unattributed: nobody's; by_design: those of them that ARCHITECTURE.md, 'Who owns a socket', leaves to
  nobody, each for the one reason that the scenario expects.
- missing: no record; doubled: more than one; lost_counted: losses that the kernel side counted itself.

A run is red, and its exit status 1, with one flow misattributed or doubled, more missing than
lost_counted, or unattributed other than by_design. `--mutate all` takes the rules out of a copy of the
program, one at a time, and each time the run turns red.

## By scenario

{scenarios}

## By rule and reason

{rules}

Of containers whose hook ran:

{hooked}

## Beside simpler methods

On the same run: the cgroup of the task that is current at close; the local address looked up when the
record is read; the same in a list of containers that is polled once a second. by_design does not excuse
those, it only says which flows flowtag leaves to nobody.

{methods}

By scenario, flows misattributed and unattributed:

{other}
"""

Tallies = Mapping[str, Tally]


def methods(tallies: Tallies) -> dict[str, Count]:
    """Each method over all scenarios."""
    return {name: total(t.methods[name] for t in tallies.values()) for name in METHODS}


def by_rule(tallies: Tallies) -> dict[str, Count]:
    """flowtag's verdicts by rule or reason over all scenarios, every one of the list named."""
    return _sum((t.by_rule for t in tallies.values()), WANTED)


def hooked(tallies: Tallies) -> dict[str, Count]:
    """The same, only of containers whose hook ran."""
    return _sum(t.hooked for t in tallies.values())


def _sum(parts: Iterable[Mapping[str, Count]], names: Sequence[str] = ()) -> dict[str, Count]:
    found: dict[str, list[Count]] = {name: [] for name in names}
    for part in parts:
        for name, count in part.items():
            found.setdefault(name, []).append(count)
    return {name: total(counts) for name, counts in found.items()}


def thin(tallies: Tallies) -> list[str]:
    """What a whole run has too few flows of to prove anything."""
    rules = by_rule(tallies)
    few = [f"{name}: {rules[name].flows} flows, not {LEAST}" for name in WANTED if rules[name].flows < LEAST]
    flows = methods(tallies)[FLOWTAG].flows
    return few + ([f"in all: {flows} flows, not {LEAST_IN_ALL}"] if flows < LEAST_IN_ALL else [])


def as_json(tallies: Tallies) -> dict[str, Any]:
    """Per scenario and method the counts; flowtag's also per rule and reason; the sums of both."""
    return {
        "scenarios": {
            name: {
                "seconds": round(tally.seconds, 1),
                "methods": {method: asdict(count) for method, count in tally.methods.items()},
                "flowtag_by_rule": {rule: asdict(count) for rule, count in tally.by_rule.items()},
                "hooked_by_rule": {rule: asdict(count) for rule, count in tally.hooked.items()},
                "faults": tally.faults,
            }
            for name, tally in tallies.items()
        },
        "total": {
            "methods": {name: asdict(count) for name, count in methods(tallies).items()},
            "flowtag_by_rule": {name: asdict(count) for name, count in by_rule(tallies).items()},
            "hooked_by_rule": {name: asdict(count) for name, count in hooked(tallies).items()},
        },
    }


def _tables(tallies: Tallies) -> Iterable[tuple[str, dict[str, Count]]]:
    yield "scenario", {name: tally.methods[FLOWTAG] for name, tally in tallies.items()}
    yield "rule or reason", by_rule(tallies)
    yield "hooked containers", hooked(tallies)
    yield "method", methods(tallies)


def _row(name: str, count: Count) -> list[str]:
    return [name, *(str(getattr(count, column)) for column in COLUMNS)]


def as_text(tallies: Tallies) -> str:
    """Three tables: by scenario, by rule and reason, by method."""
    parts = []
    for title, counts in _tables(tallies):
        rows = [[title, *COLUMNS], *(_row(name, count) for name, count in counts.items())]
        parts.append(_aligned(rows))
    return "\n\n".join(parts)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def as_markdown(tallies: Tallies) -> str:
    """docs/accuracy.md."""

    def table(title: str, counts: Mapping[str, Count]) -> str:
        return _markdown([title, *COLUMNS], [_row(name, count) for name, count in counts.items()])

    other = _markdown(
        ["misattributed / unattributed", *METHODS],
        [[name, *(_share(t.methods[method]) for method in METHODS)] for name, t in tallies.items()],
    )
    return DOCUMENT.format(
        kernel=os.uname().release,
        scenarios=table("scenario", {name: t.methods[FLOWTAG] for name, t in tallies.items()}),
        rules=table("rule or reason", by_rule(tallies)),
        hooked=table("hooked containers", hooked(tallies)),
        methods=table("method", methods(tallies)),
        other=other,
    )


def _share(count: Count) -> str:
    return f"{count.misattributed} / {count.unattributed}"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))
