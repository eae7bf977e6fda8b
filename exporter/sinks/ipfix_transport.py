# SPDX-License-Identifier: Apache-2.0
"""How IPFIX messages travel: over TCP, over TLS on it, or in UDP datagrams (RFC 7011, section 10)."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import ssl
import struct
import termios
import time
from typing import Protocol

from exporter.sinks import tls
from exporter.sinks.config import Ipfix

WATCH_SECONDS = (
    1.0  # a TLS 1.3 server refuses our certificate after the handshake, a proxy when it has no server
)
_POLL_SECONDS = (0.001, 0.05)


class Transport(Protocol):
    """One transport session, from its connection to its close. Errors are OSError."""

    burst: int
    """Messages that send() takes at once."""

    def send(self, messages: memoryview, deadline: float) -> None:
        """deadline: of time.monotonic(), as everywhere here."""

    def settle(self, deadline: float) -> None:
        """Return when all that was sent is where this transport can know it to be."""

    def alive(self) -> bool:
        """Whether it can still be used."""

    def close(self, whole: bool) -> None:
        """whole: all was settled; if not, what still waits to be sent is thrown away."""


def connect(config: Ipfix, deadline: float) -> Transport:
    """By config.transport."""
    if config.transport == "udp":
        return Datagrams(config)
    return Stream(config, deadline)


def _left(deadline: float, doing: str) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"no time left while {doing}")
    return left


class Stream:
    """TCP, with or without TLS."""

    burst = 1 << 30

    def __init__(self, config: Ipfix, deadline: float) -> None:
        self._watched = False
        seconds = _left(deadline, "connecting")
        self._socket = socket.create_connection((config.host, config.used_port), timeout=seconds)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            milliseconds = config.timeout_seconds * 1000
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
            if config.transport == "tls":
                self._socket.settimeout(_left(deadline, "connecting"))
                # It detaches the socket, and closes it itself if the handshake fails.
                context = tls.context(config.tls)
                self._socket = context.wrap_socket(self._socket, server_hostname=config.host)
        except BaseException:
            self._socket.close()
            raise

    def send(self, messages: memoryview, deadline: float) -> None:
        self._socket.settimeout(_left(deadline, "sending"))
        self._socket.sendall(messages)

    def settle(self, deadline: float) -> None:
        """Until the collector's TCP has acknowledged every byte, and the connection is still open."""
        pause, most = _POLL_SECONDS
        while self._unacknowledged():
            _left(deadline, "waiting for the collector's acknowledgement")
            self._look(pause)
            pause = min(2 * pause, most)
        if not self._watched:
            end = min(deadline, time.monotonic() + WATCH_SECONDS)
            while (left := end - time.monotonic()) > 0:
                self._look(left)
            self._watched = True
        self._look(0)

    def alive(self) -> bool:
        try:
            self._look(0)
        except OSError:
            return False
        return True

    def close(self, whole: bool) -> None:
        with contextlib.suppress(OSError):
            if not whole:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif isinstance(self._socket, ssl.SSLSocket):
                self._socket.settimeout(1)
                self._socket = self._socket.unwrap()
        self._socket.close()

    def _unacknowledged(self) -> int:
        """Bytes in the send queue (tcp(7), SIOCOUTQ)."""
        count: int = struct.unpack("i", fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
        return count

    def _look(self, seconds: float) -> None:
        """Wait for a word from the collector. It has nothing to say, so that is its end, or an alert."""
        if not select.select([self._socket], [], [], seconds)[0]:
            return
        self._socket.settimeout(0)
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
            if not self._socket.recv(4096):
                raise ConnectionResetError("the collector closed the connection")


class Datagrams:
    """UDP: a datagram that is on its way is all that can be known, or that nobody listens there."""

    burst = 1

    def __init__(self, config: Ipfix) -> None:
        found = socket.getaddrinfo(config.host, config.used_port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        self._socket = socket.socket(family, kind, protocol)
        self._pause = 1 / config.messages_per_second
        self._next = 0.0
        try:
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise

    def send(self, messages: memoryview, deadline: float) -> None:
        """Not faster than messages_per_second: a collector's socket buffer holds a few hundred of them."""
        now = time.monotonic()
        self._next = max(self._next, now - 0.001) + self._pause
        if self._next - now > 0.002:
            self._socket.settimeout(_left(deadline, "sending"))
            time.sleep(self._next - now)
        self._socket.send(messages)

    def settle(self, deadline: float) -> None:
        """An ICMP error that has come by now is one: nobody listens."""
        time.sleep(0.01)
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "the collector is not there")

    def alive(self) -> bool:
        return True

    def close(self, whole: bool) -> None:
        self._socket.close()
