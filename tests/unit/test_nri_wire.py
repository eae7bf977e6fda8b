# SPDX-License-Identifier: Apache-2.0
"""NRI's protocol: what containerd really sent, what we would send, and bytes that are neither."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooks import nri_wire as wire
from hooks.nri_wire import Demultiplexer, Message

# What containerd sent to a plugin that subscribed to CreateContainer: one frame a line. In its pods
# shop/old-0 (there before the plugin) and shop/web-0 (made then) runs a container `app`.
RECORDED = sorted((Path(__file__).parent / "fixtures" / "nri").glob("*.hex"))
messages = st.builds(
    Message,
    st.sampled_from((wire.PLUGIN, wire.RUNTIME)),
    st.integers(0, 2**32 - 1),
    st.sampled_from((wire.REQUEST, wire.RESPONSE)),
    st.binary(max_size=200),
)


def recorded(path: Path) -> bytes:
    return b"".join(map(bytes.fromhex, path.read_text(encoding="ascii").split()))


def in_pieces(data: bytes, size: int) -> list[Message]:
    inbox = Demultiplexer()
    return [found for at in range(0, len(data), size) for found in inbox.feed(data[at : at + size])]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_feed_what_containerd_sent(path: Path, size: int) -> None:
    accepted, *requests = sorted(in_pieces(recorded(path), size), key=lambda m: -m.connection)
    assert accepted == Message(wire.RUNTIME, 1, wire.RESPONSE, accepted.body)
    assert {(m.connection, m.kind) for m in requests} == {(wire.PLUGIN, wire.REQUEST)}
    assert {wire.text(m.body, 1) for m in requests} == {"nri.pkg.api.v1alpha1.Plugin"}
    assert [wire.text(m.body, 2) for m in requests] == ["Configure", "Synchronize", "CreateContainer"]

    configure, synchronize, create = (wire.last(m.body, 3) for m in requests)
    assert wire.text(configure, 2) == "containerd"
    assert wire.text(configure, 3).startswith(path.stem.partition("-")[2])
    pods, containers = (list(wire.messages(synchronize, number)) for number in (1, 2))
    assert ([wire.text(pod, 2) for pod in pods], [wire.text(c, 3) for c in containers]) == (
        ["old-0"],
        ["app"],
    )
    pod, container = wire.last(create, 1), wire.last(create, 2)
    assert (wire.text(pod, 2), wire.text(pod, 4), wire.text(container, 3)) == ("web-0", "shop", "app")


@given(st.lists(messages, max_size=5), st.integers(1, 64))
def test_feed_gives_what_was_encoded(sent: list[Message], size: int) -> None:
    assert in_pieces(b"".join(map(wire.encode, sent)), size) == sent


@given(messages, st.integers(1, 30))
def test_feed_joins_a_message_of_several_frames(sent: Message, size: int) -> None:
    whole = wire.encode(sent)[8:]
    parts = [whole[at : at + size] for at in range(0, len(whole), size)]
    data = b"".join(struct.pack(">II", sent.connection, len(part)) + part for part in parts)
    assert in_pieces(data, 1000) == [sent]


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_feed_garbage_is_a_value_error_or_waits(pieces: list[bytes]) -> None:
    inbox = Demultiplexer()
    try:
        for piece in pieces:
            list(inbox.feed(piece))
    except ValueError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">II", 0, 10),
        struct.pack(">II", 3, 10),
        struct.pack(">II", wire.PLUGIN, 2**32 - 1),
        struct.pack(">II", wire.PLUGIN, wire.LIMIT + 11),
        struct.pack(">IIIIBB", wire.PLUGIN, 10, wire.LIMIT + 1, 1, wire.REQUEST, 0),
    ],
)
def test_feed_refuses_before_it_keeps_more_than_a_message(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"a (frame|message) of"):
        list(Demultiplexer().feed(data))


def test_feed_takes_a_message_of_the_greatest_length() -> None:
    head = struct.pack(">IIIIBB", wire.PLUGIN, wire.LIMIT + 10, wire.LIMIT, 1, wire.REQUEST, 0)
    (found,) = in_pieces(head + bytes(wire.LIMIT), 1 << 16)
    assert len(found.body) == wire.LIMIT


def test_encode_refuses_what_containerd_cannot_read() -> None:
    wire.encode(Message(wire.PLUGIN, 1, wire.RESPONSE, bytes(4086)))
    with pytest.raises(ValueError, match="4097 bytes"):
        wire.encode(Message(wire.PLUGIN, 1, wire.RESPONSE, bytes(4087)))


values = st.one_of(st.integers(0, 2**63), st.binary(max_size=300))


@given(st.lists(st.tuples(st.integers(1, 1000), values), max_size=10))
def test_fields_are_those_that_were_encoded(sent: list[tuple[int, int | bytes]]) -> None:
    data = b"".join(wire.field(number, value) for number, value in sent)
    found = [(n, v if isinstance(v, int) else bytes(v)) for n, v in wire.fields(data)]
    assert found == sent


def test_fields_of_the_specification() -> None:
    # protobuf.dev/programming-guides/encoding: 150 in field 1, "testing" in field 2; fixed ones are skipped.
    data = bytes.fromhex("089601120774657374696e67") + b"\x19" + bytes(8) + b"\x25" + bytes(4)
    assert [(n, v if isinstance(v, int) else bytes(v)) for n, v in wire.fields(data)] == [
        (1, 150),
        (2, b"testing"),
        (3, bytes(8)),
        (4, bytes(4)),
    ]
    assert wire.field(1, 150) + wire.field(2, "testing") == data[:12]


@given(st.binary(max_size=300))
def test_fields_of_garbage_end_or_are_a_value_error(data: bytes) -> None:
    try:
        found = list(wire.fields(data))
    except ValueError:
        return
    assert sum(len(value) for _, value in found if isinstance(value, memoryview)) <= len(data)


@pytest.mark.parametrize(
    "data", [b"\x0a\x05ab", b"\x08", b"\x08" + b"\xff" * 11 + b"\x01", b"\x0b", b"\x0d\0\0\0", b"\xff"]
)
def test_fields_refuses_what_is_malformed(data: bytes) -> None:
    with pytest.raises(ValueError, match="protobuf"):
        list(wire.fields(data))


def test_text_is_the_last_one_and_tolerates_bad_utf8() -> None:
    assert wire.text(wire.field(1, "a") + wire.field(1, b"b\xff"), 1) == "b\ufffd"
    assert wire.text(b"", 1) == ""
