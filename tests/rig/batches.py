# SPDX-License-Identifier: Apache-2.0
"""Batches for sinks, without a kernel: what is in them differs from record to record."""

from __future__ import annotations

import numpy as np

from bpf import abi
from exporter.batch import Batch, Origin
from exporter.label import Label
from identity import address, nat64
from tests.rig import ring_file

OWNER, OTHER = 1 << 40, 1 << 63
ORIGIN = Origin("a1" * 16, "0f1e2d3c-0000-4000-8000-123456789abc", 7, (nat64.parse("64:ff9b::/96"),))
MINUTE = 29_400_000  # 2025-11-24 16:00 UTC
OFFSET = MINUTE * 60 * 10**9


def batch(count: int, number: int = 0) -> Batch:
    """Records of every kind: unknown numbers, v6, NAT64, hostile names, codes of another version."""
    rows = ring_file.records(count, number)
    rng = np.random.default_rng(count)
    rows["time_start"] = rows["time_open"] = np.arange(count) * 10**6 + 123_456_789
    rows["time_end"] = rows["time_open"] + 987_654_321
    rows["owner"] = rng.choice([0, OWNER, OTHER, 99], count)
    rows["role"] = rng.integers(0, 4, count)
    rows["end_reason"] = rng.integers(0, 12, count)
    rows["rule"], rows["reason"] = rng.integers(0, 9, count), rng.integers(0, 12, count)
    rows["flags"] = rng.integers(0, 16, count)
    rows["rtt_us"] = rng.choice([abi.UNKNOWN32, 0, 17], count)
    rows["bytes_sent"] = rng.integers(0, 1 << 63, count)
    rows["comm"] = rng.choice(np.array([b"nginx", b'\xff\xfe"\\', b""], "S16"), count).view("V16")
    for row, text in zip(range(min(count, 2)), ("64:ff9b::c000:201", "2001:db8::1"), strict=False):
        rows["peer_address"][row] = np.void(address.from_text(text))
    labels = {
        OWNER: Label(
            workload="shop/web-0/nginx", workload_kind="container", labels={"a": "1", "q": '"\u2028'}
        ),
        OTHER: Label(workload="vm", workload_kind="host", identity_source="hostname"),
    }
    return Batch(
        ORIGIN,
        number,
        MINUTE,
        rows,
        np.arange(number, number + count, dtype=np.uint64),
        np.full(count, OFFSET, np.int64),
        labels,
        np.where(rows["owner"] == OWNER, OTHER, 0).astype(np.uint64),
    )
