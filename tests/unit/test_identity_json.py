# SPDX-License-Identifier: Apache-2.0
"""The strict decoder agrees with the standard library, and refuses what it should."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import strict_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
LIMIT = 1 << 20
ROOT = Path(__file__).parents[2]


@given(VALUES, st.booleans(), st.text(" \t\r\n", max_size=3))
def test_decode_what_json_writes(value: object, ascii_only: bool, space: str) -> None:
    text = space + json.dumps(value, ensure_ascii=ascii_only) + space
    assert strict_json.decode(text.encode(), LIMIT) == value


@pytest.mark.parametrize("data", ['"a', '{"a', '["\x01"]', '{"a" 1}', '"\\x"'])
def test_broken_text_is_a_value_error_where_json_is_not_imported(data: str) -> None:
    """As in the hook: the scanner takes its error's class from json.decoder, or raises none at all."""
    code = (
        "import sys; from identity import strict_json; assert 'json.decoder' not in sys.modules\n"
        f"try: strict_json.decode({data.encode()!r}, 99)\nexcept ValueError: print('refused')"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "refused\n", done.stderr


@given(st.binary(max_size=200))
def test_decode_any_bytes(data: bytes) -> None:
    try:
        strict_json.decode(data, LIMIT)
    except ValueError:
        return
    json.loads(data)  # whatever it takes, the standard library takes too


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b'{"a":1}x',
        b"[1] [2]",
        b"NaN",
        b"[Infinity]",
        b'"\x01"',
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        b"\x00",
        b"'a'",
        b'{"a":1,}',
        b"[" * 1_000_00,
        b'{"a":' * 1_000_00,
        b"9" * 5000,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_decode_refuses(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        strict_json.decode(data, LIMIT)


def test_decode_is_bounded() -> None:
    assert strict_json.decode(b'"' + b"a" * 8 + b'"', 10) == "a" * 8
    with pytest.raises(ValueError, match="more than 9 bytes"):
        strict_json.decode(b'"' + b"a" * 8 + b'"', 9)


@given(st.dictionaries(st.text(), st.integers(0, 2**64 - 1) | st.text()))
def test_encode_flat_round_trips(values: dict[str, int | str]) -> None:
    data = strict_json.encode_flat(values)
    assert data.isascii()
    assert json.loads(data) == strict_json.decode(data, LIMIT) == values


def test_encode_flat_lone_surrogate() -> None:
    values: dict[str, int | str] = {"path": "/a\udcff"}  # a path that is no UTF-8, by os.fsdecode
    assert strict_json.decode(strict_json.encode_flat(values), LIMIT) == values


def test_decode_big_float_is_infinite_as_in_json() -> None:
    assert strict_json.decode(b"1e999", LIMIT) == math.inf
