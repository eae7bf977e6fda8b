# SPDX-License-Identifier: Apache-2.0
"""The NRI plugin against a containerd that the test plays, and that may go mad."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.error import FlowtagError
from hooks import nri
from hooks import nri_wire as wire
from hooks.cli import hooks_object
from hooks.nri import Hook
from hooks.nri_wire import Message, field
from tests.unit.test_nri_wire import RECORDED, recorded

METHODS = ("Configure", "Synchronize", "Shutdown", "CreateContainer", "StateChange", "StopContainer", "Later")


def make_hook(directory: Path) -> Hook:
    directory.mkdir(exist_ok=True)
    (directory / "flowtag-hook").touch(mode=0o755)
    return Hook.make(str(directory), "/run/flowtag")


@pytest.fixture
def hook(tmp_path: Path) -> Hook:
    return make_hook(tmp_path / "hook")


def creation(path: str = "", number: int = 2, argument: str = "") -> bytes:
    """A CreateContainerRequest whose container has one hook, and one argument."""
    hooks = field(10, field(number, field(1, path))) if path else b""
    return field(1, field(2, "pod")) + field(2, field(3, "app") + field(7, argument) + hooks)


def answer(hook: Hook, method: str, body: bytes) -> bytes:
    return nri.answer(method, memoryview(body), hook)


class Engine:
    """containerd's side of one connection; the plugin serves in a thread."""

    def __init__(self, hook: Hook, status: Path) -> None:
        self.socket, self._plugin = socket.socketpair()
        self.socket.settimeout(10)
        self.ended: Exception | None = None
        self._file = os.open(status, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._inbox = wire.Demultiplexer()
        self._waiting: list[Message] = []
        self._hook = hook
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            with self._plugin:
                nri.serve(self._plugin, self._hook, "/run/nri/nri.sock", self._file)
        except (OSError, ValueError) as error:
            self.ended = error

    def receive(self) -> Message:
        while not self._waiting:
            data = self.socket.recv(1 << 16)
            assert data, f"the plugin left: {self.ended}"
            self._waiting += self._inbox.feed(data)
        return self._waiting.pop(0)

    def send(self, stream: int, method: str, body: bytes) -> None:
        request = field(1, "nri.pkg.api.v1alpha1.Plugin") + field(2, method) + field(3, body)
        head = struct.pack(">IIBB", len(request), stream, wire.REQUEST, 0)
        self.socket.sendall(struct.pack(">II", wire.PLUGIN, len(head + request)) + head + request)

    def call(self, stream: int, method: str, body: bytes = b"") -> bytes:
        """The body of the answer, which has to be a ttrpc response without an error."""
        self.send(stream, method, body)
        found = self.receive()
        assert (found.connection, found.stream, found.kind) == (wire.PLUGIN, stream, wire.RESPONSE)
        assert [number for number, _ in wire.fields(found.body)] == [2]
        return bytes(wire.last(found.body, 2))

    def accept(self, body: bytes = b"") -> None:
        """Answer the plugin's registration."""
        self.receive()
        self.socket.sendall(wire.encode(Message(wire.RUNTIME, 1, wire.RESPONSE, body)))

    def close(self) -> None:
        self.socket.close()
        self._thread.join(10)
        assert not self._thread.is_alive()
        with suppress(OSError):
            os.close(self._file)


@pytest.fixture
def engine(hook: Hook, tmp_path: Path) -> Iterator[Engine]:
    found = Engine(hook, tmp_path / "nri")
    yield found
    found.close()


def test_answer_to_a_new_container_is_the_hooks_object(hook: Hook) -> None:
    adjust = wire.last(answer(hook, "CreateContainer", creation()), 1)
    found: dict[str, object] = {}
    for number, one in wire.fields(wire.last(adjust, 5)):
        assert isinstance(one, memoryview)
        event = {2: "createRuntime", 6: "poststop"}[number]
        words = [[str(word, "utf-8") for word in wire.messages(one, n)] for n in (2, 3)]
        ((_, timeout),) = wire.fields(wire.last(one, 4))
        entry = {"path": wire.text(one, 1), "args": words[0], "env": words[1], "timeout": timeout}
        found.setdefault(event, [entry])
    expected = hooks_object("/run/flowtag")
    for entries in expected.values():
        entries[0]["path"] = entries[0]["args"][0] = hook.stub
    assert found == expected


def test_answer_configures_for_new_containers_only(hook: Hook) -> None:
    assert answer(hook, "Configure", b"") == field(2, 0b1000)


@pytest.mark.parametrize("number", [1, 2, 6])
def test_answer_adds_nothing_where_the_stub_is_already(hook: Hook, number: int) -> None:
    assert answer(hook, "CreateContainer", creation(hook.stub, number)) == b""
    assert answer(hook, "CreateContainer", creation("/other/hook", number)) == hook.response
    assert answer(hook, "CreateContainer", creation(hook.stub + "-2", number)) == hook.response


def test_answer_is_not_led_astray_by_a_tenant_who_names_the_stub(hook: Hook) -> None:
    request = creation("/other", argument=hook.stub)
    assert answer(hook, "CreateContainer", request) == hook.response


def test_answer_adds_nothing_while_disabled_or_without_stub(hook: Hook) -> None:
    Path(hook.disabled).touch()
    assert answer(hook, "CreateContainer", creation()) == b""
    Path(hook.disabled).unlink()
    assert answer(hook, "CreateContainer", creation()) == hook.response
    Path(hook.stub).unlink()
    assert answer(hook, "CreateContainer", creation()) == b""


def test_answer_adds_nothing_to_what_it_cannot_read(hook: Hook) -> None:
    assert answer(hook, "CreateContainer", creation()[:-1] + hook.stub.encode()) == b""


def test_answer_echoes_that_more_containers_follow(hook: Hook) -> None:
    assert answer(hook, "Synchronize", field(1, b"") + field(3, 1)) == field(2, 1)
    assert answer(hook, "Synchronize", field(1, b"")) == b""


def test_answer_takes_no_time_that_a_container_would_notice(hook: Hook) -> None:
    many = field(7, "a") * 1_000_000  # what a tenant can write into a message
    request = field(2, many + field(7, hook.stub))
    began = time.monotonic()
    assert answer(hook, "CreateContainer", request) == hook.response
    assert time.monotonic() - began < 1  # containerd gives up after two


def test_answer_searches_for_the_stub_only_so_far(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nri, "FIELDS_LIMIT", 3)
    assert answer(hook, "CreateContainer", creation(hook.stub)) == b""  # the third: name, argument, hooks
    monkeypatch.setattr(nri, "FIELDS_LIMIT", 2)
    assert answer(hook, "CreateContainer", creation(hook.stub)) == hook.response


@pytest.fixture(scope="module")
def any_hook(tmp_path_factory: pytest.TempPathFactory) -> Hook:
    return make_hook(tmp_path_factory.mktemp("any"))


@given(st.sampled_from(METHODS), st.binary(max_size=200), st.booleans())
def test_answer_to_anything_is_one_of_four(any_hook: Hook, method: str, body: bytes, named: bool) -> None:
    possible = (b"", any_hook.response, field(2, 0b1000), field(2, 1))
    with suppress(ValueError):  # ends the connection, which costs no container
        assert answer(any_hook, method, body + any_hook.stub.encode() * named) in possible


def test_make_refuses_a_directory_that_fits_no_frame() -> None:
    with pytest.raises(FlowtagError, match="too long a path"):
        Hook.make("/" + "d" * 1500, "/run/flowtag")
    with pytest.raises(FlowtagError, match="not an absolute path"):
        Hook.make("relative", "/run/flowtag")


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_serve_answers_what_containerd_sent(engine: Engine, hook: Hook, tmp_path: Path, path: Path) -> None:
    first = engine.receive()
    assert (first.connection, first.stream, first.kind) == (wire.RUNTIME, 1, wire.REQUEST)
    assert wire.text(first.body, 1) == "nri.pkg.api.v1alpha1.Runtime"
    assert wire.text(first.body, 2) == "RegisterPlugin"
    asked = wire.last(first.body, 3)
    assert (wire.text(asked, 1), wire.text(asked, 2)) == ("flowtag", "90")
    engine.socket.sendall(recorded(path))
    answers = [engine.receive() for _ in range(3)]
    assert [a.stream for a in answers] == [1, 3, 5]
    assert [bytes(wire.last(a.body, 2)) for a in answers] == [field(2, 8), b"", hook.response]
    version = path.stem.partition("-")[2]
    assert (tmp_path / "nri").read_text().startswith(f"{os.getpid()} /run/nri/nri.sock containerd {version}")


def test_serve_sends_an_answer_in_one_piece(engine: Engine, hook: Hook) -> None:
    # If the plugin died between two, containerd could take the container for failed.
    engine.accept()
    engine.send(1, "CreateContainer", creation())
    assert engine.socket.recv(1 << 16) == nri.reply(1, hook.response)


def test_serve_answers_methods_that_it_does_not_know(engine: Engine) -> None:
    engine.accept()
    assert engine.call(1, "FromTheFuture", b"\xff\xff") == b""


def test_serve_tells_of_itself_only_when_all_containers_are_synchronized(
    engine: Engine, tmp_path: Path
) -> None:
    engine.accept()
    engine.call(1, "Configure", field(2, "containerd") + field(3, "9.1"))
    assert engine.call(3, "Synchronize", field(3, 1)) == field(2, 1)
    engine.call(5, "StateChange")
    assert (tmp_path / "nri").read_text() == ""
    engine.call(7, "Synchronize")
    engine.call(9, "StateChange")
    assert (tmp_path / "nri").read_text() == f"{os.getpid()} /run/nri/nri.sock containerd 9.1\n"


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (lambda e: e.socket.sendall(os.urandom(4) + b"\xff" * 64), "a frame of"),
        (lambda e: e.socket.sendall(wire.encode(Message(1, 1, 1, b"\x0a\xff"))), "protobuf"),
        (lambda e: e.send(1, "Synchronize", b"\x0a\xff"), "protobuf"),
        (lambda e: e.accept(field(1, field(1, 3) + field(2, "no such plugin"))), "no such plugin"),
    ],
    ids=["garbage", "malformed-request", "malformed-list", "refused"],
)
def test_serve_closes_the_connection_when_containerd_errs(
    engine: Engine, fault: Callable[[Engine], None], cause: str
) -> None:
    fault(engine)
    with suppress(ConnectionResetError):
        while engine.socket.recv(1 << 16):
            pass
    engine.close()
    assert isinstance(engine.ended, ValueError)
    assert cause in str(engine.ended)


def test_serve_ends_when_containerd_leaves_within_a_frame(engine: Engine) -> None:
    engine.accept()
    engine.socket.sendall(bytes.fromhex("00000001000000ff00"))
    engine.close()
    assert engine.ended is None


def test_serve_gives_up_when_it_is_never_synchronized(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nri, "SYNCHRONIZE_SECONDS", 0.1)
    engine = Engine(hook, tmp_path / "nri")
    engine.accept()
    engine.call(1, "Configure")
    while engine.socket.recv(1 << 16):
        pass
    engine.close()
    assert isinstance(engine.ended, TimeoutError)


def test_open_status_only_once(tmp_path: Path) -> None:
    file = nri.open_status(str(tmp_path))
    with pytest.raises(FlowtagError, match="it runs already"):
        nri.open_status(str(tmp_path))
    os.close(file)
    os.close(nri.open_status(str(tmp_path)))


def test_connect_to_what_can_never_listen() -> None:
    with pytest.raises(FlowtagError, match=r"connecting to NRI at /xxx.*too long"):
        nri.connect("/" + "x" * 200)
