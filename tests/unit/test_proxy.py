# SPDX-License-Identifier: Apache-2.0
"""The proxy of the rig does to connections what its names say."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.rig.proxy import Proxy


class Echo:
    """A server that sends back what it gets, and keeps it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.listener.getsockname()
        self.got = b""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    self.got += data
                    connection.sendall(data)
            except OSError:
                pass


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.address) as made:
        yield made


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(proxy.address, timeout=2)


def whole(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := client.recv(size - len(data))):
        data += more
    return data


def test_forwards_counts_and_passes_the_end_on(proxy: Proxy) -> None:
    data = bytes(range(256)) * 1000
    with connect(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        assert whole(client, len(data)) == data
        sender.join()
        assert (proxy.connections, proxy.open, proxy.cuts) == (1, 1, 0)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert proxy.to_server == proxy.to_client == len(data)


def test_delay_is_there_and_back(proxy: Proxy) -> None:
    proxy.delay(0.05)
    with connect(proxy) as client:
        began = time.monotonic()
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert time.monotonic() - began >= 0.1


def test_cut_resets_and_lets_new_connections_in(proxy: Proxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(proxy) as client:
        client.sendall(b"y")
        assert client.recv(1) == b"y"
    assert proxy.cuts == 1


def test_cut_in_the_middle_of_a_request(proxy: Proxy, echo: Echo) -> None:
    proxy.cut_after(to_server=1000)
    with connect(proxy) as client:
        client.sendall(b"z" * 4000)
        with pytest.raises(ConnectionResetError):
            whole(client, 4000)
    assert proxy.to_server == 1000
    assert len(echo.got) <= 1000
    with connect(proxy) as client:  # once
        client.sendall(b"z" * 4000)
        assert len(whole(client, 4000)) == 4000


def test_cut_before_the_answer(proxy: Proxy, echo: Echo) -> None:
    proxy.cut_after(to_client=0)
    with connect(proxy) as client:
        client.sendall(b"work")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert echo.got == b"work"
    assert proxy.to_client == 0


def test_black_hole_holds_until_it_is_over(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        proxy.black_hole()
        client.sendall(b"b")
        with connect(proxy) as second:
            second.sendall(b"c")
            for end in (client, second):
                end.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    end.recv(1)
                end.settimeout(2)
            assert echo.got == b"a"
            proxy.forward()
            assert (client.recv(1), second.recv(1)) == (b"b", b"c")


def test_deaf_leaves_connect_without_an_answer(proxy: Proxy) -> None:
    port = proxy.port
    proxy.deaf()
    with pytest.raises(TimeoutError):
        socket.create_connection(proxy.address, timeout=0.2)
    proxy.forward()
    assert proxy.port == port
    with connect(proxy) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"


def test_refuse_and_a_server_that_is_away(proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.black_hole()
    connect(proxy).close()
    proxy.forward()
    proxy.target = ("127.0.0.1", 1)
    with pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)
