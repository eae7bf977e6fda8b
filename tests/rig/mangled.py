# SPDX-License-Identifier: Apache-2.0
"""Hostile JSON: anything, and pods of which parts are anything."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.rig.kube_objects import pod, reference

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@st.composite
def mangled_pods(draw: st.DrawFn) -> Any:
    """A pod in which some values, at any depth, are something else."""
    thing: Any = json.loads(json.dumps(pod("web", labels={"a": "b"}, owners=[reference("Job", "j", "u")])))
    for _ in range(draw(st.integers(1, 4))):
        place = thing
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            place[key] = draw(ANY)
            break
    return thing
