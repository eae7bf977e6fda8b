# SPDX-License-Identifier: Apache-2.0
"""`flowtag maps translate add|del`: what a translator may write into the maps, by hand.

WHAT is socket:COOKIE, port:ADDRESS:PORT, block:ADDRESS:FIRST-LAST, netns:COOKIE|PATH or
cgroup:ID|PATH. The first three name a workload; the last two mark where translators live.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from bpf.error import FlowtagError
from bpf.syscall import Map
from exporter.config import Config
from exporter.garbage import now
from identity import address, cgroup, netns, port_block, translation
from identity.claim import Claim
from identity.pinned import open_map

HINT = "see `flowtag maps translate --help`"


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asked for; workload is an id, container a container's id."""

    add: bool
    what: str
    workload: int | None
    container: str | None
    netns: int


def run(config: Config, request: Request) -> None:
    """Do it; FlowtagError says what could not be done."""
    kind, _, value = request.what.partition(":")
    with ExitStack() as stack:

        def pinned(name: str) -> Map:
            return stack.enter_context(open_map(name, config.host.pin_directory))

        if kind == "socket":
            done = _socket(request, _number(value, "socket"), pinned("ft_socket"), pinned("ft_workload"))
        elif kind == "port":
            done = _port(request, value, pinned("ft_port"), pinned("ft_workload"))
        elif kind == "block":
            done = _block(config, request, value, pinned)
        elif kind in ("netns", "cgroup"):
            done = _mark(config, request, kind, value, pinned(f"ft_{kind}"))
        else:
            raise FlowtagError(f"translating {request.what!r}: what is that?", HINT)
    if not done:
        raise FlowtagError(
            f"taking back {request.what}: it is not there, or no longer yours", "see maps dump"
        )


def _workload(request: Request, workloads: Map) -> int:
    if request.workload is not None:
        return request.workload
    if request.container is not None:
        return translation.find_workload(workloads, request.container)
    raise FlowtagError(f"translating {request.what}: for whom?", "add --workload ID or --container ID")


def _number(text: str, what: str) -> int:
    if not text.isdecimal():
        raise FlowtagError(f"translating {what}:{text}: not a number", HINT)
    return int(text)


def _socket(request: Request, cookie: int, sockets: Map, workloads: Map) -> bool:
    if not request.add:
        return translation.withdraw_socket(sockets, cookie)
    translation.publish_socket(sockets, cookie, _workload(request, workloads))
    return True


def _port(request: Request, value: str, ports: Map, workloads: Map) -> bool:
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    number = _number(port, "port")
    if not request.add:
        return translation.withdraw_port(ports, host, number, request.netns)
    translation.publish_port(ports, host, number, _workload(request, workloads), request.netns)
    return True


def _block(config: Config, request: Request, value: str, pinned: Callable[[str], Map]) -> bool:
    addresses, ports = pinned("ft_addr"), pinned("ft_port")
    locks = os.path.join(config.host.run_directory, "lock")
    workload = _workload(request, pinned("ft_workload"))
    shared = frozenset(map(address.from_text, config.translation.shared_addresses))
    blocks = port_block.parse(value, shared)
    if not request.add:
        return port_block.release(addresses, ports, blocks, workload, now(), locks) > 0
    refused = port_block.claim(addresses, ports, blocks, Claim(workload, now()), locks)
    if refused:
        raise FlowtagError(
            f"claiming {', '.join(map(str, refused))}: another living workload's ports are in it",
            "see `flowtag maps dump`",
        )
    return True


def _mark(config: Config, request: Request, kind: str, value: str, keys: Map) -> bool:
    locks = os.path.join(config.host.run_directory, "lock")
    try:
        if value.isdecimal():
            number = int(value)
        elif kind == "netns":
            number = netns.cookie(value)
        else:
            number = cgroup.id_of(f"{cgroup.mount_point()}/{value.strip('/')}")
    except OSError as error:
        raise FlowtagError(f"marking {kind} {value}: {error.strerror}", HINT) from None
    if not request.add:
        return translation.unmark(keys, number, locks)
    mark = translation.mark_netns if kind == "netns" else translation.mark_cgroup
    mark(keys, number, locks)
    return True
