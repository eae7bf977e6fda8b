# SPDX-License-Identifier: Apache-2.0
"""JSON that a person wrote, read and written back: its keys' order, its indentation and its end are kept.

Not kept: lists or objects on one line in a document that is indented elsewhere, and space around colons.
"""

from __future__ import annotations

import json
import math
from typing import Any


def decode(data: bytes) -> dict[str, Any]:
    """The object in a document; nothing but white space is an empty one.

    ValueError with line and column if it is not JSON, has a key twice, is something else than an object, or
    holds what would not come back as it is: 1e3, half a pair of surrogates.
    """
    text = data.decode("utf-8")
    if not text.strip():
        return {}
    try:
        document = json.loads(
            text, object_pairs_hook=_once, parse_float=_float, parse_int=_int, parse_constant=_float
        )
        json.dumps(document, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(document, dict):
        raise ValueError("it is not an object")
    return document


def _float(text: str) -> float:
    value = float(text)
    if repr(value) != text or not math.isfinite(value):
        raise ValueError(f"it has a number that would be written otherwise: {text}")
    return value


def _int(text: str) -> int:
    value = int(text)
    if str(value) != text:  # -0
        raise ValueError(f"it has a number that would be written otherwise: {text}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("it has a key twice")
    return document


def encode(document: dict[str, Any], like: bytes | None = None) -> bytes:
    """The document in the manner of another one; four spaces where that shows none."""
    text = "" if like is None else like.decode("utf-8")
    indent: str | int | None = 4
    for line in text.splitlines()[1:]:
        space = line[: len(line) - len(line.lstrip(" \t"))]
        if space and line.strip():
            indent = space
            break
    else:
        if text.count("\n") == text.endswith("\n") and json_is_full(text):
            indent = None
    end = "" if text and not text.endswith("\n") else "\n"
    separators = (",", ":") if indent is None and '": ' not in text else None
    return (json.dumps(document, indent=indent, separators=separators, ensure_ascii=False) + end).encode()


def json_is_full(text: str) -> bool:
    """Whether a document shows its manner: an empty one does not."""
    return bool(text.strip()) and text.strip() != "{}"
