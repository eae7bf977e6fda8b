# SPDX-License-Identifier: Apache-2.0
"""Records as Arrow columns: what went in comes out, and other bytes are refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc

from bpf import abi
from exporter.ring import DTYPE, STRIDE, Columns
from exporter.spool import columns


def random_records(count: int, seed: int) -> Columns:
    """Records of random bytes, with the header that the kernel writes."""
    raw = np.random.default_rng(seed).integers(0, 256, count * STRIDE, np.uint8)
    records = raw.view(DTYPE)
    records["header"] = abi.EVENT.size
    return records


@given(st.integers(0, 50), st.integers(0, 1 << 30))
def test_decode_gives_what_was_encoded(count: int, seed: int) -> None:
    records = random_records(count, seed)
    sequence = np.arange(seed, seed + count, dtype=np.uint64)

    found, numbers = columns.decode(columns.encode(records, sequence).to_pybytes())

    for name in DTYPE.names or ():
        assert (found[name] == records[name]).all(), name
    assert numbers.tolist() == sequence.tolist()


def test_columns_are_the_kernels_fields() -> None:
    assert columns.SCHEMA.names == ["sequence", *abi.EVENT.names]


def test_owners_are_distinct_and_all_there() -> None:
    records = random_records(6, 1)
    records["owner"] = [5, 0, 5, 1 << 63, 0, 5]
    data = columns.encode(records, np.arange(6, dtype=np.uint64)).to_pybytes()
    assert columns.owners(data) == [0, 5, 1 << 63]


def test_decode_other_columns_is_refused() -> None:
    sink = pa.BufferOutputStream()
    with ipc.new_file(sink, pa.schema([("sequence", pa.uint64())])) as writer:
        writer.write_batch(pa.record_batch([pa.array([1], pa.uint64())], names=["sequence"]))
    with pytest.raises(columns.UnreadableError, match="other columns"):
        columns.decode(sink.getvalue().to_pybytes())


@given(st.binary(max_size=200))
def test_decode_bytes_of_anybody_is_refused(data: bytes) -> None:
    with pytest.raises(columns.UnreadableError):
        columns.decode(data)


@given(st.integers(0, 2000))
def test_decode_torn_file_is_refused(length: int) -> None:
    data = columns.encode(random_records(9, 3), np.arange(9, dtype=np.uint64)).to_pybytes()
    with pytest.raises(columns.UnreadableError):
        columns.decode(data[: min(length, len(data) - 1)])
