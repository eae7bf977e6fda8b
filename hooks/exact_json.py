# SPDX-License-Identifier: Apache-2.0
"""JSON that is decoded only if the value, encoded again, means exactly the same to every reader.

Import-light: the wrapper's injection is on a container's way. As identity/strict_json.py it uses `_json`
directly.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner

from identity import strict_json


def _no_float(text: str) -> object:
    # Neither 1e2 nor 0.1 comes back as it was, and readers differ in what they make of either.
    raise ValueError(f"not an integer: {text}")


def _integer(text: str) -> int:
    value = int(text)
    if str(value) != text:  # -0
        raise ValueError(f"not an integer: {text}")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice")
    return values


class _Context:
    """The settings that the C scanner reads from json.JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_unique)
    parse_float = staticmethod(_no_float)
    parse_int = staticmethod(_integer)
    parse_constant = staticmethod(_no_float)


_scan = make_scanner(_Context())  # type: ignore[arg-type]  # typeshed wants a JSONDecoder, 10 ms to import


def _nothing_else(value: object) -> object:
    raise TypeError(f"not JSON: {value!r}")


_encode = make_encoder(None, _nothing_else, encode_basestring_ascii, None, ":", ",", False, False, False)


def decode(data: bytes, limit: int) -> object:
    """The value of one document of at most `limit` bytes; ValueError if it is none, or has a number with
    fraction or exponent, a negative zero, or a key twice in one object.
    """
    return strict_json.decode(data, limit, _scan)


def encode(value: object) -> bytes:
    """The document of a decoded value, in ASCII: also what is no character, half a pair, stays as it was."""
    return "".join(_encode(value, 0)).encode("ascii")
