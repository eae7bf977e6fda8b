# SPDX-License-Identifier: Apache-2.0
"""What a program has set on a socket, for the one that takes its place."""

from __future__ import annotations

import fcntl
import socket
from contextlib import suppress
from struct import Struct

_INT = Struct("=i")
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # not cut to net.core.*mem_max

# What stays: bindings (of the container's namespace) and marks (of its routing).
_PLAIN = (
    (socket.SOL_SOCKET, socket.SO_REUSEADDR, 4),
    (socket.SOL_SOCKET, socket.SO_REUSEPORT, 4),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 4),
    (socket.SOL_SOCKET, socket.SO_OOBINLINE, 4),
    (socket.SOL_SOCKET, 12, 4),  # SO_PRIORITY
    (socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4),
    (socket.SOL_SOCKET, socket.SO_LINGER, 8),
    (socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16),
    (socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 4),
    (socket.IPPROTO_TCP, socket.TCP_CORK, 4),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 4),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 4),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_SYNCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_LINGER2, 4),
    (socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, 4),
    (socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 4),
    (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 4),
    (socket.IPPROTO_TCP, 30, 4),  # TCP_FASTOPEN_CONNECT
    (socket.IPPROTO_IP, socket.IP_TOS, 4),
    (socket.IPPROTO_IP, socket.IP_TTL, 4),
    (socket.IPPROTO_IP, 10, 4),  # IP_MTU_DISCOVER
    (socket.IPPROTO_IP, 11, 4),  # IP_RECVERR
)
_IPV6 = (
    (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 4),
    (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 4),
    (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 4),
)
_BUFFERS = ((socket.SO_SNDBUF, _SO_SNDBUFFORCE), (socket.SO_RCVBUF, _SO_RCVBUFFORCE))


def copy_options(old: socket.socket, new: socket.socket) -> None:
    """Make a fresh socket behave as the old one does; touches only what differs from a fresh one.

    So a buffer that was left alone still grows by itself.
    """
    for level, option, size in _PLAIN + (_IPV6 if old.family == socket.AF_INET6 else ()):
        with suppress(OSError):  # an option that this kernel has not
            value = old.getsockopt(level, option, size)
            if value != new.getsockopt(level, option, size):
                new.setsockopt(level, option, value)
    for option, force in _BUFFERS:
        value = old.getsockopt(socket.SOL_SOCKET, option, 4)
        if value != new.getsockopt(socket.SOL_SOCKET, option, 4):
            (doubled,) = _INT.unpack(value)  # the kernel stores twice what was asked for
            new.setsockopt(socket.SOL_SOCKET, force, doubled // 2)
    fcntl.fcntl(new, fcntl.F_SETFL, fcntl.fcntl(old, fcntl.F_GETFL))
