# SPDX-License-Identifier: Apache-2.0
"""A run as a table for people, as Markdown for docs/accuracy.md, and as JSON for machines."""

from __future__ import annotations

from collections import defaultdict
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

Tallies = Mapping[str, Tally]


def methods(tallies: Tallies) -> dict[str, Count]:
    """Each method over all scenarios."""
    return {name: total(t.methods[name] for t in tallies.values()) for name in METHODS}


def by_rule(tallies: Tallies) -> dict[str, Count]:
    """flowtag's verdicts by rule or reason over all scenarios, every one of the list named."""
    found: dict[str, list[Count]] = defaultdict(list, {name: [] for name in WANTED})
    for tally in tallies.values():
        for name, count in tally.by_rule.items():
            found[name].append(count)
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
                "faults": tally.faults,
            }
            for name, tally in tallies.items()
        },
        "total": {
            "methods": {name: asdict(count) for name, count in methods(tallies).items()},
            "flowtag_by_rule": {name: asdict(count) for name, count in by_rule(tallies).items()},
        },
    }


def _tables(tallies: Tallies) -> Iterable[tuple[str, dict[str, Count]]]:
    yield "scenario", {name: tally.methods[FLOWTAG] for name, tally in tallies.items()}
    yield "rule or reason", by_rule(tallies)
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
    """The same tables, and the other methods by scenario."""
    parts = []
    for title, counts in _tables(tallies):
        parts.append(_markdown([title, *COLUMNS], [_row(name, count) for name, count in counts.items()]))
    rows = [[name, *(_share(tally.methods[method]) for method in METHODS)] for name, tally in tallies.items()]
    parts.append(_markdown(["misattributed / unattributed of flows", *METHODS], rows))
    return "\n\n".join(parts) + "\n"


def _share(count: Count) -> str:
    return f"{count.misattributed} / {count.unattributed} of {count.flows}"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))
