# SPDX-License-Identifier: Apache-2.0
"""An HTTP server for scrapers and probes, which no client can hold up or make grow.

prometheus_client's own starts a thread for every connection and waits for ever for each request; this one has
CONNECTIONS threads at most, reads HEAD_BYTES at most, and ends whatever takes longer than SECONDS.
"""

from __future__ import annotations

import contextlib
import io
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from bpf.error import FlowtagError

CONNECTIONS = 8
HEAD_BYTES = 8192
SECONDS = 10.0
POLL_SECONDS = 0.5
STOP_SECONDS = 2.0
BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nbusy\n"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    body: bytes


Page = Callable[[str], Answer]
"""Makes the answer; it is given the request's Accept header."""


class _Head(io.RawIOBase):
    """The request's line and headers, cut after HEAD_BYTES; the request has no body that anybody reads."""

    def __init__(self, source: io.BufferedIOBase) -> None:
        self._source = source
        self._left = HEAD_BYTES
        self.cut = False

    def readline(self, size: int | None = -1, /) -> bytes:
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        line = self._source.readline(wanted)
        self._left -= len(line)
        self.cut = self.cut or (self._left == 0 and not line.endswith(b"\n"))
        return line

    def close(self) -> None:
        self._source.close()
        super().close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "flowtag"
    sys_version = ""
    timeout = SECONDS
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = TEXT

    def setup(self) -> None:
        super().setup()
        self._head = _Head(self.rfile)
        self.rfile = self._head  # type: ignore[assignment]  # all that is used of it is readline

    def do_GET(self) -> None:
        if self._head.cut:
            self.send_error(431)
            return
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(404, f"known here: {', '.join(self.server.pages)}")
            return
        answer = page(self.headers.get("Accept", ""))
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(answer.body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Nothing: clients do not fill our log."""


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True  # one that hangs does not hold the exporter's end
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], pages: Mapping[str, Page]) -> None:
        self.pages = pages
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            busy = len(self._open) >= CONNECTIONS
            if not busy:
                self._open[request] = time.monotonic() + SECONDS
        if busy:
            with contextlib.suppress(OSError):
                request.setblocking(False)
                request.send(BUSY)
            super().shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Every POLL_SECONDS: a client that sends or reads a byte now and then is not waited for."""
        self._end(time.monotonic())

    def _end(self, now: float) -> None:
        with self._lock:
            late = [request for request, end in self._open.items() if end <= now]
            for request in late:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)  # its thread's read or write fails

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or was sent away, is no news."""

    def stop(self) -> None:
        """End, answers that are being made included: they look at what is closed next."""
        self.shutdown()
        self.server_close()
        self._end(float("inf"))
        deadline = time.monotonic() + STOP_SECONDS
        while self._open and time.monotonic() < deadline:
            time.sleep(0.01)


@contextmanager
def listening(address: tuple[str, int], pages: Mapping[str, Page]) -> Iterator[None]:
    """Answer GET of each path in `pages` until the end of the `with`; FlowtagError without that port."""
    try:
        server = _Server(address, pages)
    except OSError as error:
        raise FlowtagError(
            f"listening at metrics.listen {address[0]} port {address[1]}: {error.strerror}",
            "is the address ours, the port free?",
        ) from None
    thread = threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.stop()
        thread.join()
