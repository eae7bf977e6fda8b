# SPDX-License-Identifier: Apache-2.0
"""Who claims an address, with or without a port, and whose open sockets have it as their local end."""

from __future__ import annotations

import os

from bpf import abi
from bpf.error import FlowtagError
from exporter import entry, tcp_table, verdict
from exporter.config import Config
from exporter.entry import Explained
from exporter.surroundings import Surroundings, comm
from exporter.verdict import Verdict
from identity import address, netns
from identity.pinned import open_map

HINT = "use ADDRESS[:PORT], pid:N, cgroup:PATH|ID, container:ID or socket:COOKIE"


def parse(target: str) -> tuple[bytes, int | None]:
    """ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT as canonical bytes and port; FlowtagError for others."""
    host: str = target
    port: str | None = None
    if target.startswith("["):
        host, end, tail = target[1:].partition("]")
        if not end or (tail and not tail.startswith(":")):
            raise FlowtagError(f"looking up {target!r}: not an address", HINT)
        port = tail[1:] if tail else None
    elif target.count(":") == 1:
        host, _, port = target.partition(":")
    try:
        return address.from_text(host), None if port is None else parse_number(port, 65535, target)
    except ValueError:
        raise FlowtagError(f"looking up {target!r}: not an address", HINT) from None


def parse_number(digits: str, most: int, target: str) -> int:
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 20) or int(digits) > most:
        raise FlowtagError(f"looking up {target!r}: not a number from 0 to {most}: {digits!r}", HINT)
    return int(digits)


def of_address(rest: str, config: Config, around: Surroundings) -> Verdict:
    packed, port = parse(rest)
    found = Verdict()
    decided = False
    for order, name, key_text, rule, claim in _claims(packed, port, config, around):
        what = f"{name}: {key_text}: {entry.owner_text(claim, around)}"
        found.steps.append(what)
        if "address" in claim["flags"]:
            found.steps[-1] += ": it has the address in a namespace of its own"
            if not decided:
                verdict.judge(found, claim, "address", what)
        elif decided:
            found.lost.append(f"{what}: a more exact claim goes first, dead or alive")
        elif order >= 0:
            verdict.judge(found, claim, rule, what)
            decided = True
    if decided:
        found.steps.append("claims by address count only for sockets where translators live")
    elif not found.steps:
        found.steps.append("no claim in ft_port and none in ft_addr")
        found.refuse("no_claim")
    return _live_sockets(found, packed, port, config, around)


def _claims(
    packed: bytes, port: int | None, config: Config, around: Surroundings
) -> list[tuple[int, str, str, str, Explained]]:
    """Claims on an address, the most exact first; order -1: one that does not decide, a block of it."""
    found = []
    with open_map("ft_port", config.host.pin_directory) as ports:
        for raw_key, raw in ports.items():
            held, cookie, number, _ = abi.PORT_KEY.unpack(raw_key)
            if held == packed and port in (None, number):
                key = entry.key_text("ft_port", entry.key("ft_port", raw_key, around))
                order = -1 if port is None else 1000 + bool(cookie)  # a namespace's own goes first
                found.append((order, "ft_port", key, "port", entry.owner(raw, around)))
    with open_map("ft_addr", config.host.pin_directory) as addresses:
        for raw_key, raw in addresses.items():
            prefix_len, held, number = abi.ADDR_KEY.unpack(raw_key)
            if not _covers(min(prefix_len, 128), held, packed):
                continue
            ports_of = entry.prefix(prefix_len, held, int.from_bytes(number, "big"))[1]
            if ports_of and port is not None and not ports_of[0] <= port <= ports_of[1]:
                continue
            key = entry.key_text("ft_addr", entry.key("ft_addr", raw_key, around))
            order = -1 if ports_of and port is None else prefix_len
            found.append((order, "ft_addr", key, "block", entry.owner(raw, around)))
    return sorted(found, key=lambda claim: -claim[0])


def _covers(bits: int, held: bytes, packed: bytes) -> bool:
    shift = 128 - bits
    return int.from_bytes(held, "big") >> shift == int.from_bytes(packed, "big") >> shift


def _live_sockets(
    found: Verdict, packed: bytes, port: int | None, config: Config, around: Surroundings
) -> Verdict:
    """Sockets with this local end, in every namespace that has a process, by their holders' owners."""
    anywhere = {bytes(16), address.canonical(bytes(4))}
    sockets = [
        (pid, socket)
        for pid in tcp_table.namespaces().values()
        for socket in tcp_table.sockets(pid)
        if port in (None, socket.port)
        and (socket.address == packed or (port is not None and socket.address in anywhere))
    ]
    holders = tcp_table.holders({socket.inode for _, socket in sockets})
    owners: dict[str, tuple[Explained, str]] = {}
    for pid, socket in sockets:
        end = entry.socket_address(address.to_text(socket.address), socket.port)
        pids = holders.get(socket.inode, [])
        line = f"open: {end} {socket.state}, {_namespace(pid)}, "
        if not pids:
            found.steps.append(line + "held by no process")
        for holder in pids:
            try:
                its = verdict.of_process(holder, config, around)
            except OSError:
                continue  # it has gone meanwhile
            whose = entry.owner_text(its.claim, around) if its.claim else its.reason
            found.steps.append(f"{line}held by pid {holder} {comm(holder)}: {whose}; by {its.rule}")
            if its.claim:
                owners[its.claim["workload"]] = (its.claim, its.rule)
    if not found.owned and len(owners) == 1:
        found.give(*next(iter(owners.values())))
    elif not found.owned and owners:
        found.steps.append("sockets of several owners have this local end, each in its namespace")
    return found


def _namespace(pid: int) -> str:
    try:
        return f"netns {netns.cookie(pid)}"
    except OSError as error:
        return f"netns unknown ({error.strerror}: {os.path.basename(error.filename or '')})"
