# SPDX-License-Identifier: Apache-2.0
"""JSON from strangers, decoded strictly, and flat JSON of our own, encoded.

Uses the C scanner and encoder of `_json` directly: importing `json` costs a container's start
10 ms.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SPACE = " \t\n\r"


def _no_constant(name: str) -> object:
    raise ValueError(f"not JSON: {name}")


class _Context:
    """The settings that the C scanner reads from json.JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_no_constant)


_scan = make_scanner(_Context())  # type: ignore[arg-type]  # typeshed wants a JSONDecoder, 10 ms to import


def decode(data: bytes, limit: int, scan: Callable[[str, int], tuple[object, int]] = _scan) -> object:
    """The value of one JSON document in UTF-8, at most `limit` bytes; ValueError for all else."""
    if len(data) > limit:
        raise ValueError(f"JSON of more than {limit} bytes")
    text = data.decode("utf-8").strip(_SPACE)  # UnicodeDecodeError is a ValueError
    try:
        value, end = scan(text, 0)
    except StopIteration as stop:
        raise ValueError(f"not JSON at character {stop.value}") from None
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    except (
        SystemError
    ):  # CPython 3.11 looks for the error's class in json.decoder, which is not imported here
        raise ValueError("not JSON") from None
    if end != len(text):
        raise ValueError(f"not JSON: something follows at character {end}")
    return value


def encode_flat(values: dict[str, int | str]) -> bytes:
    """One JSON object of integers and strings, in ASCII, with a newline at its end."""
    return (
        "{"
        + ", ".join(
            f"{encode_basestring_ascii(name)}: "
            + (str(value) if isinstance(value, int) else encode_basestring_ascii(value))
            for name, value in values.items()
        )
        + "}\n"
    ).encode("ascii")
