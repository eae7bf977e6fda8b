# SPDX-License-Identifier: Apache-2.0
"""The real programs in private pins, and the records of chosen network namespaces.

    with Watch() as watch:                          # loaded, attached, not degraded
        client, server = watch.flows(web, shop, count=2)     # exactly these; AssertionError if not
        client.end, client.bytes_sent, client.local          # a Flow: decoded, codes by name
        watch.columns(web)                          # the same as raw columns, for many
        watch.counters()["lost_ring"]
        watch.map("ft_cgroup").update(key, value)   # any pinned map
        watch.programs.host.begin(7)
    Watch(host=web, roots=(("docker", False),), activators=("dockerd",), ring_bytes=1 << 16)

The programs see every socket of the machine, so a record counts only by its namespace's cookie. Before
an exact count is taken, a flow of the watch's own is sent through the ring behind the others.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import socket
import time
from ipaddress import IPv6Address
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from bpf import abi
from bpf.syscall import Map, possible_cpus
from exporter.programs import CGROUP_PROGRAMS, FLOW_PROGRAMS, OBJECT, Knobs, Programs, remove_pins
from exporter.ring import Columns, Ring
from tests.rig.network import Namespace, Network

SO_COOKIE = 57
SO_NETNS_COOKIE = 71
HOST_WORKLOAD = 0x4057_4057_4057_4057
"""The id that stands for the host's own identity."""

_serial = itertools.count()


class Flow(NamedTuple):
    """One record, decoded. Times are boottime ns; addresses as text, v4-mapped ones dotted."""

    cookie: int
    generation: int
    time_open: int
    time_end: int
    netns: int
    cgroup_id: int
    owner: int
    rule: str
    reason: str
    role: str
    end: str
    flags: int
    local: tuple[str, int]
    peer: tuple[str, int]
    bytes_sent: int
    bytes_received: int
    segments_sent: int
    segments_received: int
    segments_retransmitted: int
    connect_us: int | None
    rtt_us: int | None
    pid: int
    comm: str


