# SPDX-License-Identifier: Apache-2.0
"""Publications: what a translator, which makes sockets for others, tells flowtag of them.

    with open_map("ft_socket") as sockets, open_map("ft_workload") as workloads:
        workload = find_workload(workloads, container_id)      # once a container
        publish_socket(sockets, cookie(made), workload)        # before connect()

The best key is the socket's cookie, known as soon as the socket exists; else, after bind(), its address
and port. The kernel takes a publication when the socket connects and keeps it with the socket. What a
translator makes is told from what others make by a mark on its network namespace or on its cgroup.
docs/translation.md has the same for other languages.
"""

from __future__ import annotations

import time

from bpf import abi, syscall
from bpf.error import FlowtagError
from identity import address as ip
from identity import netns as namespace
from identity.claim import Claim, Stripe, release
from identity.port_block import port_key, require_unique
from identity.workload import Workload

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

TRANSLATOR_NETNS = abi.NETNS_KINDS.index("translator")
_SOL_SOCKET, _SO_COOKIE = 1, 57
_SECOND = 1_000_000_000


def cookie(made: socket.socket) -> int:
    """The cookie of a socket: its key in ft_socket, never used twice."""
    return int.from_bytes(made.getsockopt(_SOL_SOCKET, _SO_COOKIE, 8), "little")


def find_workload(workloads: syscall.Map, container_id: str) -> int:
    """The id of the living workload of a container; FlowtagError if there is none, or more than one.

    Reads all of ft_workload: once a container, not once a connection.
    """
    known = [Workload.unpack(value) for key, value in workloads.items()]
    found = [w.id for w in known if w.container_id == container_id and w.end == 0]
    if len(found) != 1:
        raise FlowtagError(
            f"looking for the workload of container {container_id!r:.80}: {len(found)} are alive",
            "see `flowtag maps dump`; where engines share an id, publish the workload's id",
        )
    return found[0]


def publish_socket(sockets: syscall.Map, number: int, workload: int) -> None:
    """Say before its connect() whose the socket with the cookie `number` is."""
    if not 0 < number < 1 << 64:
        raise FlowtagError(f"publishing socket {number}: not a socket's cookie", "take SO_COOKIE, 64 bits")
    _publish(sockets, abi.ID.pack(number), workload, 0, f"socket {number}")


def withdraw_socket(sockets: syscall.Map, number: int) -> bool:
    """Take back what was published and not taken, for a socket that will not connect."""
    return sockets.delete(abi.ID.pack(number))


def publish_port(ports: syscall.Map, address: str, port: int, workload: int, netns: int = 0) -> None:
    """Say between bind() and connect() whose the next connection from (address, port) is.

    netns is the cookie of the socket's namespace, 0 for any translator's. A port that was claimed for
    a workload's whole life stays that one's: FlowtagError for any other.
    """
    packed = _address(address)
    if not 0 < port < 65536:
        raise FlowtagError(f"publishing port {port}: not within 1-65535", "publish after bind()")
    key = port_key(packed, port, netns)
    value = ports.get(key)
    if value is not None:
        old = Claim.unpack(value)
        if not old.flags & abi.FLAG_ONCE and old.until == 0:
            if old.workload == workload:
                return  # it is its own already, for more than one connection
            raise FlowtagError(
                f"publishing {address} port {port}: it is claimed by workload {old.workload:#x}",
                "bind to a port outside the blocks of other workloads",
            )
    _publish(ports, key, workload, abi.FLAG_ONCE, f"{address} port {port}")


def withdraw_port(ports: syscall.Map, address: str, port: int, netns: int = 0) -> bool:
    """Take back what was published for one connection and not taken; the port may soon be another's."""
    key = port_key(_address(address), port, netns)
    value = ports.get(key)
    if value is None or not Claim.unpack(value).flags & abi.FLAG_ONCE:
        return False
    return ports.delete(key)


def mark_netns(spaces: syscall.Map, number: int, locks: str) -> None:
    """Every socket in the network namespace with this cookie is a translator's.

    FlowtagError for the host's and for a container's, where sockets belong to cgroups.
    """
    if number == namespace.host_cookie():
        raise FlowtagError(
            f"marking network namespace {number} as a translator's: it is the host's",
            "mark the translator's cgroup instead",
        )
    _mark(spaces, number, TRANSLATOR_NETNS, locks, f"network namespace {number}")


def mark_cgroup(cgroups: syscall.Map, number: int, locks: str) -> None:
    """Every socket made in this cgroup, and in those made below it from now on, is a translator's."""
    _mark(cgroups, number, 0, locks, f"cgroup {number}")


def unmark(keys: syscall.Map, number: int, locks: str) -> bool:
    """End a mark. Until something else claims the key its sockets stay nobody's."""
    return release(keys, number, abi.OWNER_TRANSLATOR, _now(), locks)


def age_out(sockets: syscall.Map, ports: syscall.Map, now: int, seconds: float) -> int:
    """Remove publications that nobody took for so long; returns how many. `now` is boottime ns."""
    count = 0
    for keys in (sockets, ports):
        for key, value in keys.items():
            old = Claim.unpack(value)
            once = keys is sockets or old.flags & abi.FLAG_ONCE
            # Read again: the kernel may have taken it, or the translator published anew.
            if once and old.since + seconds * _SECOND <= now and keys.get(key) == value:
                count += keys.delete(key)
    return count


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _address(text: str) -> bytes:
    try:
        packed = ip.from_text(text)
    except ValueError as error:
        raise FlowtagError(f"publishing an address: {error}", "write it like 192.0.2.1") from None
    require_unique(packed)
    return packed


def _publish(keys: syscall.Map, key: bytes, workload: int, flags: int, what: str) -> None:
    if not abi.OWNER_SPECIAL < workload < 1 << 64:
        raise FlowtagError(
            f"publishing {what}: {workload} is no workload's id", "take it from ft_workload, by find_workload"
        )
    try:
        keys.update(key, Claim(workload, _now(), 0, flags).pack())
    except OSError as error:
        raise FlowtagError(
            f"publishing {what} in {keys.name}: {error.strerror}",
            "a full map is emptied as publications age; withdraw those of sockets that do not connect",
        ) from error


def _mark(keys: syscall.Map, number: int, kind: int, locks: str, what: str) -> None:
    key = abi.ID.pack(number)
    new = Claim(abi.OWNER_TRANSLATOR, _now(), 0, 0, kind)
    with Stripe(locks, number):
        value = keys.get(key)
        if value is not None:
            old = Claim.unpack(value)
            if old.workload == new.workload and old.until == 0 and not old.flags & abi.FLAG_INHERITED:
                return
            if not old.yields_to(new.workload, 0) or (old.until == 0 and old.kind != kind):
                raise FlowtagError(
                    f"marking {what} as a translator's: it is claimed by workload {old.workload:#x}",
                    "give the translator a namespace or a cgroup that is no container's",
                )
        keys.update(key, new.pack())
