# SPDX-License-Identifier: Apache-2.0
"""What Docker's API says, as names: answers recorded from dockerd 20.10.24, and answers of no shape at all.

The container of the fixtures was run as `web` with the labels team=shop, com.docker.compose.service=web
and name=mine, linked to by another as `db`, renamed to `shop` and connected to a second network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from identity.docker_names import from_create, from_inspect, from_list
from identity.names import Names

FIXTURES = Path(__file__).parent / "fixtures/docker"
LABELS = {"com.docker.compose.service": "web", "name": "mine", "team": "shop"}
SHOP = Names("shop", image="bb:1", labels={**LABELS, "flowtag.io/networks": "bridge,n1"})
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("Id", "ID", "Names", "Name", "Labels", "State", "Config", "Actor", "Attributes"))
            | st.sampled_from(("Image", "NetworkSettings", "Networks", "Running", "image", "name")),
            inner,
            max_size=5,
        )
    ),
)


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))


def test_entry_of_the_list() -> None:
    linked, shop = map(from_list, fixture("list"))
    assert shop[1:] == (SHOP, True)
    assert linked[1:] == (Names("linked", image="bb:1", labels={"flowtag.io/networks": "bridge"}), True)


def test_inspected_container() -> None:
    found, names, runs = from_inspect(fixture("inspect"))
    assert found == fixture("list")[1]["Id"]
    assert (names, runs) == (SHOP, True)


def test_created_container_has_its_name_and_image_over_labels_that_are_called_so() -> None:
    event = next(event for event in fixture("events") if event["Action"] == "create")
    found, names = from_create(event)
    assert found == fixture("inspect")["Id"]
    labels = {key: LABELS[key] for key in ("com.docker.compose.service", "team")}
    assert names == Names("web", image="bb:1", labels=labels)


def test_container_that_ended_does_not_run() -> None:
    entry = fixture("list")[0]
    assert not from_list({**entry, "State": "exited"})[2]
    description = fixture("inspect")
    description["State"]["Running"] = False
    assert not from_inspect(description)[2]


def test_tenant_cannot_say_which_networks_it_is_on() -> None:
    entry = {**fixture("list")[0], "Labels": {"flowtag.io/networks": "forged", "flowtag.io/x": "y"}}
    assert dict(from_list(entry)[1].labels) == {"flowtag.io/networks": "bridge"}
    entry["NetworkSettings"] = {}
    assert from_list(entry)[1].labels == {}


def test_short_id_is_no_container() -> None:
    assert from_list({**fixture("list")[0], "Id": "62f96a656752"})[0] == ""
    assert from_inspect({**fixture("inspect"), "Id": "../info"})[0] == ""


@given(ANYTHING)
def test_answer_of_any_shape_does_not_raise(value: object) -> None:
    for found in (from_list(value), from_inspect(value), from_create(value)):
        assert isinstance(found[0], str)
        assert isinstance(found[1], Names)
