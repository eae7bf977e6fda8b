# SPDX-License-Identifier: Apache-2.0
"""Private network namespaces on one bridge, with IPv4 and IPv6.

    with Network() as net:
        web = net.namespace("web")                  # loopback up, an address of each family
        shop = net.namespace("shop")
        web.ipv4, web.ipv6, web.path                # "10.70.3.2", "fd7a:...::2", "/run/netns/ft..."
        web.run("python3", "-c", "...")             # a command inside; stdout as text
        with shop.entered():                        # this thread: sockets made here live inside
            socket.create_connection((web.ipv4, 80))
        web.ip("route", "add", "unreachable", "192.0.2.1")   # `ip -n <namespace> ...`
        host_ipv4, host_ipv6 = net.uplink()         # the machine's own namespace joins the bridge
        lonely = net.namespace("lonely", bridge=False)       # loopback only

The bridge lives in a namespace of its own, so the machine's firewall sees nothing of it. Names and
subnets carry this process's id; everything goes at the end of the `with`, also after an exception.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bpf import syscall

_serial = itertools.count()


def ip(*arguments: str) -> str:
    """Run `ip`; what it printed. RuntimeError with its message if it fails."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Namespace:
    """A named network namespace; the addresses are empty if it is not on the bridge."""

    name: str
    ipv4: str = ""
    ipv6: str = ""

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    def ip(self, *arguments: str) -> str:
        return ip("-n", self.name, *arguments)

    def command(self, *arguments: str) -> list[str]:
        """The arguments that run a command inside (not `ip netns exec`: that hides bpffs)."""
        return ["nsenter", f"--net={self.path}", *arguments]

    def run(self, *arguments: str, timeout: float = 30) -> str:
        done = subprocess.run(
            self.command(*arguments), stdout=subprocess.PIPE, text=True, check=True, timeout=timeout
        )
        return done.stdout

    def sysctl(self, name: str, value: str) -> None:
        """Set net.* inside, for instance sysctl("ipv4.tcp_fastopen", "3")."""
        with self.entered():
            Path("/proc/sys/net", *name.split(".")).write_text(value, encoding="ascii")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside during the `with`; other threads stay where they are."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        inside = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscall.setns(inside)
            try:
                yield
            finally:
                syscall.setns(before)
        finally:
            os.close(inside)
            os.close(before)


class Network:
    """One bridge and the namespaces on it."""

    def __init__(self) -> None:
        serial = next(_serial)
        self._prefix = f"ft{os.getpid()}-{serial}"
        self._link = f"ft{os.getpid()}"
        number = os.getpid() * 7 + serial
        self._subnet4 = f"10.{64 + number // 256 % 128}.{number % 256}"
        self._subnet6 = f"fd7a:{number // 65536 % 65536:x}:{number % 65536:x}:"
        self._hosts = itertools.count(2)
        self._names: list[str] = []
        self._uplink = ""
        self._switch = f"{self._prefix}-switch"

    def __enter__(self) -> Network:
        try:
            self._add(self._switch)
            # Multicast snooping would swallow the first neighbour solicitations.
            ip("-n", self._switch, "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
            ip("-n", self._switch, "link", "set", "bridge", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything; may be called twice."""
        if self._uplink:
            subprocess.run(["ip", "link", "del", self._uplink], capture_output=True, check=False)
            self._uplink = ""
        while self._names:
            name = self._names.pop()
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def namespace(self, name: str, *, bridge: bool = True) -> Namespace:
        """A new namespace; `name` only tells it from others of this network."""
        full = f"{self._prefix}-{name}"
        self._add(full)
        if not bridge:
            return Namespace(full)
        return Namespace(full, *self._plug("eth0", full))

    def uplink(self) -> tuple[str, str]:
        """Connect the machine's own namespace; its (IPv4, IPv6) addresses on the bridge."""
        if self._uplink:
            raise ValueError("this network has an uplink already")
        self._uplink = f"{self._link}u{next(_serial)}"
        return self._plug(self._uplink, "")

    def _add(self, name: str) -> None:
        ip("netns", "add", name)
        self._names.append(name)
        ip("-n", name, "link", "set", "lo", "up")

    def _plug(self, device: str, namespace: str) -> tuple[str, str]:
        """A veth from the bridge to `device` in `namespace` (empty: the machine's own)."""
        host = next(self._hosts)
        ipv4, ipv6 = f"{self._subnet4}.{host}", f"{self._subnet6}:{host:x}"
        port = f"port{host}"
        there = ("netns", namespace) if namespace else ("netns", str(os.getpid()))
        ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", device, *there)
        ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
        inside = ("-n", namespace) if namespace else ()
        # No link-local address: its duplicate address detection would delay the first packets.
        ip(*inside, "link", "set", device, "addrgenmode", "none")
        ip(*inside, "addr", "add", f"{ipv4}/24", "dev", device)
        ip(*inside, "-6", "addr", "add", f"{ipv6}/64", "dev", device, "nodad")
        ip(*inside, "link", "set", device, "up")
        return ipv4, ipv6
