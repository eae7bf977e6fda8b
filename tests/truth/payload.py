# SPDX-License-Identifier: Apache-2.0
"""What a workload runs: it makes connections, says who it is on each, and notes what the far end said.

    /usr/bin/python3 -I -S -u payload.py LOG NAME     commands on standard input, one a line

Every connection begins with one token in each direction: the nonce of the workload that owns the
socket, a mark of this process and a serial number that make it unique, and how the connection is to
end. Both ends write a line to LOG when they know all of it: `token role netns local-address local-port
peer-address peer-port since until peer-token outcome`, where the socket opened between since and until.
NAME becomes the process's name (comm). The answer to a command is `ok` and its number (`ok #3.`), or
`failed` with the reason.

    nonce N                          who we are from now on
    listen ADDRESS PORT              accept there for ever
    connect ADDRESS PORT COUNT ...   one after the other; options below
    release                          close what is held
    offer PATH ADDRESS PORT COUNT .. connect, then give the sockets away (SCM_RIGHTS)
    handover PATH ADDRESS PORT       listen, then give the listener away
    take PATH                        be the one who receives, at a unix socket at PATH
    run COMMAND                      by the shell
    exit                             at once, all sockets with it

Options of connect and offer: end=client|server|reset|hold|late|full, from=ADDRESS, port=P (the first
local port, one more for each connection), first=P (the same socket tries this port before, in vain),
again=1 (the same socket makes a second connection), local=ADDRESS (what a failed connect came from, where
no from= says so), slow=1 (only offer: what is given away is not connected yet), mapped=1 (an AF_INET6
socket for an IPv4 address), pause=SECONDS between connections. late: held, and the far end closes LATE
seconds after us. full: held, with more written than the far end takes before LATE seconds have passed.
"""

from __future__ import annotations

import _thread
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress

TOKEN = 16 + 8 + 8 + 1
SO_NETNS_COOKIE = 71
SECONDS = 30
"""No connection waits longer for its far end."""
LATE = 3
Address = tuple[str, int]
ENDS = {"client": "c", "server": "s", "reset": "r", "hold": "h", "late": "l", "full": "f"}
HELD = ("hold", "late", "full")
LINGER_ZERO = b"\1\0\0\0\0\0\0\0"


def boottime() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def plain(address: str) -> str:
    """As records print it: v4-mapped addresses dotted."""
    return address.removeprefix("::ffff:") if "." in address else address


def exchange(sock: socket.socket, token: str) -> str:
    """Say who we are; the far end's token, empty if it closed before."""
    with suppress(OSError):
        sock.sendall(token.encode())
    data = b""
    while len(data) < TOKEN:
        try:
            more = sock.recv(TOKEN - len(data))
        except OSError:
            more = b""
        if not more:
            return ""
        data += more
    return data.decode()


def disconnect(sock: socket.socket) -> None:
    """connect(AF_UNSPEC): the socket forgets its connection and can make another."""
    import ctypes  # few payloads need it, and it is slow to import

    sock.settimeout(None)  # connect() is to block on the next one too
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(sock.fileno(), bytes(16), 16) != 0:
        raise OSError(ctypes.get_errno(), "connect(AF_UNSPEC)")


