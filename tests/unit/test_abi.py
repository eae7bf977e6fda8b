# SPDX-License-Identifier: Apache-2.0
"""bpf/abi.py says what flowtag.h says: every struct by field, every code, every map.

The truth is the BTF that clang writes for the header, so nothing here repeats the C side. A struct,
an enum or a macro that is new in the header and unknown to abi.py fails a test.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import cached_property
from pathlib import Path
from struct import calcsize
from typing import Any

import pytest

from bpf import abi, build
from exporter.programs import Knobs

HEADER = (build.DIRECTORY / "flowtag.h").read_text(encoding="utf-8")
STRUCTS = re.findall(r"^struct (ft_\w+) \{", HEADER, re.MULTILINE)
ENUMS = re.findall(r"^enum (ft_\w+) \{", HEADER, re.MULTILINE)
MACROS = re.findall(r"^#define (FT_\w+) ", HEADER, re.MULTILINE)
LAYOUTS = {
    layout.name: layout
    for layout in vars(abi).values()
    if isinstance(layout, abi.Layout) and layout is not abi.CONFIG_HEAD
}
# Enums whose codes have names: the enumerators' prefix, the names, enumerators that are no code.
NAMED: dict[str, tuple[str, tuple[str, ...], dict[str, int]]] = {
    "ft_owner_special": ("FT_OWNER_", abi.OWNER_SPECIALS, {"FT_OWNER_SPECIAL": abi.OWNER_SPECIAL}),
    "ft_netns_kind": ("FT_NETNS_", abi.NETNS_KINDS, {}),
    "ft_workload_kind": ("FT_KIND_", abi.WORKLOAD_KINDS, {}),
    "ft_source": ("FT_SOURCE_", abi.SOURCES, {}),
    "ft_identity_state": ("FT_STATE_", abi.STATES, {}),
    "ft_event_kind": ("FT_EVENT_", abi.EVENTS, {}),
    "ft_role": ("FT_ROLE_", abi.ROLES, {}),
    "ft_end": ("FT_END_", abi.ENDS, {}),
    "ft_rule": ("FT_RULE_", abi.RULES, {}),
    "ft_reason": ("FT_REASON_", abi.REASONS, {}),
    "ft_counter": ("FT_COUNT_", abi.COUNTERS, {"FT_COUNT_MAX": abi.COUNTER_SLOTS}),
}
# Enums that Python has as constants: the prefix in C, the prefix in Python.
CONSTANTS = {
    "ft_owner_special": ("FT_OWNER_", "OWNER_"),
    "ft_owner_flag": ("FT_OWNER_", "FLAG_"),
    "ft_flow_flag": ("FT_FLOW_", "FLOW_"),
    "ft_life": ("FT_LIFE_", "LIFE_"),
    "ft_event_kind": ("FT_EVENT_", "EVENT_"),
}

Field = tuple[str, int, str]  # name, offset, the struct format that reads it


class Btf:
    """The types of one object file, as bpftool prints them."""

    def __init__(self, path: Path) -> None:
        dump = subprocess.run(
            ["bpftool", "--json", "btf", "dump", "file", str(path)], check=True, capture_output=True
        )
        self.types: dict[int, dict[str, Any]] = {t["id"]: t for t in json.loads(dump.stdout)["types"]}

    @cached_property
    def named(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(t["kind"], t["name"]): t for t in self.types.values() if "name" in t}

    def real(self, number: int) -> dict[str, Any]:
        """The type behind typedefs and qualifiers."""
        found = self.types[number]
        while found["kind"] in ("TYPEDEF", "CONST", "VOLATILE"):
            found = self.types[found["type_id"]]
        return found

    def size(self, number: int) -> int:
        found = self.real(number)
        if found["kind"] == "ARRAY":
            return int(found["nr_elems"]) * self.size(found["type_id"])
        return int(found["size"])

    def fields(self, struct: dict[str, Any], base: int = 0) -> list[Field]:
        """The fields in order, those of nested structs in their struct's place."""
        found: list[Field] = []
        for member in struct["members"]:
            offset = base + member["bits_offset"] // 8
            kind = self.real(member["type_id"])
            size = self.size(member["type_id"])
            if kind["kind"] == "STRUCT":
                found += self.fields(kind, offset)
            elif member["name"] == "pad":
                found.append(("pad", offset, f"{size}x"))
            elif kind["kind"] == "ARRAY":
                found.append((member["name"], offset, f"{size}s"))
            else:
                found.append((member["name"], offset, {1: "B", 2: "H", 4: "I", 8: "Q"}[size]))
        return found

    def codes(self, enum: str) -> dict[str, int]:
        values = self.named["ENUM", enum]["values"]
        return {value["name"]: value["val"] & 0xFFFFFFFF for value in values}


