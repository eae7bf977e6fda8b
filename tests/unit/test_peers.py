# SPDX-License-Identifier: Apache-2.0
"""Two ends name each other only where nothing else could be meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf import abi
from exporter import peers
from exporter.ring import DTYPE, Columns
from identity import address

CLIENT, SERVER = abi.ROLES.index("client"), abi.ROLES.index("server")
WEB, SHOP, THIRD = 1 << 40, 1 << 41, 1 << 63


def end(owner: int, role: int, local: str, peer: str, **values: Any) -> dict[str, Any]:
    (here, port), (there, peer_port) = local.rsplit(":", 1), peer.rsplit(":", 1)
    return {
        "owner": owner,
        "role": role,
        "local_address": np.void(address.from_text(here)),
        "local_port": int(port),
        "peer_address": np.void(address.from_text(there)),
        "peer_port": int(peer_port),
        "time_start": 10**12,
        "time_end": 2 * 10**12,
        "netns": owner % 1000,
        **values,
    }


def columns(*ends: dict[str, Any]) -> Columns:
    rows = np.zeros(len(ends), DTYPE)
    for number, values in enumerate(ends):
        for name, value in values.items():
            rows[name][number] = value
    return rows


def find(*ends: dict[str, Any]) -> list[int]:
    found: list[int] = peers.find(columns(*ends)).tolist()
    return found


@pytest.mark.parametrize("address4", [True, False])
def test_ends_on_one_host_name_each_other(address4: bool) -> None:
    a, b = ("192.0.2.1:40000", "192.0.2.2:80") if address4 else ("2001:db8::1:40000", "2001:db8::2:80")
    assert find(end(SHOP, CLIENT, a, b), end(WEB, SERVER, b, a)) == [WEB, SHOP]


def test_end_without_another_names_nobody() -> None:
    assert find(end(SHOP, CLIENT, "192.0.2.1:40000", "192.0.2.2:80")) == [0]
    assert find() == []


def test_unowned_end_is_nobody() -> None:
    a, b = "192.0.2.1:40000", "192.0.2.2:80"
    assert find(end(SHOP, CLIENT, a, b), end(0, SERVER, b, a)) == [0, SHOP]


def test_one_pair_of_ports_with_two_owners_names_nobody() -> None:
    a, b = "192.0.2.1:40000", "192.0.2.2:80"
    ends = end(SHOP, CLIENT, a, b), end(WEB, SERVER, b, a), end(THIRD, SERVER, b, a)
    assert find(*ends) == [0, SHOP, SHOP]


def test_reused_ports_of_the_same_owners_name_each_other() -> None:
    a, b = "192.0.2.1:40000", "192.0.2.2:80"
    pair = end(SHOP, CLIENT, a, b), end(WEB, SERVER, b, a)
    assert find(*pair, *pair) == [WEB, SHOP, WEB, SHOP]


def test_ends_of_one_role_are_no_pair() -> None:
    a, b = "192.0.2.1:40000", "192.0.2.2:80"
    assert find(end(SHOP, CLIENT, a, b), end(WEB, CLIENT, b, a)) == [0, 0]


def test_lives_that_do_not_overlap_are_no_pair() -> None:
    a, b = "192.0.2.1:40000", "192.0.2.2:80"
    later = end(WEB, SERVER, b, a, time_start=4 * 10**12, time_end=5 * 10**12)
    assert find(end(SHOP, CLIENT, a, b), later) == [0, 0]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("127.0.0.1:40000", "127.0.0.1:80"),
        ("::1:40000", "::1:80"),
        ("192.0.2.1:40000", "192.0.2.1:80"),
        ("fe80::1:40000", "fe80::2:80"),
    ],
)
def test_addresses_of_one_namespace_pair_only_inside_it(a: str, b: str) -> None:
    client, server = end(SHOP, CLIENT, a, b, netns=1), end(WEB, SERVER, b, a, netns=1)
    assert find(client, server) == [WEB, SHOP]
    assert find(client, {**server, "netns": 2}) == [0, 0]


def _one_by_one(rows: Columns) -> list[int]:
    """The same, slowly."""
    found = []
    for row in rows:
        inside = (
            row["local_address"].tobytes()[:13] == address.MAPPED + b"\x7f"
            or row["peer_address"].tobytes()[:13] == address.MAPPED + b"\x7f"
            or row["local_address"].tobytes() == row["peer_address"].tobytes()
        )
        others = [
            o
            for o in rows
            if o["local_address"].tobytes() == row["peer_address"].tobytes()
            and o["peer_address"].tobytes() == row["local_address"].tobytes()
            and (o["local_port"], o["peer_port"]) == (row["peer_port"], row["local_port"])
            and (not inside or o["netns"] == row["netns"])
        ]
        owners = {int(o["owner"]) for o in others}
        roles = {int(o["role"]) for o in others}
        alone = len(owners) == len(roles) == 1 and roles != {int(row["role"])}
        found.append(owners.pop() if alone else 0)
    return found


@given(
    st.lists(
        st.tuples(
            st.sampled_from((0, WEB, SHOP)),
            st.sampled_from((0, CLIENT, SERVER)),
            st.sampled_from(("192.0.2.1", "192.0.2.2", "127.0.0.1")),
            st.integers(1, 2),
            st.sampled_from(("192.0.2.1", "192.0.2.2", "127.0.0.1")),
            st.integers(1, 2),
            st.integers(1, 2),
        ),
        max_size=12,
    )
)
def test_find_against_looking_one_by_one(ends: list[tuple[int, int, str, int, str, int, int]]) -> None:
    rows = columns(*(end(o, r, f"{a}:{p}", f"{b}:{q}", netns=netns) for o, r, a, p, b, q, netns in ends))
    assert peers.find(rows).tolist() == _one_by_one(rows)
