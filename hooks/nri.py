# SPDX-License-Identifier: Apache-2.0
"""`flowtag nri`: the plugin that gives each container of containerd's CRI our hooks, through NRI.

containerd asks each plugin in turn while it creates a container, under a lock that all containers share, and
waits up to two seconds. So an answer is encoded beforehand and sent in one piece, and there is one
thread with nothing else to do. What containerd does with a bad answer decides the rest (docs/runtimes.md
has the measurements): a connection that is closed or silent costs no container; but an error, an
answer that cannot be decoded, or half an answer keeps that container from starting. So a method that
we do not know gets the empty message, which every method's answer may be, and whatever goes wrong
here closes the connection between two messages.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from bpf.error import FlowtagError
from hooks import nri_wire as wire
from hooks.installed import STUB, SWITCH
from hooks.runtime import HOOK_DIRECTORY, Options

if TYPE_CHECKING:
    import argparse

SOCKET = "/var/run/nri/nri.sock"
NAME, INDEX = "flowtag", "90"
CREATE_CONTAINER = 1 << 3  # api.proto: Event 4, as the mask that Configure answers with
# It takes milliseconds; but 1.7 drops a plugin without a word where its list of containers exceeds a message.
SYNCHRONIZE_SECONDS = 30
# Of a container, read in search of our stub: each takes 2 us, and a tenant may write a million of them.
FIELDS_LIMIT = 50_000
# Between attempts while nobody listens: what containerd starts before we are there gets no hook.
ABSENT_SECONDS = 0.25
# After a lost connection, doubled each time: a plugin that has not answered has cost a container 2 s.
RETRY_SECONDS, RETRY_LIMIT = 1.0, 60.0


def add_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `nri` to the command line."""
    parser = subparsers.add_parser(
        "nri",
        help="give containerd's containers the hook, through NRI; runs in the foreground",
        description="Connect to containerd's NRI socket as a plugin and add the hook to each new container.",
        allow_abbrev=False,
    )
    parser.add_argument("--socket", metavar="S", default=SOCKET, help="NRI's socket (default %(default)s)")
    parser.add_argument(
        "--hook-directory",
        metavar="D",
        default=HOOK_DIRECTORY,
        help="where the stub is (default %(default)s)",
    )
    parser.add_argument(
        "--run-directory",
        metavar="D",
        default=Options().run_directory,
        help="where the hook keeps its files (default %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends the process; containerd takes a plugin that dies for one that left."""
    hook = Hook.make(args.hook_directory, args.run_directory)
    if not os.access(hook.stub, os.X_OK):
        raise FlowtagError(
            f"starting the NRI plugin: {hook.stub} is not there, or not executable",
            "`flowtag register --runtime containerd --method nri` installs it",
        )
    status = open_status(args.run_directory)
    delay = RETRY_SECONDS
    while True:
        with connect(args.socket) as connection:
            began = time.monotonic()
            try:
                serve(connection, hook, args.socket, status)
                cause = "containerd closed the connection"
            except TimeoutError:
                cause = f"containerd did not synchronize the plugin within {SYNCHRONIZE_SECONDS} s"
            except (OSError, ValueError) as error:
                cause = str(error)
        os.ftruncate(status, 0)
        say(f"{args.socket}: {cause}; connecting again")
        if time.monotonic() - began > RETRY_LIMIT:
            delay = RETRY_SECONDS
        time.sleep(delay)
        delay = min(2 * delay, RETRY_LIMIT)


def connect(path: str) -> socket.socket:
    """A connection, as soon as somebody listens; FlowtagError where waiting will not help."""
    said = False
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if not said:
                say(f"{path}: nobody listens; waiting")
                said = True
            time.sleep(ABSENT_SECONDS)
        except OSError as error:
            connection.close()
            raise FlowtagError(f"connecting to NRI at {path}: {error.strerror or error}") from error
        else:
            return connection


class Hook(NamedTuple):
    """What is injected: the stub's path, the file that forbids it, the encoded CreateContainerResponse."""

    stub: str
    disabled: str
    response: bytes

    @classmethod
    def make(cls, hook_directory: str, run_directory: str) -> Hook:
        """Encode the answer. FlowtagError if the paths are too long for one frame, or not absolute."""
        from hooks.cli import hooks_object  # which imports this module for its command

        stub = f"{hook_directory}/{STUB}"
        if not os.path.isabs(stub):
            raise FlowtagError(f"starting the NRI plugin: {hook_directory} is not an absolute path")
        hooks = b""
        for event, number in (("createRuntime", 2), ("poststop", 6)):  # api.proto: Hooks
            for entry in hooks_object(run_directory)[event]:
                one = wire.field(1, stub)
                one += b"".join(wire.field(2, word) for word in (stub, *entry["args"][1:]))
                one += b"".join(wire.field(3, word) for word in entry["env"])
                one += wire.field(4, wire.field(1, entry["timeout"]))
                hooks += wire.field(number, one)
        response = wire.field(1, wire.field(5, hooks))  # adjust.hooks
        try:
            reply(0, response)
        except ValueError as error:
            raise FlowtagError(
                f"starting the NRI plugin: {hook_directory} is too long a path: {error}"
            ) from error
        return cls(stub, f"{hook_directory}/{SWITCH}", response)

    def usable(self) -> bool:
        """Whether a container may be told to call the stub: a missing one would keep it from starting."""
        return os.access(self.stub, os.X_OK) and not os.path.exists(self.disabled)


def serve(connection: socket.socket, hook: Hook, path: str, status: int) -> None:
    """Register and answer until containerd closes; ValueError and OSError where it does otherwise."""
    inbox, engine, synchronized = wire.Demultiplexer(), "", False
    connection.settimeout(SYNCHRONIZE_SECONDS)
    connection.sendall(registration())
    while data := connection.recv(1 << 16):
        for message in inbox.feed(data):
            if message.kind == wire.RESPONSE:
                check_registered(message.body)
                continue
            method, body = wire.text(message.body, 2), wire.last(message.body, 3)
            connection.sendall(reply(message.stream, answer(method, body, hook)))
            if method == "Configure":
                engine = f"{wire.text(body, 2)} {wire.text(body, 3)}"
            elif method == "Synchronize" and not synchronized and not more(body):
                synchronized = True
                connection.settimeout(None)
                with suppress(OSError):  # a full /run must cost the status only
                    os.write(status, f"{os.getpid()} {path} {engine}\n".encode())
                say(f"connected to {engine} at {path}")


def answer(method: str, body: memoryview, hook: Hook) -> bytes:
    """The body of the answer to one request: whatever comes, one that containerd can decode."""
    if method == "Configure":
        return wire.field(2, CREATE_CONTAINER)
    if method == "Synchronize" and more(body):
        return wire.field(2, 1)  # more: or a long list of containers ends the connection
    if method == "CreateContainer" and hook.usable() and not has_hook(body, hook.stub):
        return hook.response
    return b""


def has_hook(body: memoryview, stub: str) -> bool:
    """Whether a CreateContainerRequest's container calls the stub already (base spec, a second plugin).

    True if it cannot be decoded: then nothing is known, and nothing is added.
    """
    name = stub.encode()
    if name not in bytes(body):  # nearly always, and fast however long a tenant makes the message
        return False
    try:
        return any(
            path == name
            for container in wire.messages(body, 2)
            for number, hooks in islice(wire.fields(container), FIELDS_LIMIT)
            if number == 10 and isinstance(hooks, memoryview)
            for _, entry in wire.fields(hooks)
            if isinstance(entry, memoryview)
            for path in wire.messages(entry, 1)
        )
    except ValueError:
        return True


def more(body: memoryview) -> bool:
    """Whether a SynchronizeRequest says that another follows."""
    return any(number == 3 and value == 1 for number, value in wire.fields(body))


def registration() -> bytes:
    """The request that makes this connection a plugin."""
    body = (
        wire.field(1, "nri.pkg.api.v1alpha1.Runtime")
        + wire.field(2, "RegisterPlugin")
        + wire.field(3, wire.field(1, NAME) + wire.field(2, INDEX))
    )
    return wire.encode(wire.Message(wire.RUNTIME, 1, wire.REQUEST, body))


def check_registered(body: bytes) -> None:
    """ValueError with containerd's words if a ttrpc response carries an error."""
    for status in wire.messages(body, 1):
        if any(number == 1 and value for number, value in wire.fields(status)):
            raise ValueError(f"registering was refused: {wire.text(status, 2)}")


def reply(stream: int, body: bytes) -> bytes:
    """A ttrpc response without an error."""
    return wire.encode(wire.Message(wire.PLUGIN, stream, wire.RESPONSE, wire.field(2, body)))


def open_status(run_directory: str) -> int:
    """What `flowtag status` reads: locked while this process lives, empty while it is not connected.

    FlowtagError if another plugin has it.
    """
    path = f"{run_directory}/nri"
    os.makedirs(run_directory, mode=0o700, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FlowtagError(
            f"starting the NRI plugin: {path} is locked: it runs already", "systemctl status flowtag-nri"
        ) from None
    os.ftruncate(file, 0)
    return file


def say(line: str) -> None:
    """For the journal. Never between a request and its answer: what reads us may block."""
    print(f"flowtag nri: {line}", file=sys.stderr, flush=True)
