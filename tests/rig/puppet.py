# SPDX-License-Identifier: Apache-2.0
"""A container's payload that makes connections when it is told to, under any engine.

    puppet = Puppet(directory, "web")              # a folder to bind read-write at /puppet
    puppet.directory, puppet.argv                  # ... and what the container is to run, /usr bound
    puppet.await_up()                              # its process listens for commands
    puppet.pid                                     # of the process, in the machine's pid namespace
    puppet.addresses                               # {"eth0": "10.195.3.10", ...}, IPv4
    puppet.listen(8080)                            # answers whoever connects
    puppet.connect("10.195.3.11", 8080)            # one flow, closed again; its local port
    puppet.alive                                   # whether it still listens

Commands come over a Unix socket in that folder, so the puppet makes no TCP flow that was not asked for.
It ends on SIGTERM, which a process with pid 1 would otherwise ignore. The name tells puppets apart that
share a folder.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_SCRIPT = """
import fcntl, json, os, signal, socket, struct, sys, threading

def serve(listener):
    while True:
        peer, _ = listener.accept()
        peer.sendall(b"hello")
        peer.recv(1)  # the client closes first
        peer.close()

def listen(port):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()

def connect(address, port):
    with socket.create_connection((address, port), 5) as peer:
        peer.recv(5, socket.MSG_WAITALL)
        return peer.getsockname()[1]

def addresses():
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                raw = fcntl.ioctl(any_socket, 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR
            except OSError:
                continue
            found[name] = socket.inet_ntoa(raw[20:24])
    return found

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
commands = {"listen": listen, "connect": connect, "addresses": addresses, "ping": lambda: None}
path = sys.argv[1]
if os.path.exists(path):
    os.unlink(path)  # an earlier start's
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
while True:
    master, _ = server.accept()
    with master, master.makefile("rw") as stream:
        name, *arguments = json.loads(stream.readline())
        try:
            answer = {"value": commands[name](*arguments)}
        except OSError as error:
            answer = {"error": str(error)}
        stream.write(json.dumps(answer))
"""


class Puppet:
    """One payload and the line to it."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.name = name
        (directory / "puppet.py").write_text(_SCRIPT, encoding="ascii")
        self.argv = ["/usr/bin/python3", "-I", "/puppet/puppet.py", f"/puppet/{name}.sock"]

    def await_up(self, timeout: float = 20) -> None:
        """Wait until it takes commands."""
        deadline = time.monotonic() + timeout
        while not self.alive:
            if time.monotonic() > deadline:
                raise AssertionError(f"payload {self.name} does not come up")
            time.sleep(0.02)

    @property
    def alive(self) -> bool:
        with suppress(OSError):
            self._call("ping")
            return True
        return False

    @property
    def pid(self) -> int:
        with self._connected() as line:
            credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            line.sendall(b'["ping"]\n')
            line.recv(64)
        pid: int = struct.unpack("3i", credentials)[0]
        return pid

    @property
    def addresses(self) -> dict[str, str]:
        found: dict[str, str] = self._call("addresses")
        found.pop("lo", None)
        return found

    def listen(self, port: int) -> None:
        self._call("listen", port)

    def connect(self, address: str, port: int, serve: Callable[[], None] | None = None) -> int:
        """Connect, get the answer, close; the local port. `serve` answers meanwhile, in a thread."""
        server = threading.Thread(target=serve) if serve else None
        if server:
            server.start()
        try:
            return int(self._call("connect", address, port))
        finally:
            if server:
                server.join()

    def _connected(self) -> socket.socket:
        # By the folder's descriptor: a socket's path may have 107 bytes only.
        folder = os.open(self.directory, os.O_PATH | os.O_DIRECTORY)
        line = socket.socket(socket.AF_UNIX)
        try:
            line.settimeout(10)
            line.connect(f"/proc/self/fd/{folder}/{self.name}.sock")
        except BaseException:
            line.close()
            raise
        finally:
            os.close(folder)
        return line

    def _call(self, *command: object) -> Any:
        with self._connected() as line, line.makefile("rw") as stream:
            stream.write(json.dumps(command) + "\n")
            stream.flush()
            answer = json.loads(stream.readline() or '{"error": "it went away"}')
        if "error" in answer:
            raise ConnectionError(f"payload {self.name}: {' '.join(map(str, command))}: {answer['error']}")
        return answer["value"]
