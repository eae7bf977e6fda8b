# SPDX-License-Identifier: Apache-2.0
"""Cutting the ring's bytes into records: what is busy waits, what is discarded is passed over."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bpf import abi
from exporter.ring import BUSY, DISCARDED, DTYPE, STRIDE, cut

STATES = {"written": 0, "busy": BUSY, "discarded": DISCARDED, "both": BUSY | DISCARDED}


def test_dtype_matches_event_layout() -> None:
    event = bytes(range(abi.EVENT.size))
    row = np.frombuffer(bytes(8) + event, DTYPE)[0]
    for name, value in zip(abi.EVENT.names, abi.EVENT.unpack(event), strict=True):
        found = row[name].tobytes() if isinstance(value, bytes) else int(row[name])
        assert found == value, name


@given(st.lists(st.sampled_from(sorted(STATES)), max_size=40), st.integers(0, 1 << 40))
def test_cut_against_one_by_one_reading(states: list[str], records_before: int) -> None:
    rows = np.zeros(len(states), DTYPE)
    rows["header"] = [STATES[state] | abi.EVENT.size for state in states]
    rows["cookie"] = np.arange(len(states))
    begin = records_before * STRIDE

    batch = cut(rows.view(np.uint8), begin)

    kept, count = [], 0
    for number, state in enumerate(states):
        if state in ("busy", "both"):
            break
        count += 1
        if state == "written":
            kept.append(number)
    assert batch.records["cookie"].tolist() == kept
    assert batch.sequence.tolist() == [records_before + number for number in kept]
    assert batch.count == count
    assert batch.end == begin + count * STRIDE
