# SPDX-License-Identifier: Apache-2.0
"""Names by container id: what is kept how long, and that memory is bounded whatever comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from identity.known import KEEP_SECONDS, TEXT, Known
from identity.names import Names

ROOM = 15 * TEXT  # two, if both are short


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_ended_container_is_known_for_a_while() -> None:
    clock = Clock()
    known = Known(clock=clock)
    known.put("a", Names("web"))
    known.end("a")
    clock.now += KEEP_SECONDS
    known.put("b", Names("shop"))
    assert known.get("a") == Names("web")
    clock.now += 1
    known.put("b", Names("shop"))
    assert known.get("a") is None
    assert len(known) == 1


def test_ended_container_that_is_seen_again_is_not_kept_longer() -> None:
    clock = Clock()
    known = Known(clock=clock)
    known.put("a", Names("web"), ended=True)
    clock.now += KEEP_SECONDS
    known.put("a", Names("web"), ended=True)
    clock.now += 1
    known.end_others(())
    assert known.get("a") is None


def test_container_that_starts_again_lives() -> None:
    clock = Clock()
    known = Known(clock=clock)
    known.put("a", Names("web"), ended=True)
    known.put("a", Names("web"))
    clock.now += KEEP_SECONDS + 1
    known.end_others(("a",))
    assert known.get("a") == Names("web")


def test_ended_containers_make_room_first() -> None:
    known = Known(most=2)
    known.put("old", Names("old"))
    known.put("ended", Names("ended"))
    known.end("ended")
    known.put("new", Names("new"))
    assert known.get("ended") is None
    assert known.get("old") is not None
    known.put("newer", Names("newer"))
    assert known.get("old") is None
    assert known.get("newer") is not None


ACTIONS = st.tuples(
    st.sampled_from(("put", "ended", "end", "others")), st.sampled_from("abcdefgh"), st.integers(0, 40)
)


@given(st.lists(ACTIONS, max_size=60))
def test_memory_is_bounded(actions: list[tuple[str, str, int]]) -> None:
    known = Known(most=4, room=ROOM)
    for action, one, size in actions:
        names = Names(one, labels={"x": "é" * size})
        if action == "end":
            known.end(one)
        elif action == "others":
            known.end_others((one,))
        else:
            known.put(one, names, ended=action == "ended")
            assert known.get(one) == names
        assert len(known) <= 4
        assert known.size <= ROOM
        kept = [found for found in map(known.get, "abcdefgh") if found is not None]
        assert len(kept) == len(known)
        assert known.size == sum(7 * TEXT + 2 + 2 * len(found.labels["x"]) for found in kept)
