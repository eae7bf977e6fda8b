# SPDX-License-Identifier: Apache-2.0
"""One entry of a pinned map, explained: keys and values as people read them.

Explained values are flat dicts, ready for JSON: 64-bit numbers are strings, times are there raw
(`since_ns`, CLOCK_BOOTTIME) and as UTC (`since`), what is unknown is None.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bpf import abi
from exporter.surroundings import Surroundings
from identity import address
from identity.workload import Workload

Explained = dict[str, Any]

_ADDRESS_BITS = 128
_PORT_BITS = 16
_PROTOCOLS = {6: "tcp"}


def moment(boottime: int, around: Surroundings) -> str | None:
    """A CLOCK_BOOTTIME time as UTC; None for 0, which means never."""
    if not boottime:
        return None
    seconds, fraction = divmod(around.wall - around.now + boottime, 10**9)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"
    except (OverflowError, ValueError):
        return None  # nobody's clock: a damaged entry


def age(nanoseconds: int) -> str:
    """A span of time in its two largest units."""
    if nanoseconds < 0:
        return "in the future"
    seconds = nanoseconds // 10**9
    for unit, length, below, least in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if seconds >= length:
            return f"{seconds // length} {unit} {seconds % length // least} {below}"
    return f"{seconds} s"


def name(code: int, names: tuple[str, ...]) -> str:
    """The name of a code, or the number itself where it has none."""
    return names[code] if 0 <= code < len(names) else str(code)


def owner_name(workload_id: int, around: Surroundings) -> str | None:
    """A special owner's name, or its workload's; None where ft_workload does not know it."""
    if workload_id <= abi.OWNER_SPECIAL:
        return name(workload_id, abi.OWNER_SPECIALS)
    known = around.workloads.get(workload_id)
    return known.name if known else None


def owner(value: bytes, around: Surroundings) -> Explained:
    """A struct ft_owner, or the one that an ft_netns begins with."""
    workload_id, since, until, flags = abi.OWNER.unpack_from(value)
    names = [flag for flag, bit in abi.OWNER_FLAGS.items() if flags & bit]
    unknown = flags & ~sum(abi.OWNER_FLAGS.values())
    return {
        "workload": str(workload_id),
        "name": owner_name(workload_id, around),
        "since_ns": str(since),
        "since": moment(since, around),
        "until_ns": str(until),
        "until": moment(until, around),
        "alive": since <= around.now and (until == 0 or around.now < until),
        "flags": [*names, hex(unknown)] if unknown else names,
    }


def gap(value: bytes, around: Surroundings) -> Explained:
    """The struct ft_gap."""
    since, by = abi.GAP.unpack(value)
    return {
        "since_ns": str(since),
        "since": moment(since, around),
        "workload": str(by),
        "name": owner_name(by, around),
    }


def gap_text(explained: Explained) -> str:
    """One line on the gap."""
    if explained["since_ns"] == "0":
        return "no claim is missing"
    return f"since {explained['since']}, last by workload {explained['workload']} ({explained['name']})"


def owner_text(explained: Explained, around: Surroundings) -> str:
    """One line on a claim: whose, since when, until when."""
    workload_id = int(explained["workload"])
    if workload_id <= abi.OWNER_SPECIAL:
        text = str(explained["name"])
    else:
        shown = explained["name"]
        text = f"workload {workload_id} ({shown or 'not in ft_workload'})"
    text += f", {_life_text(explained, 'since', 'until', around)}"
    if explained["flags"]:
        text += f", {' '.join(explained['flags'])}"
    return text


def _life_text(explained: Explained, begin: str, end: str, around: Surroundings) -> str:
    began, ended = int(explained[f"{begin}_ns"]), int(explained[f"{end}_ns"])
    text = f"since {_short(explained[begin])} ({age(around.now - began)})"
    if ended:
        text += f", ended {_short(explained[end])} ({age(around.now - ended)} ago)"
    return text


def _short(time_text: str | None) -> str:
    return f"{time_text[:19]}Z" if time_text else "?"


def prefix(prefix_len: int, packed: bytes, port: int) -> tuple[str, tuple[int, int] | None]:
    """A key of ft_addr as text, and the ports that it covers (None: it names no port).

    A prefix of a v4-mapped address has the length that IPv4 counts.
    """
    bits = min(prefix_len, _ADDRESS_BITS)
    mapped = address.is_ipv4(packed) and bits >= 96
    text = address.to_text(packed)
    if bits < _ADDRESS_BITS:
        text += f"/{bits - 96 if mapped else bits}"
    if prefix_len <= _ADDRESS_BITS:
        return text, None
    free = (1 << max(0, _ADDRESS_BITS + _PORT_BITS - prefix_len)) - 1
    return text, (port & ~free, port | free)


def key(map_name: str, raw: bytes, around: Surroundings) -> Explained:
    """A key of a hash or of ft_addr."""
    if map_name == "ft_port":
        packed, cookie, port, protocol = abi.PORT_KEY.unpack(raw)
        return {
            "address": address.to_text(packed),
            "port": port,
            "protocol": _PROTOCOLS.get(protocol, str(protocol)),
            "netns": str(cookie),
            "process": around.namespaces.get(cookie),
        }
    if map_name == "ft_addr":
        prefix_len, packed, port_bytes = abi.ADDR_KEY.unpack(raw)
        text, ports = prefix(prefix_len, packed, int.from_bytes(port_bytes, "big"))
        return {"prefix_len": prefix_len, "address": text, "ports": list(ports) if ports else None}
    number = abi.ID.unpack(raw)[0]
    if map_name == "ft_cgroup":
        return {"cgroup_id": str(number), "path": around.cgroups.get(number)}
    if map_name == "ft_netns":
        return {"netns": str(number), "process": around.namespaces.get(number)}
    if map_name == "ft_socket":
        return {"cookie": str(number)}
    return {"id": str(number), "slot": "host" if number == abi.OWNER_HOST_SLOT else None}


def key_text(map_name: str, explained: Explained) -> str:
    """One phrase on a key."""
    if map_name == "ft_port":
        where = explained["netns"] if explained["netns"] != "0" else "any translator's"
        end = socket_address(explained["address"], explained["port"])
        return f"{end} {explained['protocol']} in netns {where}"
    if map_name == "ft_addr":
        ports = explained["ports"]
        block = f" ports {ports[0]}-{ports[1]}" if ports else ""
        return f"{explained['address']}{block} (prefix {explained['prefix_len']})"
    if map_name == "ft_cgroup":
        return f"cgroup {explained['cgroup_id']} {explained['path'] or '(gone)'}"
    if map_name == "ft_netns":
        return f"netns {explained['netns']} ({explained['process'] or 'no process'})"
    if map_name == "ft_socket":
        return f"socket {explained['cookie']}"
    return "slot of the host" if explained["slot"] else f"workload {explained['id']}"


def socket_address(text: str, port: int) -> str:
    """An address with its port as people write it."""
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def value(map_name: str, raw: bytes, around: Surroundings) -> Explained:
    """A value of a hash or of ft_addr."""
    if map_name == "ft_workload":
        return workload(Workload.unpack(raw), around)
    explained = owner(raw, around)
    if map_name == "ft_netns":
        explained["kind"] = name(abi.NETNS.unpack(raw)[-1], abi.NETNS_KINDS)
    return explained


def value_text(map_name: str, explained: Explained, around: Surroundings) -> str:
    """One line on a value."""
    if map_name == "ft_workload":
        return workload_text(explained, around)
    text = owner_text(explained, around)
    return f"{explained['kind']}'s: {text}" if map_name == "ft_netns" else text


def workload(known: Workload, around: Surroundings) -> Explained:
    """A struct ft_workload."""
    explained: Explained = {
        "id": str(known.id),
        "name": known.name,
        "kind": name(known.kind, abi.WORKLOAD_KINDS),
        "source": name(known.source, abi.SOURCES),
        "state": name(known.state, abi.STATES),
        "start_ns": str(known.start),
        "start": moment(known.start, around),
        "end_ns": str(known.end),
        "end": moment(known.end, around),
    }
    for label in abi.WORKLOAD.names[abi.WORKLOAD.names.index("runtime") :]:
        explained[label] = getattr(known, label) or None
    return explained


def workload_text(explained: Explained, around: Surroundings) -> str:
    """One line on a workload."""
    names = " ".join(
        f"{label}={explained[label]}"
        for label in abi.WORKLOAD.names[abi.WORKLOAD.names.index("runtime") :]
        if explained[label]
    )
    life = _life_text(explained, "start", "end", around)
    return (
        f"{explained['kind']} {explained['name'] or '(no name)'}, {life},"
        f" by {explained['source']}, {explained['state']}; {names}"
    )
