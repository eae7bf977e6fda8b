# SPDX-License-Identifier: Apache-2.0
"""Counting by column gives what counting one by one gives."""

from __future__ import annotations

from collections import Counter

import numpy as np

from bpf import abi
from exporter.ring import DTYPE
from exporter.tally import CLOSE, Tally


def test_tally_of_random_records_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(7)
    records = np.zeros(5000, DTYPE)
    records["kind"] = rng.integers(1, len(abi.EVENTS), 5000)
    records["owner"] = rng.integers(0, 4, 5000)
    records["rule"] = rng.integers(1, len(abi.RULES), 5000)
    records["reason"] = rng.integers(1, len(abi.REASONS), 5000)
    records["role"] = rng.integers(0, len(abi.ROLES), 5000)
    records["end_reason"] = rng.integers(0, len(abi.ENDS), 5000)
    tally = Tally(lambda owner: owner)
    for part in np.split(records, [0, 17, 17, 4000]):
        tally.count(part)
    totals = tally.totals()
    closes = [one for one in records if one["kind"] == CLOSE]
    owned = [one for one in closes if one["owner"]]
    nobodys = [one for one in closes if not one["owner"]]
    assert sum(totals.kinds.values()) == 5000
    assert totals.kinds["close"] == len(closes)
    assert totals.rules == {**dict.fromkeys(abi.RULES, 0), **Counter(abi.RULES[r["rule"]] for r in owned)}
    assert totals.reasons == {
        **dict.fromkeys(abi.REASONS, 0),
        **Counter(abi.REASONS[r["reason"]] for r in nobodys),
    }
    assert totals.owned == sum(r["owner"] in (1, 2) for r in owned)
    assert sum(totals.ends.values()) == len(closes)