class Payload:
    """One workload's traffic. `write` takes a finished line of its log."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.nonce = ""
        self._write = write
        self._mark = os.urandom(4).hex()
        self._serial = 0
        self._lock = _thread.allocate_lock()
        self._held: list[socket.socket] = []

    def token(self, end: str, nonce: str = "") -> str:
        with self._lock:
            self._serial += 1
            return f"{nonce or self.nonce}{self._mark}{self._serial:08x}{ENDS[end]}"

    def note(
        self,
        sock: socket.socket,
        token: str,
        role: str,
        opened: tuple[int, int],
        ends: tuple[Address, Address],
        *,
        said: str = "",
        outcome: str = "ok",
    ) -> None:
        """One line; `opened` since and until when, `ends` are local and peer address."""
        local, peer = ends
        cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")
        words = (token, role, cookie, plain(local[0]), local[1], plain(peer[0]), peer[1], *opened)
        self._write(" ".join(map(str, words)) + f" {said or '-'} {outcome}\n")

    # The server's side.

    def listener(self, address: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = socket.socket(family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((address, port))
        made.listen(4096)
        return made

    def accept(self, listener: socket.socket, nonce: str) -> None:
        """Serve for ever in the name of `nonce`, which is whoever made the listener."""
        while True:
            try:
                sock, peer = listener.accept()
            except OSError:
                return
            _thread.start_new_thread(self._serve, (sock, peer, nonce))

    def _serve(self, sock: socket.socket, peer: Address, nonce: str) -> None:
        now = boottime()
        sock.settimeout(SECONDS)
        token = self.token("client", nonce)
        ends = sock.getsockname(), peer
        said = exchange(sock, token)
        self.note(sock, token, "server", (now, now), ends, said=said)
        if said[-1:] == ENDS["full"]:
            time.sleep(LATE)
        if said[-1:] != ENDS["server"]:
            self._await_end(sock)
        if said[-1:] == ENDS["late"]:
            time.sleep(LATE)
        sock.close()

    def _await_end(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(None)
            while sock.recv(65536):
                pass
        except OSError:
            pass

    # The client's side.

    def unconnected(self, address: str, options: dict[str, str], index: int) -> socket.socket:
        six = ":" in address or "mapped" in options
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
        # With a time limit connect() does not block, and the connect() after one that failed only says so.
        sock.settimeout(None if "first" in options else SECONDS)
        local, port = options.get("from", ""), int(options.get("port", "0"))
        if local or port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((target(local, options) if local else "", port + index if port else 0))
        if options.get("end") == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        return sock

    def try_connect(
        self, sock: socket.socket, address: str, port: int, token: str, from_address: str = ""
    ) -> tuple[int, int] | None:
        """Connect; since and until when that went on, or None if it failed, which is noted."""
        local, since = sock.getsockname(), boottime()
        try:
            sock.connect((address, port))
        except OSError as error:
            if from_address:
                local = from_address, sock.getsockname()[1]
            outcome = os.strerror(error.errno).replace(" ", "_") if error.errno else "timeout"
            opened, ends = (since, boottime()), (local, (address, port))
            self.note(sock, token, "client", opened, ends, outcome=outcome)
            return None
        return since, boottime()

    def greet(self, sock: socket.socket, token: str, opened: tuple[int, int]) -> None:
        """Say who we are, hear who they are, note both."""
        ends = sock.getsockname(), sock.getpeername()
        self.note(sock, token, "client", opened, ends, said=exchange(sock, token))

    def connect(self, address: str, port: int, count: int, options: dict[str, str]) -> None:
        end, here = options.get("end", "client"), options.get("local", "")
        for index in range(count):
            sock = self.unconnected(address, options, index)
            there = target(address, options)
            if "first" in options:
                self.try_connect(sock, there, int(options["first"]), self.token(end), here)
            token = self.token(end)
            opened = self.try_connect(sock, there, port, token, here)
            if opened and "again" in options:
                self.greet(sock, token, opened)
                disconnect(sock)
                token = self.token(end)
                opened = self.try_connect(sock, there, port, token, here)
            if opened:
                self.greet(sock, token, opened)
                self.finish(sock, end)
            else:
                sock.close()
            if "pause" in options:
                time.sleep(float(options["pause"]))

    def finish(self, sock: socket.socket, end: str) -> None:
        if end in HELD:
            self._held.append(sock)
            if end == "full":
                self._fill(sock)
            return
        if end == "server":
            self._await_end(sock)
        sock.close()

    def _fill(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            while True:
                sock.send(bytes(65536))
        except BlockingIOError:
            pass

    def release(self) -> None:
        while self._held:
            self._held.pop().close()

    # Descriptors that change hands.

    def offer(self, path: str, address: str, port: int, count: int, options: dict[str, str]) -> None:
        slow = "slow" in options
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
            channel.connect(path)
            for index in range(count):
                sock = self.unconnected(address, options, index)
                token, since = self.token("hold"), boottime()
                if slow:
                    sock.setblocking(False)
                    sock.connect_ex((address, port))
                else:
                    sock.connect((address, port))
                opened = since, boottime()
                if not slow:
                    self.greet(sock, token, opened)
                words = ("connecting" if slow else "connected", token, *opened)
                socket.send_fds(channel, [" ".join(map(str, words)).encode()], [sock.fileno()])
                sock.close()
            channel.shutdown(socket.SHUT_WR)
            channel.recv(1)  # the other has them all

    def handover(self, path: str, address: str, port: int) -> None:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel,
            self.listener(address, port) as made,
        ):
            channel.connect(path)
            socket.send_fds(channel, [f"listener {self.nonce} 0 0".encode()], [made.fileno()])
            channel.shutdown(socket.SHUT_WR)
            channel.recv(1)

    def take(self, path: str) -> None:
        door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        door.bind(path)
        door.listen(16)
        _thread.start_new_thread(self._receive, (door,))

    def _receive(self, door: socket.socket) -> None:
        while True:
            channel, _ = door.accept()
            while True:
                message, descriptors, _, _ = socket.recv_fds(channel, 256, 1)
                if not message:
                    break
                word, name, since, until = message.decode().split()
                sock = socket.socket(fileno=descriptors[0])
                if word == "listener":
                    _thread.start_new_thread(self.accept, (sock, name))
                elif word == "connecting":
                    _thread.start_new_thread(self._connected_later, (sock, name, (int(since), int(until))))
                else:
                    self._held.append(sock)
            channel.close()

    def _connected_later(self, sock: socket.socket, token: str, opened: tuple[int, int]) -> None:
        sock.settimeout(SECONDS)
        while True:  # until the handshake is through
            try:
                sock.getpeername()
                break
            except OSError:
                time.sleep(0.02)
        self.greet(sock, token, opened)
        self._held.append(sock)

    # Commands.

    def obey(self, words: list[str]) -> None:
        command, *rest = words
        plain_words = [word for word in rest if "=" not in word]
        options = dict(word.split("=", 1) for word in rest if "=" in word)
        if command == "nonce":
            self.nonce = rest[0]
        elif command == "listen":
            made = self.listener(rest[0], int(rest[1]))
            _thread.start_new_thread(self.accept, (made, self.nonce))
        elif command == "connect":
            address, port, count = plain_words
            self.connect(address, int(port), int(count), options)
        elif command == "release":
            self.release()
        elif command == "offer":
            path, address, port, count = plain_words
            self.offer(path, address, int(port), int(count), options)
        elif command == "handover":
            self.handover(rest[0], rest[1], int(rest[2]))
        elif command == "take":
            self.take(rest[0])
        elif command == "run":
            status = os.spawnvp(os.P_WAIT, rest[0], rest)  # noqa: S606 - arguments, no shell; subprocess is slow to import
            if status:
                raise RuntimeError(f"exit status {status}")
        elif command == "exit":
            os._exit(0)
        else:
            raise ValueError(f"unknown command {command}")


def target(address: str, options: dict[str, str]) -> str:
    return f"::ffff:{address}" if "mapped" in options else address


def main() -> None:
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write(sys.argv[2])
    payload = Payload(lambda line: os.write(log, line.encode()))
    for number, line in enumerate(sys.stdin):
        try:
            payload.obey(line.split())
        except Exception as error:
            print(f"failed #{number}. {line.strip()}: {error!r}", flush=True)
        else:
            print(f"ok #{number}.", flush=True)


if __name__ == "__main__":
    main()
