# SPDX-License-Identifier: Apache-2.0
"""Entries of the maps in words: every value, also a damaged one, gives one line and plain JSON."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf import abi
from exporter import entry
from exporter.surroundings import Surroundings
from identity import address
from identity.workload import Workload

SECOND = 10**9
WEB = 0x1111_0000_0001
AROUND = Surroundings(
    now=1000 * SECOND,
    wall=1_700_001_000 * SECOND,
    workloads={WEB: Workload(id=WEB, kind=1, source=1, state=2, container="web", start=1)},
    cgroups={7: "/docker/x"},
    namespaces={9: "pid 3 nginx"},
)
KEYED = {name: layouts for name, layouts in abi.MAPS.items() if layouts[0] in (abi.HASH, abi.LPM_TRIE)}


def owner(workload: int, since: int = 880 * SECOND, until: int = 0, flags: int = 0) -> bytes:
    return abi.OWNER.pack(workload, since, until, flags)


def shown(value: bytes) -> str:
    return entry.owner_text(entry.owner(value, AROUND), AROUND)


def test_living_claim_has_name_time_and_age() -> None:
    assert shown(owner(WEB)) == f"workload {WEB} (web), since 2023-11-14T22:28:00Z (2 min 0 s)"


def test_ended_claim_says_when() -> None:
    text = shown(owner(WEB, until=999 * SECOND, flags=abi.FLAG_INHERITED | abi.FLAG_RECONCILED))
    assert text.endswith(", ended 2023-11-14T22:29:59Z (1 s ago), inherited reconciled")


def test_unknown_workload_and_flag_are_said() -> None:
    text = shown(owner(WEB + 1, flags=abi.FLAG_NO_CGROUP | 0x40))
    assert text.startswith(f"workload {WEB + 1} (not in ft_workload), ")
    assert text.endswith(", no_cgroup 0x40")


@pytest.mark.parametrize(("code", "name"), list(enumerate(abi.OWNER_SPECIALS)))
def test_special_owner_is_named(code: int, name: str) -> None:
    assert shown(owner(code)).startswith(f"{name}, since ")


@pytest.mark.parametrize(
    ("since", "until", "alive"),
    [(1000, 0, True), (1001, 0, False), (5, 1000, False), (5, 1001, True)],
)
def test_claim_is_alive_under_the_kernels_test(since: int, until: int, alive: bool) -> None:
    assert entry.owner(owner(WEB, since * SECOND, until * SECOND), AROUND)["alive"] is alive


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (7260, "2 h 1 min"),
        (90000, "1 d 1 h"),
        (-1, "in the future"),
    ],
)
def test_age_has_its_two_largest_units(seconds: int, text: str) -> None:
    assert entry.age(seconds * SECOND) == text


@pytest.mark.parametrize(
    ("text", "length", "port", "expected"),
    [
        ("10.0.0.0", 96 + 8, 0, ("10.0.0.0/8", None)),
        ("10.0.0.7", 128, 0, ("10.0.0.7", None)),
        ("10.0.0.7", 144, 80, ("10.0.0.7", (80, 80))),
        ("10.0.0.7", 134, 32768, ("10.0.0.7", (32768, 33791))),
        ("2001:db8::", 64, 0, ("2001:db8::/64", None)),
        ("::", 0, 0, ("::/0", None)),
    ],
)
def test_prefix_is_written_as_people_do(
    text: str, length: int, port: int, expected: tuple[str, tuple[int, int] | None]
) -> None:
    assert entry.prefix(length, address.from_text(text), port) == expected


def test_keys_are_written_as_people_do() -> None:
    port_key = abi.PORT_KEY.pack(address.from_text("2001:db8::1"), 9, 443, 6)
    for name, raw, text in (
        ("ft_cgroup", abi.ID.pack(7), "cgroup 7 /docker/x"),
        ("ft_cgroup", abi.ID.pack(8), "cgroup 8 (gone)"),
        ("ft_netns", abi.ID.pack(9), "netns 9 (pid 3 nginx)"),
        ("ft_port", port_key, "[2001:db8::1]:443 tcp in netns 9"),
        ("ft_workload", abi.ID.pack(abi.OWNER_HOST_SLOT), "slot of the host"),
    ):
        assert entry.key_text(name, entry.key(name, raw, AROUND)) == text


@pytest.mark.parametrize("name", KEYED)
@given(data=st.data())
def test_any_bytes_are_explained_in_one_line(name: str, data: st.DataObject) -> None:
    _, key_layout, value_layout = KEYED[name]
    assert key_layout
    assert value_layout
    raw_key = data.draw(st.binary(min_size=key_layout.size, max_size=key_layout.size))
    raw_value = data.draw(st.binary(min_size=value_layout.size, max_size=value_layout.size))
    key = entry.key(name, raw_key, AROUND)
    value = entry.value(name, raw_value, AROUND)
    line = f"{entry.key_text(name, key)}: {entry.value_text(name, value, AROUND)}"
    assert not any(unicodedata.category(char) == "Cc" for char in line), "nothing steers the terminal"
    json.dumps([key, value], allow_nan=False)
    numbers = [item for item in [*key.values(), *value.values()] if type(item) is int]
    assert all(number < 1 << 53 for number in numbers), "64-bit numbers are strings"
