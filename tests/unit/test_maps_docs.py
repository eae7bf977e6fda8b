# SPDX-License-Identifier: Apache-2.0
"""docs/maps.md says what bpf/abi.py says: every offset, size, field, map and counter."""

from __future__ import annotations

import re
from pathlib import Path
from struct import calcsize

import pytest

from bpf import abi
from exporter.maps_dump import PURPOSES

PAGE = (Path(__file__).resolve().parents[2] / "docs/maps.md").read_text(encoding="utf-8")
LAYOUTS = [
    abi.OWNER,
    abi.GAP,
    abi.NETNS,
    abi.PORT_KEY,
    abi.ADDR_KEY,
    abi.WORKLOAD,
    abi.FLOW,
    abi.TRAFFIC,
    abi.EVENT,
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: str(layout.name))
def test_offsets_of_every_struct(layout: abi.Layout) -> None:
    heading = f"`struct {layout.name}`, {layout.size} bytes:\n"
    table = PAGE.partition(heading)[2].strip().partition("\n\n")[0].splitlines()[2:]
    found = [tuple(cell.strip() for cell in row.split("|")[1:4]) for row in table]
    expected = []
    offset = 0
    for name, code in layout.fields:
        size = calcsize("=" + code)
        expected.append((str(offset), str(size), name))
        offset += size
    assert found == expected


def test_every_map_has_its_row_and_its_section() -> None:
    rows = re.findall(r"^\| (ft_\w+) \|", PAGE, re.MULTILINE)
    sections = re.findall(r"^## (ft_\w+)$", PAGE, re.MULTILINE)
    assert rows == sections == list(abi.MAPS) == list(PURPOSES)


def test_every_counter_has_its_row() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \| [^|]+ \|$", PAGE, re.MULTILINE)
    assert rows == [(str(index), name) for index, name in enumerate(abi.COUNTERS)]


@pytest.mark.parametrize(
    "codes",
    [
        abi.NETNS_KINDS[1:],
        abi.WORKLOAD_KINDS[1:],
        abi.SOURCES[1:],
        abi.STATES[1:],
        abi.EVENTS[1:],
        abi.ROLES,
        abi.ENDS,
        abi.RULES,
        abi.REASONS,
    ],
    ids=lambda codes: str(codes[-1]),
)
def test_codes_are_listed_with_their_numbers(codes: tuple[str, ...]) -> None:
    first = 0 if codes[0] in ("none", "unknown") else 1
    assert ", ".join(f"{number} {name}" for number, name in enumerate(codes, first)) in PAGE


def test_flags_of_owners_are_listed() -> None:
    assert ", ".join(f"{bit} {name}" for name, bit in abi.OWNER_FLAGS.items()) in PAGE
