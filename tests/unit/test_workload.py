# SPDX-License-Identifier: Apache-2.0
"""The workload value and its bytes."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf import abi
from identity.workload import (
    KIND_CONTAINER,
    KIND_HOST,
    KIND_POD,
    ROOM,
    Workload,
    fit,
    new_id,
)

U64 = st.integers(0, 2**64 - 1)
ANY_TEXT = st.text(st.characters())  # surrogates and control characters too


def any_workload() -> st.SearchStrategy[Workload]:
    numbers = {"id": U64, "start": U64, "end": U64}
    codes = dict.fromkeys(("kind", "source", "state"), st.integers(0, 255))
    return st.builds(Workload, **numbers, **codes, **dict.fromkeys(ROOM, ANY_TEXT))


@given(any_workload())
def test_pack_any_workload_round_trips(workload: Workload) -> None:
    value = workload.pack()
    assert len(value) == abi.WORKLOAD.size
    assert Workload.unpack(value) == workload


@given(st.binary(min_size=abi.WORKLOAD.size, max_size=abi.WORKLOAD.size))
def test_unpack_any_bytes(value: bytes) -> None:
    workload = Workload.unpack(value)
    assert Workload.unpack(workload.pack()) == workload


@given(ANY_TEXT, st.integers(1, 300))
def test_fit_any_text(text: str, room: int) -> None:
    short = fit(text, room)
    assert len(short.encode()) <= room
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in short)
    assert fit(short, room) == short


def test_fit_cuts_between_characters() -> None:
    assert fit("aü", 2) == "a"
    assert fit("aü", 3) == "aü"
    assert fit("😀😀", 7) == "😀"


def test_fit_control_characters_are_removed() -> None:
    assert fit("a\0b\x1b[31m\x7f\x85c\n", 64) == "ab[31mc"


def test_workload_without_values_is_blank() -> None:
    assert Workload().values() == (0,) * 6 + ("",) * 9


def test_workload_unknown_field() -> None:
    with pytest.raises(TypeError, match="labels"):
        Workload(labels="a")


def test_replace_leaves_the_rest() -> None:
    old = Workload(id=70000, pod="p")
    assert old.replace(end=5).values() == Workload(id=70000, pod="p", end=5).values()
    assert old.end == 0


@pytest.mark.parametrize(
    ("workload", "name"),
    [
        (Workload(kind=KIND_CONTAINER, namespace="n", pod="p", container="c"), "n/p/c"),
        (Workload(kind=KIND_POD, namespace="n", pod="p", container_id="i"), "n/p"),
        (Workload(kind=KIND_CONTAINER, container="c", container_id="i"), "c"),
        (Workload(kind=KIND_CONTAINER, container_id="i", host="h"), "i"),
        (Workload(kind=KIND_HOST, host="h"), "h"),
    ],
)
def test_name(workload: Workload, name: str) -> None:
    assert workload.name == name


def test_new_id_is_never_special() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert min(ids) > abi.OWNER_SPECIAL
    assert max(ids) < 2**64
