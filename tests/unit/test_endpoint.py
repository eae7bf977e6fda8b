# SPDX-License-Identifier: Apache-2.0
"""The listener under clients that mean no good."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest

from bpf.error import FlowtagError
from exporter.metrics import endpoint
from exporter.metrics.endpoint import Answer, listening


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(endpoint, "SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number = probe.getsockname()[1]
    with listening(("127.0.0.1", number), {"/x": lambda accept: Answer(200, endpoint.TEXT, b"yes\n")}):
        yield number


def sent(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(data)
        return client.recv(1000)


def test_page_and_what_is_no_page(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/x?y") as answer:
        assert answer.read() == b"yes\n"
    assert sent(port, b"GET /none HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 404")
    assert sent(port, b"POST /x HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 501")


def test_long_head_is_refused(port: int) -> None:
    head = b"GET /x HTTP/1.0\r\n" + b"a: b\r\n" * 90 + b"c: " + b"d" * endpoint.HEAD_BYTES
    assert sent(port, head[: endpoint.HEAD_BYTES]).startswith(b"HTTP/1.0 431")


def test_slow_clients_are_ended_and_too_many_turned_away(port: int) -> None:
    slow = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(endpoint.CONNECTIONS)]
    begun = time.monotonic()
    time.sleep(0.2)
    assert sent(port, b"").startswith(b"HTTP/1.0 503")
    for client in slow:
        client.sendall(b"G")  # a byte now and then does not keep it open
    for client in slow:
        assert client.recv(10) == b""
        client.close()
    assert time.monotonic() - begun < 4
    assert sent(port, b"GET /x HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")


def test_port_in_use_is_an_error(port: int) -> None:
    taken = listening(("127.0.0.1", port), {})
    with pytest.raises(FlowtagError, match=r"metrics\.listen"), taken:
        pass
