# SPDX-License-Identifier: Apache-2.0
"""IPFIX messages: RFC 7011, section 3. One set in each, so that runs of equal ones are made as one array."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.sinks.ipfix_elements import Template

VERSION = 10
TEMPLATE_SET, OPTIONS_TEMPLATE_SET = 2, 3
HEAD = np.dtype(
    [
        ("version", ">u2"),
        ("length", ">u2"),
        ("time", ">u4"),
        ("sequence", ">u4"),
        ("domain", ">u4"),
        ("set", ">u2"),
        ("set_length", ">u2"),
    ]
)
MESSAGE_HEAD = 16


@dataclass(frozen=True, slots=True)
class Run:
    """Messages of one size: data is (messages, bytes of each); records: data records in each."""

    data: NDArray[np.uint8]
    records: int

    def stamp(self, sequence: int, seconds: int, domain: int) -> None:
        """What is known only when it is sent. sequence: data records before the first message."""
        heads = self.data[:, : HEAD.itemsize].view(HEAD)[:, 0]
        numbers = sequence + np.arange(len(heads), dtype=np.uint64) * self.records
        heads["sequence"] = numbers & 0xFFFFFFFF
        heads["time"] = seconds & 0xFFFFFFFF
        heads["domain"] = domain


def variable(content: bytes) -> bytes:
    """With its length before it: RFC 7011, section 7."""
    if len(content) < 255:
        return bytes([len(content)]) + content
    return struct.pack(">BH", 255, len(content)) + content


def fields(columns: Sequence[Sequence[str]], room: int) -> list[list[bytes]]:
    """Columns of texts as variable-length fields, so that any of the first with any of the second and so on
    takes `room` bytes at most: where the longest do not fit, each is cut to its share of them.
    """
    encoded = [[text.encode(errors="replace") for text in column] for column in columns]
    # A text may be longer than any field: its length is looked at before it is one.
    sizes = [max(map(len, column), default=0) for column in encoded]
    longest = sum(size + (1 if size < 255 else 3) for size in sizes)
    if longest > room:
        share = room // len(columns) - 3
        encoded = [[_cut(content, share) for content in column] for column in encoded]
    return [[variable(content) for content in column] for column in encoded]


def _cut(content: bytes, size: int) -> bytes:
    """Without half a character at the end."""
    return content[:size].decode(errors="ignore").encode()


def by_array(rows: NDArray[Any], template: Template, room: int) -> Iterator[Run]:
    """Rows of one size as they are sent, in messages of at most `room` bytes."""
    size = rows.itemsize
    each = min((room - HEAD.itemsize) // size, len(rows))
    whole = len(rows) // each
    octets = rows.view(np.uint8).reshape(len(rows), size)
    yield _run(octets[: whole * each], whole, template.number)
    if whole * each < len(rows):
        yield _run(octets[whole * each :], 1, template.number)


def by_record(records: Iterable[bytes], number: int, room: int, counted: bool = True) -> Iterator[Run]:
    """Records of any size in a set of this number. counted: not (options) template records."""
    waiting: list[bytes] = []
    size = HEAD.itemsize
    for record in records:
        if waiting and size + len(record) > room:
            yield _joined(waiting, number, counted)
            waiting, size = [], HEAD.itemsize
        waiting.append(record)
        size += len(record)
    if waiting:
        yield _joined(waiting, number, counted)


def _joined(records: list[bytes], number: int, counted: bool) -> Run:
    octets = np.frombuffer(b"".join(records), np.uint8).reshape(1, -1)
    return Run(_run(octets, 1, number).data, len(records) if counted else 0)


def _run(octets: NDArray[np.uint8], messages: int, number: int) -> Run:
    body = octets.reshape(messages, -1)
    data = np.empty((messages, HEAD.itemsize + body.shape[1]), np.uint8)
    data[:, HEAD.itemsize :] = body
    heads = data[:, : HEAD.itemsize].view(HEAD)[:, 0]
    heads["version"] = VERSION
    heads["length"] = data.shape[1]
    heads["set"] = number
    heads["set_length"] = data.shape[1] - MESSAGE_HEAD
    return Run(data, len(octets) // messages)
