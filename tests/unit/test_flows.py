# SPDX-License-Identifier: Apache-2.0
"""`flowtag flows`: filters agree with JSON lines; a bystander of the ring; hostile names stay text."""

from __future__ import annotations

import fnmatch
import ipaddress
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf import abi
from exporter import printable, records
from exporter.batch import Batch
from exporter.flows import query
from exporter.flows.filters import mask
from exporter.flows.query import Query
from exporter.flows.table import Table, amount
from exporter.label import Label
from exporter.ring import STRIDE
from exporter.ring_tail import RingTail
from identity import address
from tests.rig import batches, ring_file
from tests.rig.ring_file import RingFile, RingWriter

SOME = batches.batch(200)
LINES = [json.loads(line) for line in records.json_lines(SOME).splitlines()]


def asked(q: Query, line: dict[str, Any]) -> bool:
    """The same question, to one JSON line."""
    ends = [ipaddress.ip_address(line[f"{end}_address"]) for end in ("local", "peer")]
    names = [line[n] for n in ("workload", "app", "container", "pod", "namespace", "container_id") if line[n]]
    when = query.moment(line["time_end"])
    inside = [
        ipaddress.ip_address(base if not address.is_ipv4(base) else base[12:]) == end
        for base, _ in q.networks
        for end in ends
    ]
    peer = line["peer_workload"]
    return all(
        (
            not q.workloads or any(fnmatch.fnmatchcase(n, g) for n in names for g in q.workloads),
            not q.peer_workloads or (peer and any(fnmatch.fnmatchcase(peer, g) for g in q.peer_workloads)),
            not q.ports or line["local_port"] in q.ports or line["peer_port"] in q.ports,
            not q.kinds or line["kind"] in q.kinds,
            not q.roles or (line["role"] or "unknown") in q.roles,
            not q.ends or line["end_reason"] in q.ends,
            not q.networks or any(inside),
            q.since is None or when >= q.since,
            q.until is None or when <= q.until,
        )
    )


def few(values: tuple[Any, ...]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), max_size=2).map(tuple)


MOMENTS = st.none() | st.integers(-5, 205).map(lambda n: batches.OFFSET + n * 10**6 + 1_111_111_110)


@given(
    st.builds(
        Query,
        workloads=few(("shop/*", "vm", "*web*", "x")),
        peer_workloads=few(("vm", "*o*")),
        networks=few(tuple(map(query.network, ("192.0.2.1", "2001:db8::1", "10.0.0.1")))),
        ports=few((0, 1)),
        kinds=few(query.KINDS),
        roles=few(abi.ROLES),
        ends=few(abi.ENDS),
        since=MOMENTS,
        until=MOMENTS,
    )
)
def test_filter_by_columns_is_the_filter_by_json_lines(q: Query) -> None:
    assert mask(q, SOME).tolist() == [asked(q, line) for line in LINES]


def test_networks_match_by_prefix() -> None:
    rows = ring_file.records(3)
    for row, text in enumerate(("10.1.2.3", "10.128.0.1", "2001:db8:1::1")):
        rows["peer_address"][row] = np.void(address.from_text(text))
    batch = Batch(batches.ORIGIN, 0, 0, rows, np.arange(3, dtype=np.uint64), np.zeros(3, np.int64), {})
    for text, found in (("10.0.0.0/9", [True, False, False]), ("2001:db8::/33", [False, False, True])):
        assert mask(Query(networks=(query.network(text),)), batch).tolist() == found


@pytest.mark.parametrize("text", ["5x", "", "yesterday", "2026-13-01"])
def test_moment_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        query.moment(text)


def test_moment_keeps_nanoseconds() -> None:
    assert query.moment("1970-01-01T00:00:01.123456789Z") == 1_123_456_789
    assert query.moment("1970-01-01T01:00:00+01:00") == 0


@pytest.mark.parametrize("hostile", ["\x1b[2J", "a\nb", "\x9b31m", "\u202eevil", "\u05d0\u05d1", "\u200b"])
@pytest.mark.parametrize("columns", [None, 80, 120])
def test_hostile_name_reaches_no_terminal(hostile: str, columns: int | None) -> None:
    rows = ring_file.records(1, owner=9)
    one, zero = np.zeros(1, np.uint64), np.zeros(1, np.int64)
    batch = Batch(batches.ORIGIN, 0, 0, rows, one, zero, {9: Label(workload=hostile)}, one)
    shown = Table(columns).lines(batch)
    assert all(char.isascii() and (char.isprintable() or char == "\n") for char in shown)
    assert len(shown.splitlines()) == (1 if columns is None else 2)
    text = records.json_lines(batch)
    assert all(char.isprintable() or char == "\n" for char in text)
    assert json.loads(text)["workload"] == hostile


@given(st.text(max_size=60), st.integers(3, 50))
def test_fit_is_as_wide_as_asked(value: str, room: int) -> None:
    shown = printable.fit(value, room)
    assert shown.isprintable()
    assert printable.width(shown) == room


def test_amount_fits_six_columns() -> None:
    assert [amount(n) for n in (0, 99_999, 100_000, 999_999, 12_345_678)] == [
        "0", "99999", "100.0k", "1.0M", "12.3M",
    ]  # fmt: skip
    assert all(len(amount(10**n)) <= 6 for n in range(20))


def tail(path: Path) -> RingTail:
    with path.open("rb") as file:
        # As the kernel has it: the producer's page at offset 4096 of the map.
        return RingTail(file.fileno(), 7, (path.stat().st_size - 2 * 4096) // 2)


def test_tail_sees_all_and_moves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    RingFile.create(path, 1 << 16)
    with RingFile(path) as ring, RingWriter(path) as writer, tail(path) as watch:
        for number in range(50):
            writer.write(ring_file.records(100, 100 * number))
            before = ring.consumer
            assert watch.take().records["cookie"].tolist() == [*range(100 * number, 100 * number + 100)]
            assert ring.consumer == before
            ring.release(ring.producer)
        assert watch.missed == 0


def test_tail_that_lags_says_how_many_it_missed(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    RingFile.create(path, 1 << 16)
    with RingFile(path) as ring, RingWriter(path) as writer, tail(path) as watch:
        for number in range(10):
            writer.write(ring_file.records(100, 100 * number))
            ring.release(ring.producer)
        seen = watch.take().records["cookie"].tolist()
        assert seen == list(range(watch.missed, 1000))
        assert (1 << 16) // STRIDE - 2 <= len(seen) < (1 << 16) // STRIDE
