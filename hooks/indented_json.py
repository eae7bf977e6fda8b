# SPDX-License-Identifier: Apache-2.0
"""JSON that a person wrote, read and written back: its keys' order, its indentation and its end are kept.

Not kept: lists or objects on one line in a document that is indented elsewhere, and space around colons.
"""

from __future__ import annotations

import json
from typing import Any


def decode(data: bytes) -> dict[str, Any]:
    """The object in a document; nothing but white space is an empty one.

    ValueError with line and column if it is not JSON, has a key twice, or is something else than an object.
    """
    text = data.decode("utf-8")
    if not text.strip():
        return {}
    document = json.loads(text, object_pairs_hook=_once)
    if not isinstance(document, dict):
        raise ValueError("it is not an object")
    return document


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
