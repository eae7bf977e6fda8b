# SPDX-License-Identifier: Apache-2.0
"""IPv6-only containers behind one IPv4 address, and a far end to which each connection says who it is.

    with Shared(tmp_path, pin_directory) as shared:      # network, exporter, interceptor, runc, far end
        red = shared.client("red")                       # an IPv6-only container that runs CLIENT
        red.say("6")                                     # six sockets: each way to connect once
        red.await_line("done")
        records = shared.records(FLOWS_OF_SIX + REFUSED_OF_SIX)     # of the shared address; no more came
        for who, record in shared.truth(records): ...    # joined with what the far end was told

A container's nonce is made here and is in nothing that flowtag reads.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from tests.rig.container import Container
from tests.rig.exporter import Exporter, Record, flowtag
from tests.rig.interceptor import InterceptedRunc, Interceptor, in_block
from tests.rig.network import Namespace, Network

PORT = 8080

SERVER = """
import json, socket, sys, threading, time
def serve(peer, address):
    with peer, peer.makefile("rwb") as stream:
        line = stream.readline().decode().strip()
        print(json.dumps([*address[:2], time.time_ns(), line]), flush=True)
        try:
            stream.write(b"ok\\n")
            stream.flush()
            peer.recv(1)
        except ConnectionError:
            pass
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=1024)
print("listening", flush=True)
while True:
    threading.Thread(target=serve, args=listener.accept(), daemon=True).start()
"""

# Connects in every way that programs do, under a signal that comes again and again.
CLIENT = """
import ctypes, errno, json, select, signal, socket, sys
server, port, closed, nonce, period = json.loads(sys.stdin.readline())
ticks = 0
def tick(number, frame):
    global ticks
    ticks += 1
signal.signal(signal.SIGALRM, tick)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, period, period)

def talk(made):
    made.setblocking(True)
    made.sendall(nonce.encode() + b"\\n")
    assert made.recv(3) == b"ok\\n"

def blocking(made=None):
    with made or socket.socket() as made:
        made.connect((server, port))
        talk(made)

def mapped():
    with socket.socket(socket.AF_INET6) as made:
        made.connect(("::ffff:" + server, port))
        assert made.family == socket.AF_INET6 and made.getpeername()[0] == "::ffff:" + server
        talk(made)

def finish(made, result):
    assert result == errno.EINPROGRESS, result
    waiting = select.poll()
    waiting.register(made, select.POLLOUT)
    waiting.poll()
    return made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

def non_blocking():
    with socket.socket() as made:
        made.setblocking(False)
        assert finish(made, made.connect_ex((server, port))) == 0
        talk(made)

def refused_and_retried():
    with socket.socket() as made:
        assert made.connect_ex((server, closed)) == errno.ECONNREFUSED
        blocking(made)

def refused_and_retried_non_blocking():
    with socket.socket() as made:
        made.setblocking(False)
        assert finish(made, made.connect_ex((server, closed))) == errno.ECONNREFUSED
        assert made.connect_ex((server, port)) == errno.ECONNABORTED  # Linux: once, after SO_ERROR was read
        assert finish(made, made.connect_ex((server, port))) == 0
        talk(made)

def connected_again():
    libc = ctypes.CDLL(None, use_errno=True)
    with socket.socket() as made:
        made.connect((server, port))
        talk(made)
        assert libc.connect(made.fileno(), bytes(16), 16) == 0  # AF_UNSPEC
        blocking(made)

def held(again):
    with socket.socket() as made:
        made.connect((server, port))
        talk(made)
        holding = "late" if again else "early"
        print("held", holding, flush=True)
        sys.stdin.readline()

ways = [
    blocking, mapped, non_blocking, refused_and_retried, refused_and_retried_non_blocking, connected_again
]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # not intercepted: there is no IPv4 here
    assert probe.connect_ex((server, port)) == errno.ENETUNREACH
