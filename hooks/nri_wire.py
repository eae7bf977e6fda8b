# SPDX-License-Identifier: Apache-2.0
"""NRI's protocol, as far as a plugin that only adjusts hooks needs it: bytes in, messages out.

Three layers. A frame of NRI's multiplexer: connection and length, 4 bytes each. In it ttrpc: length and
stream, 4 bytes each, type and flags, 1 byte each. In that protobuf. All numbers are big-endian.

Encoded by hand: of the messages in NRI's api.proto eight are needed, with one or two fields each. Their
descriptor would be as long as this, and would make the protobuf package a dependency of every host.
Malformed input is a ValueError; no input makes this keep more than one message of LIMIT bytes a connection.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

LIMIT = 4 << 20  # ttrpc's own, for one message (messageLengthMax in its channel.go)
# containerd reads a frame of the multiplexer into what is free in a buffer of this size, and gives up if
# it is longer (pkg/net/multiplex/mux.go: ENOMEM).
FRAME_LIMIT = 4096
PLUGIN, RUNTIME = 1, 2  # the multiplexer's connections, called after the side that serves on them
REQUEST, RESPONSE = 1, 2  # ttrpc's types of messages

_FRAME = struct.Struct(">II")
_MESSAGE = struct.Struct(">IIBB")


class Message(NamedTuple):
    """One ttrpc message: the multiplexer's connection, ttrpc's stream, REQUEST or RESPONSE, and its body."""

    connection: int
    stream: int
    kind: int
    body: bytes


class Demultiplexer:
    """Takes what the socket brings, gives whole messages."""

    def __init__(self) -> None:
        self._frames = bytearray()
        self._messages = {PLUGIN: bytearray(), RUNTIME: bytearray()}

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that `data` completes. ValueError: this is not NRI, or more than it allows."""
        self._frames += data
        while len(self._frames) >= _FRAME.size:
            connection, length = _FRAME.unpack_from(self._frames)
            if connection not in self._messages or length > LIMIT + _MESSAGE.size:
                raise ValueError(f"a frame of {length} bytes on connection {connection}")
            end = _FRAME.size + length
            if len(self._frames) < end:
                return
            self._messages[connection] += self._frames[_FRAME.size : end]
            del self._frames[:end]
            yield from self._complete(connection)

    def _complete(self, connection: int) -> Iterator[Message]:
        buffer = self._messages[connection]  # a message may take several frames
        while len(buffer) >= _MESSAGE.size:
            length, stream, kind, _ = _MESSAGE.unpack_from(buffer)
            if length > LIMIT:
                raise ValueError(f"a message of {length} bytes")
            end = _MESSAGE.size + length
            if len(buffer) < end:
                return
            body = bytes(buffer[_MESSAGE.size : end])
            del buffer[:end]
            yield Message(connection, stream, kind, body)


def encode(message: Message) -> bytes:
    """One frame with the whole message in it. ValueError if that is more than containerd takes."""
    length = _MESSAGE.size + len(message.body)
    if length > FRAME_LIMIT:
        raise ValueError(f"a frame of {length} bytes")
    return (
        _FRAME.pack(message.connection, length)
        + _MESSAGE.pack(len(message.body), message.stream, message.kind, 0)
        + message.body
    )


def field(number: int, value: int | bytes | str) -> bytes:
    """One protobuf field: a varint (0 or more), or what has a length (text, bytes, a message)."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """A number that is not negative, seven bits a byte, the least first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(message: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """A protobuf message's fields in their order: number and value; nothing is copied.

    ValueError if it is malformed, when the iteration comes to it.
    """
    view, at = memoryview(message), 0
    while at < len(view):
        key, at = _varint(view, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(view, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _varint(view, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a protobuf field of type {kind}")
        if length > len(view) - at:
            raise ValueError(f"a protobuf field of {length} bytes where {len(view) - at} are left")
        yield key >> 3, view[at : at + length]
        at += length


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            raise ValueError("a protobuf message that ends within a number")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a protobuf number of more than 10 bytes")


def messages(message: bytes | memoryview, number: int) -> Iterator[memoryview]:
    """The values of one field of `message` that are messages, text or bytes."""
    for found, value in fields(message):
        if found == number and isinstance(value, memoryview):
            yield value


def last(message: bytes | memoryview, number: int) -> memoryview:
    """The value that counts of a field which is not repeated; empty if it is not there."""
    value = memoryview(b"")
    for value in messages(message, number):  # noqa: B007 # the last one is wanted
        pass
    return value


def text(message: bytes | memoryview, number: int) -> str:
    """A text field, empty if it is not there."""
    return bytes(last(message, number)).decode("utf-8", "replace")
