# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API server as far as flowtag speaks to one: pods by list and watch, owners; and its faults.

Shapes are those of the API's own documentation ("Kubernetes API Concepts"): PodList with metadata.continue,
watch events as a JSON object a line in chunks, ERROR events and refusals as Status, PartialObjectMetadata.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from tests.rig.kube_objects import Json, status


class Request(NamedTuple):
    """What came: kind is list, watch or get."""

    kind: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


class _Entry(NamedTuple):
    """What watchers are told: an event on a pod, or raw bytes; before: the node on which the pod was."""

    version: int
    type: str
    object: Json
    before: str
    raw: bytes


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: _Server
    request_seen: Request

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the base class's name
        """Say nothing."""

    def do_GET(self) -> None:
        try:
            self.server.api.answer(self)
        except OSError:
            self.close_connection = True

    def send_json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_body(json.dumps(value).encode(), status, headers)

    def send_body(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_chunks(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def hang_up(self) -> None:
        """Close in the middle of whatever it was."""
        self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: KubeApi

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that ends is the normal case here (TLS: it may end in the handshake)."""


Fault = Callable[[Handler], None]


class KubeApi:
    """The server; a context manager. `fail` scripts what the next requests get instead of an answer."""

    def __init__(self, tls: tuple[Path, Path] | None = None) -> None:
        self._token = ""
        self.requests: list[Request] = []
        self.owners: dict[str, Json] = {}  # by path
        self.page_size = 1_000_000
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._changed = threading.Condition()
        self._version = 1000
        self._oldest = 0  # what was before is compacted away
        self._pods: dict[str, Json] = {}
        self._history: list[_Entry] = []
        self._hung_up = 0
        self._closed = threading.Event()
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.api = self
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.url = f"https://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> KubeApi:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """The server is gone: connections end, new ones are refused."""
        self._closed.set()
        self.hang_up()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    # What the cluster does

    def put(self, pod: Json) -> Json:
        """Create or change a pod; the stored one, with its resourceVersion."""
        with self._changed:
            uid = pod["metadata"]["uid"]
            old = self._pods.get(uid)
            self._version += 1
            stored: Json = json.loads(json.dumps(pod))
            stored["metadata"]["resourceVersion"] = str(self._version)
            self._pods[uid] = stored
            before = old["spec"]["nodeName"] if old else ""
            self._tell("MODIFIED" if old else "ADDED", stored, before)
            return stored

    def delete(self, uid: str) -> None:
        with self._changed:
            self._version += 1
            pod = self._pods.pop(uid)
            pod["metadata"]["resourceVersion"] = str(self._version)
            self._tell("DELETED", pod, pod["spec"]["nodeName"])

    def bookmark(self) -> int:
        """Tell watchers how far they are, past changes that were none of theirs; that version."""
        with self._changed:
            self._version += 5
            version = {"resourceVersion": str(self._version)}
            self._tell("BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": version}, "")
            return self._version

    def event(self, kind: str, thing: Any) -> None:
        """Send an event as it is."""
        self.raw(json.dumps({"type": kind, "object": thing}).encode() + b"\n")

    def raw(self, data: bytes) -> None:
        """Send bytes to whoever watches now."""
        with self._changed:
            self._version += 1
            self._history.append(_Entry(self._version, "RAW", {}, "", data))
            self._changed.notify_all()

    def _tell(self, kind: str, thing: Json, before: str) -> None:
        self._history.append(_Entry(self._version, kind, thing, before, b""))
        self._changed.notify_all()

    def compact(self) -> None:
        """Forget all history: who watches from before gets 410."""
        with self._changed:
            self._version += 1
            self._oldest = self._version

    def hang_up(self) -> None:
        """Cut every watch that stands, in the middle."""
        with self._changed:
            self._hung_up += 1
            self._changed.notify_all()

    def fail(self, kind: str, *faults: Fault) -> None:
        """The next requests of this kind (list, watch, get) get these."""
        with self._changed:
            self._faults[kind].extend(faults)

    def accept_token(self, token: str) -> None:
        """From now on, refuse every other."""
        self._token = token

    def count(self, kind: str) -> int:
        """Requests of this kind so far."""
        return sum(request.kind == kind for request in list(self.requests))

    def last(self, kind: str) -> Request:
        return [request for request in list(self.requests) if request.kind == kind][-1]

    # Answers

    def answer(self, handler: Handler) -> None:
        url = urlsplit(handler.path)
        query = dict(parse_qsl(url.query))
        kind = "get" if url.path != "/api/v1/pods" else "watch" if query.get("watch") == "true" else "list"
        headers = {name.lower(): text for name, text in handler.headers.items()}
        with self._changed:
            self.requests.append(Request(kind, url.path, query, headers))
            fault = self._faults[kind].popleft() if self._faults[kind] else None
        if self._token and headers.get("authorization", "").lower() != f"bearer {self._token}":
            refuse(401, "Unauthorized")(handler)
        elif fault is not None:
            fault(handler)
        else:
            {"get": self._get, "list": self._list, "watch": self._watch}[kind](handler, url.path, query)

    def _get(self, handler: Handler, path: str, query: dict[str, str]) -> None:
        if path not in self.owners:
            refuse(404, "NotFound")(handler)
            return
        handler.send_json(
            {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": self.owners[path],
            }
        )

    def _list(self, handler: Handler, path: str, query: dict[str, str]) -> None:
        with self._changed:
            begin, version = map(int, query.get("continue", f"0.{self._version}").split("."))
            node = query["fieldSelector"].removeprefix("spec.nodeName=")
            pods = [pod for pod in self._pods.values() if pod["spec"]["nodeName"] == node]
        end = begin + min(self.page_size, int(query["limit"]))
        metadata = {"resourceVersion": str(version)}
        if end < len(pods):
            metadata |= {"continue": f"{end}.{version}", "remainingItemCount": len(pods) - end}  # type: ignore[dict-item]
        handler.send_json(
            {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": pods[begin:end]}
        )

    def _watch(self, handler: Handler, path: str, query: dict[str, str]) -> None:
        node = query["fieldSelector"].removeprefix("spec.nodeName=")
        version = int(query["resourceVersion"])
        end = time.monotonic() + int(query["timeoutSeconds"])
        with self._changed:
            hung_up, oldest, now = self._hung_up, self._oldest, self._version
        if version < oldest:
            refuse(410, "Expired")(handler)
            return
        handler.begin_chunks()
        while True:
            with self._changed:
                while self._hung_up == hung_up and self._version == version and time.monotonic() < end:
                    self._changed.wait(end - time.monotonic())
                # Raw bytes are no history: only who watched when they were sent gets them.
                entries = [
                    entry
                    for entry in self._history
                    if entry.version > version and (entry.type != "RAW" or entry.version > now)
                ]
                version = self._version
                gone = self._hung_up != hung_up
            for entry in entries:
                if line := _line(entry, node):
                    handler.send_chunk(line)
            if gone:
                handler.hang_up()
                return
            if time.monotonic() >= end:
                handler.wfile.write(b"0\r\n\r\n")
                return


def _line(entry: _Entry, node: str) -> bytes:
    """An event as a watcher of one node sees it: a pod that leaves the node is DELETED for it."""
    if entry.type == "RAW":
        return entry.raw
    kind = entry.type
    if kind != "BOOKMARK" and entry.object["spec"]["nodeName"] != node:
        if entry.before != node:
            return b""
        kind = "DELETED"
    return json.dumps({"type": kind, "object": entry.object}).encode() + b"\n"


def refuse(code: int, reason: str, **headers: str) -> Fault:
    """Answer with an error; headers with _ for -."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return lambda handler: handler.send_json(status(code, reason), code, named)


def send(body: bytes, **headers: str) -> Fault:
    """Answer 200 with these bytes."""
    return lambda handler: handler.send_body(body, 200, headers)


def chunks_then_close(*chunks: bytes) -> Fault:
    """Begin a chunked answer, send these and close without an end."""

    def fault(handler: Handler) -> None:
        handler.begin_chunks()
        for chunk in chunks:
            handler.send_chunk(chunk)
        handler.hang_up()

    return fault


def cut_short(body: bytes) -> Fault:
    """Promise twice as much as is sent."""

    def fault(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(2 * len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        handler.hang_up()

    return fault


def silence(until: threading.Event) -> Fault:
    """No first byte until the event; then close."""

    def fault(handler: Handler) -> None:
        until.wait(60)
        handler.hang_up()

    return fault