print("ready", flush=True)
again = False
for line in sys.stdin:
    if line == "hold\\n":
        held(again)
        again = True
        continue
    for number in range(int(line)):
        ways[number % len(ways)]()
    print("done", int(line), ticks, flush=True)
"""
FLOWS_OF_SIX = 7  # CLIENT's ways, one each: to the server
REFUSED_OF_SIX = 2


class Server:
    """The far end: logs who connected, as the connection itself says."""

    def __init__(self, namespace: Namespace) -> None:
        self.log: list[tuple[str, int, int, str]] = []
        self._process = subprocess.Popen(
            namespace.command("/usr/bin/python3", "-I", "-c", SERVER, str(PORT)),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "listening\n"
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines:
            for line in lines:
                address, port, when, nonce = json.loads(line)
                self.log.append((address, port, when, nonce))


class Shared:
    """The shared address, who is behind it, and what the records say of it."""

    def __init__(self, directory: Path, pin_directory: Path) -> None:
        self.nonces: dict[str, str] = {}
        self.closed: dict[int, str] = {}
        with ExitStack() as stack:
            self.net = stack.enter_context(Network())
            transition, self.server = self.net.namespace("transition"), self.net.namespace("server")
            self.address = transition.ipv4
            self.exporter = stack.enter_context(
                Exporter(
                    directory / "exporter",
                    pin_directory,
                    engine_roots=[f"flowtag-test-{os.getpid()}"],
                    tables=f"[translation]\nshared_addresses = [{self.address!r}]",
                )
            )
            run = self.exporter.run_directory
            self.far = stack.enter_context(Server(self.server))
            self.interceptor = stack.enter_context(
                Interceptor(directory / "seccomp", transition, pin_directory, run)
            )
            self.runc = stack.enter_context(InterceptedRunc(directory / "runc", self.interceptor.path))
            self.hooks = json.loads(
                flowtag("register", "--runtime", "runc", "--print", "--run-directory", str(run))
            )
            self._stack = stack.pop_all()

    def __enter__(self) -> Shared:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        assert not self.interceptor.errors, self.interceptor.errors

    def client(
        self, name: str, script: str = CLIENT, *, period: float = 0.01, ports: tuple[int, int] | None = None
    ) -> Container:
        """An IPv6-only container that waits for a number of connections to make on its standard input.

        With `ports` it asks at its start for these ports of the shared address, and connects from them.
        """
        home = self.net.namespace(name)
        home.ip("addr", "del", f"{home.ipv4}/24", "dev", "eth0")
        notes = {}
        if ports:
            first, last = ports
            notes["flowtag.io/translated"] = f"{self.address}:{first}-{last}"
            self.interceptor.ways[name] = in_block(first, last)
        container = self.runc.run(name, script, netns=home.path, hooks=self.hooks, annotations=notes)
        closed = 9000 + len(self.closed)  # refuses, and tells who it was: nobody else connects there
        nonce = os.urandom(8).hex()
        self.nonces[nonce], self.closed[closed] = name, name
        container.say(json.dumps([self.server.ipv4, PORT, closed, nonce, period]))
        container.await_line("ready")
        return container

    def records(self, count: int) -> list[Record]:
        """The clients' flows from the shared address, once there are so many, in order of opening."""
        mine = self.exporter.await_records(self._is_client, count, 30)
        assert len(mine) == count
        return sorted(mine, key=lambda record: str(record["time_open"]))

    def _is_client(self, record: Record) -> bool:
        ends: tuple[str, str] = record["local_address"], record["peer_address"]
        return ends == (self.address, self.server.ipv4)

    def truth(self, records: list[Record]) -> list[tuple[str, Record]]:
        """Who each record's connection said it was."""
        told = defaultdict(list)
        for place, port, _, nonce in sorted(self.far.log, key=lambda entry: entry[2]):
            assert place == self.address
            told[port].append(self.nonces[nonce])
        return [(self.closed.get(r["peer_port"]) or told[r["local_port"]].pop(0), r) for r in records]
