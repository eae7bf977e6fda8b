# SPDX-License-Identifier: Apache-2.0
"""`flowtag top`: the sums of its intervals are what flows carried; lines fit and hold nothing hostile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bpf import abi
from exporter import cli, printable
from exporter.ring import DTYPE, Columns
from exporter.top.command import table
from exporter.top.difference import Difference, Interval
from exporter.top.summary import SORTS, Line, ordered, summarize
from tests.rig import ring_file

BEGAN = 1000
ACTS = st.lists(
    st.tuples(st.sampled_from(("send", "interim", "close", "open", "step", "late")), st.integers(0, 3)),
    max_size=60,
)


class Flow:
    """One flow as the kernel has it: what it carried, and what its records have told."""

    def __init__(self, cookie: int, now: int, *, adopted: bool = False) -> None:
        self.cookie, self.open, self.adopted = cookie, now, adopted
        self.start, self.told, self.carried = now, 0, 0

    def row(self, now: int, kind: int) -> Columns:
        row = ring_file.records(1, self.cookie)
        row["cookie"], row["generation"], row["kind"] = self.cookie, 0, kind
        row["time_open"], row["time_start"], row["time_end"] = self.open, self.start, now
        row["bytes_sent"] = self.carried - self.told
        row["flags"] = abi.FLOW_ADOPTED if self.adopted else 0
        if kind == abi.EVENT_CLOSE:
            row["end_reason"] = abi.ENDS.index("fin")
        return row

    def report(self, now: int, kind: int) -> Columns:
        row = self.row(now, kind)
        self.start, self.told = now, self.carried
        return row


def joined(rows: list[Columns]) -> Columns:
    return np.concatenate(rows) if rows else np.empty(0, DTYPE)


@given(ACTS)
@example([("open", 2), ("send", 2), ("close", 2)])
@example([("send", 0), ("late", 0), ("send", 0)])
def test_sums_over_intervals_are_what_was_carried_since_top_began(acts: list[tuple[str, int]]) -> None:
    """ "late" is a record made between the snapshot and the drain; a flow shown twice counts once."""
    now = BEGAN
    before = [Flow(1, 10), Flow(2, 20, adopted=True)]
    for old in before:
        old.carried = 500
    flows = dict(enumerate(before))
    difference = Difference(BEGAN)
    difference.step(joined([f.row(now, abi.EVENT_INTERIM) for f in before]), joined([]))
    carried = told = opened = begun = 0
    cookie = 10
    ring: list[Columns] = []

    def step(late: int | None) -> int:
        rows = [f.row(now, abi.EVENT_INTERIM) for f in flows.values()] * 2
        if late in flows:
            ring.append(flows[late].report(now + 1, abi.EVENT_INTERIM))
        found = difference.step(joined(rows), joined(ring))
        ring.clear()
        nonlocal opened
        opened += int(found.opened.sum())
        return int(found.counts[:, 0].sum())

    for act, which in [*acts, ("step", 0)]:
        now += 10
        flow = flows.get(which)
        if act in ("step", "late"):
            told += step(which if act == "late" else None)
            assert told == carried
        elif act == "open" and flow is None:
            cookie += 1
            begun += 1
            flows[which] = Flow(cookie, now)
        elif flow is not None and act == "send":
            flow.carried += 7
            carried += 7
        elif flow is not None and act == "interim":
            ring.append(flow.report(now, abi.EVENT_INTERIM))
        elif flow is not None and act == "close":
            ring.append(flow.report(now, abi.EVENT_CLOSE))
            del flows[which]
    assert (told, opened) == (carried, begun)


def test_flow_without_baseline_that_was_open_before_counts_from_its_first_row() -> None:
    difference = Difference(BEGAN)
    difference.step(joined([]), joined([]))
    flow = Flow(1, 10)
    flow.carried = 500
    assert difference.step(flow.row(2000, 2), joined([])).counts[0, 0] == 0
    flow.carried = 600
    assert difference.step(joined([]), flow.report(3000, abi.EVENT_CLOSE)).counts[0, 0] == 100


def line(name: str = "web", **numbers: int) -> Line:
    return Line(**{**dict.fromkeys(Line.__slots__, 0), **numbers, "workload": name})  # type: ignore[arg-type]


def test_nobody_is_summed_by_reason() -> None:
    rows = ring_file.records(4, owner=0)
    rows["reason"] = [1, 1, 8, 0]
    rows["end_reason"] = abi.ENDS.index("refused")
    yes = np.ones(4, np.bool_)
    lines, total = summarize(Interval(rows, np.ones((4, 4), np.int64), yes, ~yes), {})
    assert {(each.workload, each.refused, each.bytes_sent) for each in lines} == {
        ("nobody: unclaimed_container", 2, 2),
        ("nobody: no_claim", 1, 1),
        ("nobody: connecting", 1, 1),
    }
    assert (total.refused, total.failed, total.opened, total.flows) == (4, 4, 4, 0)


@pytest.mark.parametrize("hostile", ["\x1b[2J", "a\nb", "\x9b31m", "\u202eevil", "\u05d0\u05d1"])
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_hostile_name_reaches_no_terminal(hostile: str, columns: int) -> None:
    for text in table([line(hostile, rtt_us=10**9)], line("total"), 2.0, 0, columns):
        assert text.isascii()
        assert text.isprintable()
        assert printable.width(text) < columns


def test_every_sort_key_orders() -> None:
    assert cli._TOP_SORTS == SORTS
    for key in SORTS:
        assert len(ordered([line("b", bytes_sent=1), line("a", bytes_sent=1)], key)) == 2
    assert [one.workload for one in ordered([line("a"), line("b", bytes_sent=1)], "sent")] == ["b", "a"]
