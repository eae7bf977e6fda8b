# SPDX-License-Identifier: Apache-2.0
"""An IPFIX reader of its own, by RFC 7011 alone: it knows nothing of what the sink sends.

It takes no liberties: a message that ends too early, a set without its template, octets left over fail.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

PLAIN = 0
REVERSE = 29305
VARIABLE = 65535
Key = tuple[int, int]
"""Private enterprise number, 0 for none, and the element's."""


class Template(NamedTuple):
    fields: tuple[tuple[int, int, int], ...]
    scope: int


class Record(NamedTuple):
    """values: octets by element, as they were sent."""

    domain: int
    template: int
    values: dict[Key, bytes]

    def number(self, element: int, enterprise: int = PLAIN) -> int:
        return int.from_bytes(self.values[enterprise, element])

    def text(self, element: int, enterprise: int) -> str:
        return self.values[enterprise, element].decode()


class Message(NamedTuple):
    size: int
    time: int
    sequence: int
    domain: int
    described: int
    records: list[Record]


class Reader:
    """One transport session. lost: data records that sequence numbers say were sent and never came."""

    def __init__(self) -> None:
        self.templates: dict[tuple[int, int], Template] = {}
        self.lost = 0
        self._next: dict[int, int] = {}

    def stream(self, octets: bytes) -> list[Message]:
        found = []
        while octets:
            (size,) = struct.unpack_from(">H", octets, 2)
            assert len(octets) >= size, "the stream ends inside a message"
            found.append(self.message(octets[:size]))
            octets = octets[size:]
        return found

    def datagrams(self, each: Iterable[bytes]) -> list[Message]:
        return [self.message(octets) for octets in each]

    def message(self, octets: bytes) -> Message:
        version, size, time, sequence, domain = struct.unpack_from(">HHIII", octets)
        assert (version, size) == (10, len(octets))
        if domain in self._next:
            self.lost += (sequence - self._next[domain]) & 0xFFFFFFFF
        described, place = 0, 16
        records: list[Record] = []
        while place < size:
            number, length = struct.unpack_from(">HH", octets, place)
            content = octets[place + 4 : place + length]
            assert 4 < length <= size - place
            if number in (2, 3):
                described += self._describe(content, domain, options=number == 3)
            else:
                records += self._records(content, domain, number)
            place += length
        self._next[domain] = (sequence + len(records)) & 0xFFFFFFFF
        return Message(size, time, sequence, domain, described, records)

    def _describe(self, content: bytes, domain: int, options: bool) -> int:
        place, count = 0, 0
        while place < len(content):
            number, fields = struct.unpack_from(">HH", content, place)
            scope = struct.unpack_from(">H", content, place + 4)[0] if options else 0
            place += 6 if options else 4
            found = []
            for _ in range(fields):
                element, length = struct.unpack_from(">HH", content, place)
                place += 4
                enterprise = PLAIN
                if element & 0x8000:
                    (enterprise,) = struct.unpack_from(">I", content, place)
                    place += 4
                found.append((enterprise, element & 0x7FFF, length))
            assert number >= 256
            assert (scope > 0) == options
            assert scope <= fields
            self.templates[domain, number] = Template(tuple(found), scope)
            count += 1
        assert place == len(content)
        return count

    def _records(self, content: bytes, domain: int, number: int) -> Iterator[Record]:
        template, place = self.templates[domain, number], 0
        while place < len(content):
            values = {}
            for enterprise, element, length in template.fields:
                if length == VARIABLE:
                    length, place = content[place], place + 1
                    if length == 255:
                        length, place = struct.unpack_from(">H", content, place)[0], place + 2
                values[enterprise, element] = content[place : place + length]
                assert len(values[enterprise, element]) == length, "a field ends behind its set"
                place += length
            yield Record(domain, number, values)
