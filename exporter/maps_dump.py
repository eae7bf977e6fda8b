# SPDX-License-Identifier: Apache-2.0
"""`flowtag maps dump`: every pinned map, explained. What cannot be read is said, and the rest goes on."""

from __future__ import annotations

import json
import mmap
import os
from typing import Any

from bpf import abi, loaded
from bpf.error import FlowtagError
from bpf.syscall import Map
from exporter import counters, entry
from exporter.programs import CGROUP_PROGRAMS, FLOW_PROGRAMS, link_path
from exporter.surroundings import Surroundings, look_around
from identity.pinned import open_map

PURPOSES = {
    "ft_workload": "names of the workloads behind owner ids",
    "ft_cgroup": "who owns the sockets of a cgroup",
    "ft_gap": "whether a container on the host's network has no claim, so that the host's flows are nobody's",
    "ft_netns": "what a network namespace is, and whose",
    "ft_port": "translated (address, port), published by a translator",
    "ft_addr": "translated addresses and port blocks, by longest prefix",
    "ft_socket": "sockets that a translator published and the kernel has not consumed",
    "ft_flow": "what each open socket remembers; kept on the sockets, not listed",
    "ft_listener": "listeners made for others; kept on the sockets, not listed",
    "ft_events": "records on their way to the exporter",
    "ft_count": "counters of the kernel programs, since the maps were made",
}
_KEYED = ("ft_workload", "ft_cgroup", "ft_netns", "ft_port", "ft_addr", "ft_socket")


def dump(pin_directory: str, as_json: bool) -> int:
    """Print every map and link; 1 if one of them could not be read."""
    around = look_around(pin_directory)
    shown = {name: _map(name, pin_directory, around) for name in abi.MAPS}
    shown["links"] = links(pin_directory)
    if as_json:
        print(json.dumps(shown, indent=2))
    else:
        print("\n".join(text(shown, around)))
    failed = any("error" in part for part in shown.values())
    return int(failed or any("error" in item for item in shown["links"]["entries"]))


def _map(name: str, pin_directory: str, around: Surroundings) -> dict[str, Any]:
    try:
        with open_map(name, pin_directory) as pinned:
            return {"purpose": PURPOSES[name], "id": pinned.id, **_content(name, pinned, around)}
    except FlowtagError as error:
        return {"purpose": PURPOSES[name], "error": str(error), "hint": error.hint}
    except OSError as error:
        return {
            "purpose": PURPOSES[name],
            "error": f"reading pinned map {pin_directory}/{name}: {error.strerror}",
            "hint": "run as root",
        }


def _content(name: str, pinned: Map, around: Surroundings) -> dict[str, Any]:
    if name in _KEYED:
        entries = [
            {"key": entry.key(name, key, around), "value": entry.value(name, value, around)}
            for key, value in pinned.items()
        ]
        return {"max_entries": pinned.max_entries, "entries": entries}
    if name == "ft_gap":
        return {"gap": entry.gap(pinned.get(abi.INDEX.pack(0)) or bytes(abi.GAP.size), around)}
    if name == "ft_count":
        return {"counters": {key: str(value) for key, value in counters.read(pinned).items()}}
    if name == "ft_events":
        consumed, produced = ring_positions(pinned)
        return {
            "bytes": pinned.max_entries,
            "consumer": str(consumed),
            "producer": str(produced),
            "waiting_bytes": produced - consumed,
        }
    return {}


def ring_positions(ring: Map) -> tuple[int, int]:
    """The consumer's and the producer's position: the first word of the ring's first two pages."""
    found = []
    for page in (0, 1):
        with mmap.mmap(ring.fd, mmap.PAGESIZE, prot=mmap.PROT_READ, offset=page * mmap.PAGESIZE) as memory:
            found.append(int.from_bytes(memory[:8], "little"))
    return found[0], found[1]


def links(pin_directory: str) -> dict[str, Any]:
    """The pinned links; a link that is not there means that no exporter has attached it."""
    entries: list[dict[str, Any]] = []
    for program in CGROUP_PROGRAMS + FLOW_PROGRAMS:
        path = link_path(pin_directory, program)
        shown: dict[str, Any] = {"pin": os.path.basename(path), "program": program}
        try:
            link = loaded.link(path)
        except FileNotFoundError:
            shown["attached_to"] = None
        except OSError as error:
            shown["error"] = f"reading pinned link {path}: {error.strerror}"
        else:
            shown |= {
                "program": link.program,
                "attached_to": link.attached_to,
                "link_id": link.id,
                "program_id": link.program_id,
                "recursion_misses": str(link.misses),
            }
        entries.append(shown)
    return {"purpose": "the programs that run in the kernel", "entries": entries}


def text(shown: dict[str, dict[str, Any]], around: Surroundings) -> list[str]:
    """The same for people: a line for each map, an indented one for each entry."""
    lines: list[str] = []
    for name, part in shown.items():
        lines.append(f"{name}: {_heading(part)}{part['purpose']}")
        if "error" in part:
            lines.append(f"  cannot be read: {part['error']} ({part['hint']})")
        elif name == "links":
            lines += [f"  {_link_text(item)}" for item in part["entries"]]
        elif name in _KEYED:
            for item in part["entries"]:
                value = entry.value_text(name, item["value"], around)
                lines.append(f"  {entry.key_text(name, item['key'])}: {value}")
        elif name == "ft_gap":
            lines.append(f"  {entry.gap_text(part['gap'])}")
        elif name == "ft_count":
            lines += [f"  {counter}: {value}" for counter, value in part["counters"].items()]
    return lines


def _heading(part: dict[str, Any]) -> str:
    if "max_entries" in part:
        return f"{len(part['entries'])} of {part['max_entries']} entries; "
    if "waiting_bytes" in part:
        return f"{part['waiting_bytes']} of {part['bytes']} bytes wait; "
    return ""


def _link_text(item: dict[str, Any]) -> str:
    if "error" in item:
        return f"{item['pin']}: cannot be read: {item['error']}"
    if item["attached_to"] is None:
        return f"{item['pin']}: not attached; `flowtag run` attaches {item['program']}"
    return (
        f"{item['pin']}: {item['program']} on {item['attached_to']}, link {item['link_id']},"
        f" program {item['program_id']}, recursion misses {item['recursion_misses']}"
    )
