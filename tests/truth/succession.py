# SPDX-License-Identifier: Apache-2.0
"""An address that goes to the next container at once, in a new network namespace."""

from __future__ import annotations

from tests.rig.network import Namespace, Network, ip


def without_time_wait(namespace: Namespace) -> Namespace:
    """Ports there are free again at once, so that the next connection can have the same ones.

    And nobody gets one of those that scenarios name (40000 and more) by chance.
    """
    namespace.sysctl("ipv4.tcp_max_tw_buckets", "0")
    namespace.sysctl("ipv4.ip_local_port_range", "50000 60999")
    return namespace


def successor(network: Network, old: Namespace, name: str) -> Namespace:
    """A new namespace with the device and the addresses of `old`, which goes."""
    new = network.namespace(name, bridge=False)
    old.ip("link", "set", "eth0", "netns", new.name)
    new.ip("link", "set", "eth0", "addrgenmode", "none")
    new.ip("addr", "add", f"{old.ipv4}/24", "dev", "eth0")
    new.ip("-6", "addr", "add", f"{old.ipv6}/64", "dev", "eth0", "nodad")
    new.ip("link", "set", "eth0", "up")
    ip("netns", "del", old.name)
    return Namespace(new.name, old.ipv4, old.ipv6)
