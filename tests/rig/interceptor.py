# SPDX-License-Identifier: Apache-2.0
"""A small real connect() interceptor: IPv6-only containers reach IPv4 by one shared address, as in Titus.

    with Interceptor(tmp_path / "seccomp", transition, pin_directory, run_directory) as interceptor:
        with InterceptedRunc(tmp_path, interceptor.path) as runc:    # its containers are intercepted
            runc.run("web", SCRIPT, netns=..., hooks=...)
        interceptor.ways["web"] = by_port      # by_socket, unless said otherwise
        interceptor.made                       # a Made for each socket, in order
        interceptor.interrupted                # calls that went away while they were answered, by signals
        interceptor.errors                     # what went wrong in it; must be empty

The seccomp filter stops connect(); for an IPv4 destination a new socket is made in the namespace
`transition`, which has the shared address, published, and put in the place of the container's own; then
the container's connect() runs on it. Nothing here waits while a container waits: under a signal each 10 ms
a call that takes as long would begin anew for ever. A missing listener makes runc fail the container, so
this is a rig for tests and no part of the product.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from bpf.error import FlowtagError
from bpf.syscall import Map
from identity import translation
from identity.pinned import open_map
from tests.rig import seccomp
from tests.rig.container import Runc
from tests.rig.kernel import SO_NETNS_COOKIE, netns_cookie
from tests.rig.network import Namespace
from tests.rig.seccomp import Call, Notifications
from tests.rig.socket_options import copy_options

_MAPPED = bytes(10) + b"\xff\xff"


class Made(NamedTuple):
    """One socket that was put in a container's place; seconds is how long its connect() waited for us."""

    container: str
    cookie: int
    seconds: float


class Publisher:
    """The maps that an interceptor writes, and where its sockets live."""

    def __init__(self, transition: Namespace, pin_directory: Path) -> None:
        self.address = transition.ipv4
        self.netns = netns_cookie(transition)
        self.sockets = open_map("ft_socket", str(pin_directory))
        self.ports = open_map("ft_port", str(pin_directory))
        self._workloads = open_map("ft_workload", str(pin_directory))
        self._known: dict[str, int] = {}

    def learn(self, container: str) -> None:
        """Find a container's workload, before its first connect()."""
        self._known[container] = translation.find_workload(self._workloads, container)

    def bind(self, made: socket.socket, port: int) -> None:
        """Bind a socket of either family to a port of the shared address."""
        mapped = "::ffff:" if made.family == socket.AF_INET6 else ""
        made.bind((mapped + self.address, port))

    def workload(self, container: str) -> int:
        return self._known[container]

    def close(self) -> None:
        maps: tuple[Map, ...] = (self.sockets, self.ports, self._workloads)
        for map_ in maps:
            map_.close()


# A way to publish: acts on a new socket of a container, and returns what takes it back.
Way = Callable[[Publisher, str, socket.socket], Callable[[], object]]


def by_socket(publisher: Publisher, container: str, made: socket.socket) -> Callable[[], object]:
    number = translation.cookie(made)
    translation.publish_socket(publisher.sockets, number, publisher.workload(container))
    return lambda: translation.withdraw_socket(publisher.sockets, number)


def by_port(publisher: Publisher, container: str, made: socket.socket) -> Callable[[], object]:
    publisher.bind(made, 0)
    place = publisher.address, made.getsockname()[1]
    workload = publisher.workload(container)
    translation.publish_port(publisher.ports, *place, workload, publisher.netns)
    return lambda: translation.withdraw_port(publisher.ports, *place, publisher.netns)


def in_block(first: int, last: int) -> Way:
    """No publication: a port of the container's own block, claimed for its whole life."""
    ports = list(range(first, last + 1))

    def bind(publisher: Publisher, container: str, made: socket.socket) -> Callable[[], object]:
        for _ in ports:
            ports.append(ports.pop(0))
            try:
                publisher.bind(made, ports[-1])
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return lambda: None
        raise OSError(errno.EADDRINUSE, f"every port of {first}-{last} is in use")

    return bind


def not_at_all(publisher: Publisher, container: str, made: socket.socket) -> Callable[[], object]:
    return lambda: None


