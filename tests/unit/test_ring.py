# SPDX-License-Identifier: Apache-2.0
"""Cutting the ring's bytes into records: what is busy waits, what is discarded is passed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf import abi
from bpf.error import FlowtagError
from exporter.ring import BUSY, DISCARDED, DTYPE, STRIDE, cut
from tests.rig.ring_file import RingFile, RingWriter, records

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


def test_look_lies_in_the_ring_and_take_outlives_it(tmp_path: Path) -> None:
    RingFile.create(tmp_path / "ring", 4096)
    with RingFile(tmp_path / "ring") as ring, RingWriter(tmp_path / "ring") as writer:
        writer.write(records(20))
        seen, taken = ring.look(), ring.take()
        assert seen.records["cookie"].tolist() == taken.records["cookie"].tolist() == list(range(20))
        ring.release(seen.end)
        writer.write(records(20, 100))
        writer.write(records(3, 200))
        assert taken.records["cookie"].tolist() == list(range(20))
        assert seen.records["cookie"].tolist() != list(range(20))
        del seen


def test_resume_passes_over_what_was_taken_before(tmp_path: Path) -> None:
    RingFile.create(tmp_path / "ring", 4096)
    with RingFile(tmp_path / "ring") as ring, RingWriter(tmp_path / "ring") as writer:
        writer.write(records(20))
        ring.resume(5 * STRIDE)
        assert ring.take().records["cookie"].tolist() == list(range(5, 20))
        ring.resume(2 * STRIDE)
        assert ring.consumer == 5 * STRIDE
        for wrong in (21 * STRIDE, 6 * STRIDE + 8):
            with pytest.raises(FlowtagError, match="does not fit"):
                ring.resume(wrong)


def test_ring_without_a_header_at_its_consumer_is_refused(tmp_path: Path) -> None:
    RingFile.create(tmp_path / "ring", 4096)
    with RingWriter(tmp_path / "ring") as writer:
        writer.write(records(2, header=0))
        with pytest.raises(FlowtagError, match="does not fit"):
            RingFile(tmp_path / "ring")
