# SPDX-License-Identifier: Apache-2.0
"""Lists and watches cut into objects and lines, however the bytes arrive."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.kubernetes_stream import lines, objects

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
ITEMS = st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=5)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces, some of them empty."""
    at = sorted({0, len(data), *(number % (len(data) + 1) for number in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


@settings(max_examples=50, deadline=None)
@given(
    metadata=st.dictionaries(st.text(), JSON),
    items=ITEMS,
    escaped=st.booleans(),
    cuts=st.lists(st.integers(0)),
)
def test_a_list_gives_its_metadata_and_items(
    metadata: dict[str, object], items: list[dict[str, object]], escaped: bool, cuts: list[int]
) -> None:
    document = {"kind": 'Pod"List{', "metadata": metadata, "items": items}
    data = json.dumps(document, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    found = [json.loads(piece or b"") for piece in objects(cut(data, cuts), 1 << 20)]
    assert found == json.loads(json.dumps([metadata, *items]))


@settings(max_examples=50, deadline=None)
@given(items=ITEMS.filter(len), end=st.integers(1))
def test_a_list_that_is_cut_off_is_an_error(items: list[dict[str, object]], end: int) -> None:
    data = json.dumps({"items": items}).encode()
    with pytest.raises(ValueError, match="cut off"):
        list(objects([data[: end % len(data) or 1]], 1 << 20))


@settings(max_examples=50, deadline=None)
@given(data=st.binary() | st.text(alphabet='{}[]",\\:a').map(str.encode), cuts=st.lists(st.integers(0)))
def test_bytes_that_are_no_json_raise_nothing_but_value_error(data: bytes, cuts: list[int]) -> None:
    try:
        pieces = list(objects(cut(data, cuts), 100))
    except ValueError:
        return
    # Whether they are JSON is for the decoder to say: {] is one.
    assert all(piece is None or (piece[:1] == b"{" and len(piece) <= 100) for piece in pieces)


@settings(max_examples=50, deadline=None)
@given(
    parts=st.lists(st.binary(max_size=20).filter(lambda part: b"\n" not in part)),
    cuts=st.lists(st.integers(0)),
)
def test_lines_are_whole_and_in_order(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(part + b"\n" for part in parts) + b"rest"
    assert list(lines(cut(data, cuts), 20)) == [part for part in parts if part]


def test_what_is_too_long_is_told_and_not_kept() -> None:
    def flood(head: bytes, tail: bytes) -> Iterator[bytes]:
        yield head
        for _ in range(500):
            yield b"x" * 65536
        yield tail

    tracemalloc.start()
    try:
        assert list(lines(flood(b"", b"\nnext\n"), 100)) == [None, b"next"]
        flooded = flood(b'{"items": [{"a": "', b'"}, {"b": 1}]}')
        assert list(objects(flooded, 100)) == [None, b'{"b": 1}']
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
