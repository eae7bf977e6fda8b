# SPDX-License-Identifier: Apache-2.0
"""Docker's API as a bad day has it: slow, garbled, cut off, endless; the real daemon is not, on demand.

with FakeDocker(tmp_path / "sock") as daemon:
    daemon.run(ID, "web")                  # in the list, and inspectable; an event says `start`
    daemon.event("rename", ID)             # to whoever follows, and to who asks for it later
    daemon.faults["/containers/json"] = daemon.garble      # what a path answers instead, until removed
    daemon.faults["/events"] = daemon.cut
    daemon.asked                           # the paths of all requests so far
"""

from __future__ import annotations

import json
import os
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    daemon: FakeDocker

    def handle_error(self, request: object, address: object) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.daemon.answer(self)

    def log_message(self, *arguments: object) -> None:
        """The tests look at `asked`."""

    def address_string(self) -> str:
        return "unix"

    def begin(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def body(self, data: bytes, status: int = 200) -> None:
        self.begin(status, Content_Length=str(len(data)))
        self.wfile.write(data)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


class FakeDocker:
    """A daemon whose containers and faults the test chooses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listed: dict[str, dict[str, Any]] = {}
        self.inspected: dict[str, dict[str, Any]] = {}
        self.faults: dict[str, Callable[[Handler], None]] = {}
        self.asked: list[str] = []
        self._events: list[tuple[int, bytes]] = []
        self._news = threading.Condition()
        self._ends = False

    def __enter__(self) -> FakeDocker:
        self._ends = False
        self._server = Server(str(self.path), Handler)
        self._server.daemon = self
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends = True
        with self._news:
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()
        os.unlink(self.path)

    def describe(self, one: str, name: str, labels: dict[str, str] | None = None) -> None:
        """What the API says of a container from now on."""
        networks: dict[str, Any] = {"Networks": {"bridge": {}}}
        config = {"Image": "shop:1", "Labels": labels or {}}
        state = {"Running": True}
        self.listed[one] = {
            "Id": one, "Names": [f"/{name}"], "State": "running", "NetworkSettings": networks,
            "Image": "shop:1", "Labels": labels or {},
        }  # fmt: skip
        self.inspected[one] = {
            "Id": one, "Name": f"/{name}", "State": state, "NetworkSettings": networks, "Config": config,
        }  # fmt: skip

    def run(self, one: str, name: str, labels: dict[str, str] | None = None) -> None:
        self.describe(one, name, labels)
        self.event("start", one)

    def event(self, action: str, one: str, **attributes: str) -> None:
        actor = {"ID": one, "Attributes": attributes}
        self.say(json.dumps({"Type": "container", "Action": action, "Actor": actor}).encode())

    def say(self, line: bytes) -> None:
        """Whatever line the stream of events is to have."""
        with self._news:
            now = time.time_ns()
            if line.startswith(b'{"Type"'):
                line = json.dumps({**json.loads(line), "timeNano": now}).encode()
            self._events.append((now, line + b"\n"))
            self._news.notify_all()

    def count(self, path: str) -> int:
        """How often something was asked for whose path ends so."""
        return sum(asked.endswith(path) for asked in list(self.asked))

    def answer(self, handler: Handler) -> None:
        """Answer a request as the daemon would, or as a fault wants it."""
        url = urlsplit(handler.path)
        version, _, rest = url.path.removeprefix("/").partition("/")
        path = f"/{rest}" if version.startswith("v1.") else url.path
        self.asked.append(path)
        if path in self.faults:
            self.faults[path](handler)
        elif path == "/version":
            handler.body(b'{"ApiVersion": "1.41"}')
        elif path == "/containers/json":
            handler.body(json.dumps(list(self.listed.values())).encode())
        elif path == "/events":
            query = parse_qs(url.query)
            self._follow(handler, *(int(query[key][0].replace(".", "")) for key in ("since", "until")))
        else:
            found = self.inspected.get(path.split("/")[2])
            handler.body(json.dumps(found or {"message": "none"}).encode(), 200 if found else 404)

    def _follow(self, handler: Handler, since: int, until: int) -> None:
        handler.begin(Transfer_Encoding="chunked")
        said = 0
        while True:
            with self._news:
                if said == len(self._events):
                    self._news.wait((until - time.time_ns()) / 1e9)
                lines = [line for when, line in self._events[said:] if when >= since]
                said = len(self._events)
            if self._ends:
                handler.close_connection = True
                return
            for line in lines:
                handler.chunk(line)
            if time.time_ns() >= until:
                handler.chunk(b"")
                return

    @staticmethod
    def fail(handler: Handler) -> None:
        handler.body(b'{"message": "no space left on device"}', 500)

    @staticmethod
    def garble(handler: Handler) -> None:
        handler.body(b'[{"Id": "62f96a65675')

    @staticmethod
    def no_http(handler: Handler) -> None:
        handler.wfile.write(b"\x16\x03\x01 what is this?\r\n\r\n")
        handler.close_connection = True

    @staticmethod
    def cut(handler: Handler) -> None:
        """Close the connection in the middle of an answer that began well."""
        handler.begin(Transfer_Encoding="chunked")
        handler.wfile.write(b"ff\r\n[")
        handler.close_connection = True

    @staticmethod
    def end(handler: Handler) -> None:
        """An empty answer that ends at once."""
        handler.begin(Transfer_Encoding="chunked")
        handler.chunk(b"")

    def hang(self, handler: Handler) -> None:
        """Say nothing for as long as anybody waits."""
        while not self._ends:
            time.sleep(0.02)
        handler.close_connection = True

    def trickle(self, handler: Handler) -> None:
        """A byte now and then, so that no single read takes long."""
        handler.begin(Transfer_Encoding="chunked")
        while not self._ends:
            handler.chunk(b" ")
            time.sleep(0.05)

    def endless(self, handler: Handler) -> None:
        """An answer that would fill any memory."""
        handler.begin(Transfer_Encoding="chunked")
        data = b" " * (1 << 16)
        while not self._ends:
            handler.chunk(data)