def python_fields(layout: abi.Layout) -> list[Field]:
    before = ["=" + "".join(code for _, code in layout.fields[:i]) for i in range(len(layout.fields))]
    return [(name, calcsize(head), code) for (name, code), head in zip(layout.fields, before, strict=True)]


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Btf:
    """The header's types: a variable of each makes clang write them all."""
    directory = tmp_path_factory.mktemp("abi")
    lines = ["#include <linux/types.h>", f'#include "{build.DIRECTORY}/flowtag.h"']
    lines += [f"struct {name} s_{name};" for name in STRUCTS]
    lines += [f"enum {name} e_{name};" for name in ENUMS]
    lines += [f"enum macros {{ {', '.join(f'V_{name} = {name}' for name in MACROS)} }} m;"]
    source, target = directory / "abi.c", directory / "abi.o"
    source.write_text("\n".join(lines), encoding="ascii")
    build.build(target, source)
    return Btf(target)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Btf:
    target = tmp_path_factory.mktemp("abi") / "flow.bpf.o"
    build.build(target)
    return Btf(target)


@pytest.mark.parametrize("name", [name for name in STRUCTS if name != "ft_config"])
def test_struct_has_the_fields_of_its_layout(header: Btf, name: str) -> None:
    struct = header.named["STRUCT", name]
    assert name in LAYOUTS, f"abi.py has no Layout for struct {name}"
    assert python_fields(LAYOUTS[name]) == header.fields(struct)
    assert LAYOUTS[name].size == struct["size"]


def test_layouts_are_all_in_the_header() -> None:
    assert {name for name in LAYOUTS if name.startswith("ft_")} == set(STRUCTS) - {"ft_config"}


def test_config_is_packed_as_the_program_reads_it(header: Btf) -> None:
    struct = header.named["STRUCT", "ft_config"]
    fields = header.fields(struct)
    head = python_fields(abi.CONFIG_HEAD)
    assert fields[: len(head)] == head
    offset = {name: at for name, at, _ in fields}
    packed = Knobs(0x1122, True, (("docker", False), ("crio-", True)), ("dockerd", "crio")).pack()
    assert len(packed) == struct["size"]
    second = offset["root"] + abi.ROOT.size
    assert abi.ROOT.unpack_from(packed, second) == (b"crio-".ljust(32, b"\0"), 5, 1)
    name = packed[offset["activator"] + abi.COMM_LEN :][: abi.COMM_LEN]
    assert name == b"crio".ljust(abi.COMM_LEN, b"\0")
    assert packed[offset["activators"]] == 2


@pytest.mark.parametrize("enum", ENUMS)
def test_enum_is_known_to_python(enum: str) -> None:
    assert enum in NAMED or enum in CONSTANTS


@pytest.mark.parametrize("enum", NAMED)
def test_codes_have_their_names(header: Btf, enum: str) -> None:
    prefix, names, others = NAMED[enum]
    codes = header.codes(enum)
    expected = {prefix + name.upper(): code for code, name in enumerate(names)} | others
    if 0 not in codes.values():  # the C side needs no name for "nothing"
        del expected[prefix + names[0].upper()]
    assert codes == expected


@pytest.mark.parametrize("enum", CONSTANTS)
def test_constants_have_the_values_of_the_enum(header: Btf, enum: str) -> None:
    there, here = CONSTANTS[enum]
    codes = {name.removeprefix(there): value for name, value in header.codes(enum).items()}
    constants = {name.removeprefix(here): value for name, value in vars(abi).items() if name.startswith(here)}
    constants = {name: value for name, value in constants.items() if isinstance(value, int)}
    assert constants == codes


def test_owner_flags_have_their_names(header: Btf) -> None:
    names = {f"FT_OWNER_{name.upper()}": value for name, value in abi.OWNER_FLAGS.items()}
    assert names == header.codes("ft_owner_flag")


def test_macros_have_their_values(header: Btf) -> None:
    assert header.codes("macros") == {
        "V_FT_LAYOUT": abi.LAYOUT,
        "V_FT_COMM_LEN": abi.COMM_LEN,
        "V_FT_ROOT_LEN": calcsize(dict(abi.ROOT.fields)["name"]),
        "V_FT_ROOT_MAX": abi.ROOT_MAX,
        "V_FT_UNKNOWN32": abi.UNKNOWN32,
        "V_FT_HOST_MAX": abi.HOST_MAX,
        "V_FT_HOST_NEVER": abi.HOST_NEVER & 0xFFFFFFFF,
    }


def test_maps_have_their_types_and_sizes(program: Btf) -> None:
    found = {}
    for variable in program.named["DATASEC", ".maps"]["vars"]:
        var = program.types[variable["type_id"]]
        members = {m["name"]: m["type_id"] for m in program.real(var["type_id"])["members"]}
        target = {name: program.real(number)["type_id"] for name, number in members.items()}
        found[var["name"]] = (
            program.types[target["type"]]["nr_elems"],
            program.size(target["key"]) if "key" in target else None,
            program.size(target["value"]) if "value" in target else None,
        )
    assert found == {
        name: (kind, key.size if key else None, value.size if value else None)
        for name, (kind, key, value) in abi.MAPS.items()
    }


def test_map_values_are_the_structs_they_are_called(program: Btf) -> None:
    """Two structs of one size are still two: the BTF name of each key and value is the layout's."""
    for variable in program.named["DATASEC", ".maps"]["vars"]:
        var = program.types[variable["type_id"]]
        members = {m["name"]: m["type_id"] for m in program.real(var["type_id"])["members"]}
        _, key, value = abi.MAPS[var["name"]]
        for role, layout in (("key", key), ("value", value)):
            if layout is not None:
                pointer = program.real(members[role])
                assert program.types[pointer["type_id"]]["name"] == layout.name, var["name"]
