# SPDX-License-Identifier: Apache-2.0
"""A person's JSON: its manner is kept where that can be, and what is no JSON is named with its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooks import indented_json


@pytest.mark.parametrize(
    "text",
    [
        '{\n  "b": 1,\n  "a": {\n    "c": [\n      1.5,\n      "é"\n    ]\n  }\n}\n',
        '{\n\t"b": 1,\n\t"a": {\n\t\t"c": true\n\t}\n}',
        '{\n        "b": {}\n}\n',
        '{"b": 1, "a": [1, 2]}\n',
        '{"b":1,"a":[1,2]}',
    ],
)
def test_encode_keeps_order_indentation_and_end(text: str) -> None:
    assert indented_json.encode(indented_json.decode(text.encode()), text.encode()).decode() == text


@pytest.mark.parametrize("text", [b"", b" \n", b"{}\n"])
def test_decode_nothing_is_an_empty_object(text: bytes) -> None:
    assert indented_json.decode(text) == {}
    assert indented_json.encode({"a": 1}, text) == b'{\n    "a": 1\n}\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{\n "a": 1,\n}', "line (2|3)"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"[1]", "not an object"),
        (b'{"a": "\xff"}', "decode"),
    ],
)
def test_decode_says_what_is_wrong(text: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        indented_json.decode(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), values))
def test_encode_never_changes_the_meaning(document: dict[str, object]) -> None:
    for like in (None, b'{\n "a": 1}', b'{"a":1}', b"\t"):
        assert json.loads(indented_json.encode(document, like)) == document


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1e3}',
        '{"a": 1e400}',
        '{"a": 1.10}',
        '{"a": NaN}',
        '{"a": -0}',
        '{"a": "\\ud800"}',
        '{"a": ' + "[" * 5000 + "]" * 5000 + "}",
    ],
    ids=lambda text: text[:12],
)
def test_decode_refuses_what_would_come_back_changed(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any: the file is left alone
        indented_json.decode(text.encode())