class Interceptor:
    """The thread that answers; it lives in the namespace `transition`, so its sockets do."""

    def __init__(self, path: Path, transition: Namespace, pin_directory: Path, run_directory: Path) -> None:
        self.path = path
        self.ways: dict[str, Way] = {}
        self.made: list[Made] = []
        self.errors: list[str] = []
        self.interrupted = 0
        self.publisher = Publisher(transition, pin_directory)
        with open_map("ft_netns", str(pin_directory)) as spaces:
            translation.mark_netns(spaces, self.publisher.netns, str(run_directory / "lock"))
        self._transition = transition
        self._containers: dict[int, tuple[str, Notifications]] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._stop = os.eventfd(0)
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._poll.register(self._stop, select.EPOLLIN)
        self._thread = threading.Thread(target=self._serve, name="interceptor")

    def __enter__(self) -> Interceptor:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        for _, notifications in self._containers.values():
            notifications.close()
        self._poll.close()
        os.close(self._stop)
        self._listener.close()
        self.path.unlink()
        self.publisher.close()

    def _serve(self) -> None:
        with self._transition.entered():
            while True:
                for fd, events in self._poll.poll():
                    if fd == self._stop:
                        return
                    try:
                        self._turn(fd, events)
                    except (OSError, ValueError, KeyError, FlowtagError) as error:
                        self.errors.append(repr(error))

    def _turn(self, fd: int, events: int) -> None:
        if fd == self._listener.fileno():
            self._welcome()
            return
        container, notifications = self._containers[fd]
        if events & select.EPOLLIN:
            call = notifications.receive()
            if call is None:
                self.interrupted += 1
                return
            try:
                self._swap(container, notifications, call)
            finally:
                self.interrupted += not notifications.go_on(call)
        elif events & select.EPOLLHUP:  # nobody runs under the filter any more
            self._poll.unregister(fd)
            del self._containers[fd]
            notifications.close()

    def _welcome(self) -> None:
        """A runtime hands over the descriptor of a container's filter; `runc exec` sends one more."""
        peer, _ = self._listener.accept()
        with peer:
            # One message: the runtime leaves its end open, so there is no end of file to wait for.
            data, fds, _, _ = socket.recv_fds(peer, 1 << 20, 4)
        state = json.loads(data)
        notifications = Notifications(fds[state["fds"].index("seccompFd")])
        container = state["state"]["id"]
        self._containers[notifications.fd] = container, notifications
        self._poll.register(notifications.fd, select.EPOLLIN)
        self.publisher.learn(container)

    def _swap(self, container: str, notifications: Notifications, call: Call) -> None:
        """Give the caller a socket of ours for its own, if it is one that cannot reach its IPv4 peer."""
        began = time.monotonic()
        fd, address, size = call.args[:3]
        if not _to_ipv4(seccomp.memory(call.tid, address, min(size, 28))):
            return
        theirs = _tcp(call.tid, fd)
        if theirs is None:
            return
        with theirs:
            close_on_exec = seccomp.close_on_exec(call.tid, fd)
            if not notifications.waits(call) or _netns(theirs) == self.publisher.netns:
                return  # gone, or ours already: a retry, or a signal came between swap and connect
            if theirs.getsockname()[1] != 0:
                return  # bound, listening or connected: the caller wants this one
            with socket.socket(theirs.family, socket.SOCK_STREAM) as ours:
                copy_options(theirs, ours)
                way = self.ways.get(container, by_socket)
                withdraw = way(self.publisher, container, ours)
                if notifications.replace(call, ours.fileno(), fd, close_on_exec=close_on_exec):
                    seconds = time.monotonic() - began
                    self.made.append(Made(container, translation.cookie(ours), seconds))
                else:
                    withdraw()


def _to_ipv4(sockaddr: bytes) -> bool:
    """Whether a sockaddr is IPv4, plain or v4-mapped, and not the container's own loopback."""
    family = int.from_bytes(sockaddr[:2], "little")
    if family == socket.AF_INET and len(sockaddr) >= 16:
        return sockaddr[4] not in (0, 127)
    if family == socket.AF_INET6 and len(sockaddr) >= 24:
        return sockaddr[8:20] == _MAPPED and sockaddr[20] not in (0, 127)
    return False


def _tcp(tid: int, fd: int) -> socket.socket | None:
    """The caller's socket if it is a TCP one."""
    try:
        found = seccomp.opened(tid, fd)
    except OSError:  # no socket, or closed by another thread: connect() will say so
        return None
    if (
        found.family in (socket.AF_INET, socket.AF_INET6)
        and found.type == socket.SOCK_STREAM
        and found.proto == socket.IPPROTO_TCP
    ):
        return found
    found.close()
    return None


def _netns(of: socket.socket) -> int:
    return int.from_bytes(of.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")


class InterceptedRunc(Runc):
    """Runc whose containers' connect() calls are announced on the unix socket at `listener`."""

    def __init__(self, directory: Path, listener: Path) -> None:
        super().__init__(directory)
        self._listener = listener

    def command(self, *arguments: str) -> list[str]:
        if "--bundle" in arguments:
            file = Path(arguments[arguments.index("--bundle") + 1], "config.json")
            config = json.loads(file.read_text(encoding="utf-8"))
            config["linux"]["seccomp"] = seccomp.notify(str(self._listener), "connect")
            file.write_text(json.dumps(config, indent=1), encoding="utf-8")
        return super().command(*arguments)
