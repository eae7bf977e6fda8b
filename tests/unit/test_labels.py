# SPDX-License-Identifier: Apache-2.0
"""Tenants' labels: whatever they are, what is kept is bounded, clean and never a source's own."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from identity.labels import KEY_ROOM, MOST, RESERVED, ROOM, VALUE_ROOM, tenant

HOSTILE = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=400),
    st.just(RESERVED).flatmap(lambda text: st.sampled_from((text, f"\0{text}x", f"{text}networks"))),
    st.integers(1, 3000).map(lambda length: "é" * length),
)


@given(st.dictionaries(HOSTILE, HOSTILE, max_size=100))
@example({f"{number:04}{'x' * 300}": "y" * 300 for number in range(200)})
@example({"\x01flowtag.io/networks": "forged", "flow\x7ftag.io/a": "b"})
@example({"\ud800": "\udfff"})
def test_hostile_labels_are_bounded_and_clean(labels: dict[str, str]) -> None:
    kept = tenant(labels)
    assert len(kept) <= MOST
    assert sum(len(key.encode()) + len(value.encode()) for key, value in kept.items()) <= ROOM
    assert list(kept) == sorted(kept)
    for key, value in kept.items():
        assert 0 < len(key.encode()) <= KEY_ROOM
        assert len(value.encode()) <= VALUE_ROOM
        assert not key.startswith(RESERVED)
        assert not any(c < " " or "\x7f" <= c <= "\x9f" for c in key + value)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_labels_of_any_shape_do_not_raise(value: object) -> None:
    assert all(isinstance(text, str) for pair in tenant(value).items() for text in pair)


def test_ordinary_labels_stay_as_they_are() -> None:
    labels = {"com.docker.compose.service": "web", "app.kubernetes.io/name": "shop", "empty": ""}
    assert tenant(labels) == labels


def test_key_that_had_to_be_cleaned_replaces_no_other() -> None:
    assert tenant({"\x01app": "forged", "app": "shop"}) == {"app": "shop"}
    assert tenant({"ap\x01p": "forged", "app": "shop"}) == {"app": "shop"}
    assert tenant({"app": "shop", "app\x01": "forged"}) == {"app": "shop"}