class Watch:
    """The programs, attached to private maps, and the reader of their ring."""

    def __init__(
        self,
        *,
        host: Namespace | None = None,
        host_needs_claim: bool = False,
        roots: tuple[tuple[str, bool], ...] = (),
        activators: tuple[str, ...] = (),
        activator_cgroups: tuple[int, ...] = (),
        ring_bytes: int = 1 << 25,
        object_path: str | None = None,
    ) -> None:
        cookie = netns_cookie(host) if host else 0  # no namespace has the cookie 0
        self.knobs = Knobs(cookie, host_needs_claim, roots, activators, activator_cgroups)
        self.directory = Path(f"/sys/fs/bpf/flowtag-watch-{os.getpid()}-{next(_serial)}")
        self._network = Network()
        self._maps: dict[str, Map] = {}
        self._ring_bytes = ring_bytes
        self._object_path = object_path or OBJECT
        self._batches: list[Columns] = []

    def __enter__(self) -> Watch:
        try:
            self._fence = self._network.__enter__().namespace("fence", bridge=False)
            self.programs = Programs(self.knobs, str(self.directory), self._ring_bytes, self._object_path)
            self.attach(self.programs)
            self.ring = Ring(self.map("ft_events").fd)
        except BaseException:
            self.close()
            raise
        return self

    def attach(self, programs: Programs) -> None:
        """Start `programs`, as the exporter does: not degraded, the host's identity known."""
        programs.attach(CGROUP_PROGRAMS)
        programs.host.begin(HOST_WORKLOAD)
        programs.close_gaps(programs.gaps.get())
        programs.attach(FLOW_PROGRAMS)

    def take_over(self, *, old_is_gone: bool) -> None:
        """Load the programs once more on the same pins, in the old ones' place.

        Where the old exporter is gone only pins hold its programs; else they run until it goes.
        """
        if old_is_gone:
            self.programs.__exit__()
        new = Programs(self.knobs, str(self.directory))
        self.attach(new)
        self.programs.__exit__()
        self.programs = new

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ring.__exit__()
        self.programs.__exit__()
        self.close()

    def close(self) -> None:
        for map_ in self._maps.values():
            map_.close()
        self._network.close()
        remove_pins(str(self.directory))

    def map(self, name: str) -> Map:
        if name not in self._maps:
            self._maps[name] = Map.open(str(self.directory / name))
        return self._maps[name]

    def counters(self) -> dict[str, int]:
        """ft_count by name, over all CPUs."""
        found = {}
        for index, name in enumerate(abi.COUNTERS):
            value = self.map("ft_count").get(abi.INDEX.pack(index)) or b""
            found[name] = sum(np.frombuffer(value, np.uint64, possible_cpus()).tolist())
        return found

    def drain(self) -> None:
        """Take what is in the ring."""
        while True:
            batch = self.ring.take()
            self.ring.release(batch.end)
            if not len(batch.records):
                return
            self._batches.append(batch.records)

    def settle(self, seconds: float = 10) -> None:
        """Return when everything that was reported before this call has been taken."""
        cookies: list[int] = []
        deadline = time.monotonic() + seconds
        again = 0.0
        while not any(np.isin(batch["cookie"], cookies).any() for batch in self._batches):
            now = time.monotonic()
            assert now < deadline, "the watch's own flow was not reported"
            if now >= again:
                cookies.append(self._refused())
                again = now + 1
            self.drain()
            time.sleep(0.002)
        self._batches = [np.concatenate(self._batches)]

    def _refused(self) -> int:
        """Make a flow of the watch's own; its cookie."""
        with self._fence.entered(), socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", 9)) == errno.ECONNREFUSED
            return socket_cookie(probe)

    def everything(self) -> Columns:
        """All that has been taken, of the whole machine, in ring order."""
        return np.concatenate(self._batches)

    def forget(self) -> None:
        """Drop what has been taken."""
        self._batches = []

    def columns(self, *namespaces: Namespace) -> Columns:
        """What has been taken so far, in ring order, of these namespaces."""
        cookies = [netns_cookie(namespace) for namespace in namespaces]
        parts = [batch[np.isin(batch["netns"], cookies)] for batch in self._batches]
        return np.concatenate(parts) if parts else self.ring.take(0).records

    def await_idle(self, namespace: Namespace) -> None:
        """Return when no connection is left in a namespace and all that it reported is taken."""
        deadline = time.monotonic() + 20
        command = ("ss", "-Htan", "state", "connected", "exclude", "time-wait")
        while namespace.run(*command):
            assert time.monotonic() < deadline, "connections stay open"
            self.drain()
        self.settle()

    def await_columns(self, *namespaces: Namespace, count: int, seconds: float = 20) -> Columns:
        """The same, as soon as `count` records are there and surely no more; else AssertionError."""
        deadline = time.monotonic() + seconds
        while len(self.columns(*namespaces)) < count and time.monotonic() < deadline:
            self.drain()
            time.sleep(0.002)
        self.settle()
        found = self.columns(*namespaces)
        if len(found) != count:
            some = "\n".join(str(flow) for flow in map(_decode, found[:20]))
            raise AssertionError(f"{len(found)} records, not {count}; {self.counters()}\n{some}")
        return found

    def flows(self, *namespaces: Namespace, count: int, seconds: float = 20) -> list[Flow]:
        """Exactly `count` records of these namespaces since the watch began, in ring order."""
        found = self.await_columns(*namespaces, count=count, seconds=seconds)
        return [_decode(record) for record in found]


def _address(raw: bytes) -> str:
    address = IPv6Address(raw)
    return str(address.ipv4_mapped or address)


def _known(value: int) -> int | None:
    return None if value == abi.UNKNOWN32 else value


def _decode(record: Columns) -> Flow:
    def number(name: str) -> int:
        return int(record[name])

    def text(name: str) -> str:
        return record[name].tobytes().rstrip(b"\0").decode()

    return Flow(
        cookie=number("cookie"),
        generation=number("generation"),
        time_open=number("time_open"),
        time_end=number("time_end"),
        netns=number("netns"),
        cgroup_id=number("cgroup_id"),
        owner=number("owner"),
        rule=abi.RULES[number("rule")],
        reason=abi.REASONS[number("reason")],
        role=abi.ROLES[number("role")],
        end=abi.ENDS[number("end_reason")],
        flags=number("flags"),
        local=(_address(record["local_address"].tobytes()), number("local_port")),
        peer=(_address(record["peer_address"].tobytes()), number("peer_port")),
        bytes_sent=number("bytes_sent"),
        bytes_received=number("bytes_received"),
        segments_sent=number("segments_sent"),
        segments_received=number("segments_received"),
        segments_retransmitted=number("segments_retransmitted"),
        connect_us=_known(number("connect_us")),
        rtt_us=_known(number("rtt_us")),
        pid=number("pid"),
        comm=text("comm"),
    )


@functools.cache
def netns_cookie(namespace: Namespace) -> int:
    """The cookie of a network namespace, by SO_NETNS_COOKIE."""
    with namespace.entered(), socket.socket() as probe:
        return int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")


def socket_cookie(of: socket.socket) -> int:
    """The cookie of a socket, by SO_COOKIE."""
    return int.from_bytes(of.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")
