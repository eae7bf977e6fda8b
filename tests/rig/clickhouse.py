# SPDX-License-Identifier: Apache-2.0
"""ClickHouse's own engine (chdb) behind HTTP, in a process of its own: what is posted is executed.

    with ClickHouse(directory, tls=None) as server:
        server.execute("CREATE TABLE ...")           # as text of ClickHouse's answer
        Config(url=server.url, ...)
        server.rows("SELECT ... FROM flows")         # as JSON objects
        server.say(status=503)                       # the next inserts are answered so, and not executed
        server.say(status=200, text="...", execute=True)   # executed, and answered so all the same
        server.say()                                 # normal again
        server.inserts                               # requests that came so far: path and headers

chdb is the server's code without its network: parsing, tables, types and deduplication are the real ones;
HTTP's status, exception header and the check of user and password are ours, after ClickHouse's. An
insert that breaks a CONSTRAINT of the table leaves nothing behind, but chdb does not say so.
"""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).resolve().parents[2]
USER, PASSWORD = "flowtag", "a secret"
CODE = re.compile(r"Code: (\d+)\.")
# As ClickHouse's HTTPHandler maps them; 500 for all others.
STATUS = {60: 404, 81: 404, 516: 403, 497: 403, 241: 507, 62: 400, 16: 404, 53: 400, 6: 400}
PASSED_ON = ("insert_deduplication_token", "async_insert")


class Seen(NamedTuple):
    """An insert that came."""

    parameters: dict[str, str]
    headers: dict[str, str]
    size: int


class ClickHouse:
    """Owns the engine's process and the HTTP server."""

    def __init__(self, directory: Path, tls: ssl.SSLContext | None = None) -> None:
        self._directory = directory
        self._tls = tls
        self._lock = threading.Lock()
        self._said: dict[str, Any] = {}
        self.inserts: list[Seen] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._engine = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.rig.clickhouse", str(self._directory)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            assert self._engine.stdin
            stack.callback(self._engine.stdin.close)
            self._http = stack.enter_context(_server(self))
            if self._tls:
                self._http.socket = self._tls.wrap_socket(
                    self._http.socket, server_side=True, do_handshake_on_connect=False
                )
            thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(self._http.shutdown)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self._http.server_address[1]

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.address[1]}"

    def execute(self, query: str, body: bytes | None = None) -> str:
        """RuntimeError with ClickHouse's words if it fails. body: what an INSERT inserts."""
        assert self._engine.stdin
        assert self._engine.stdout
        with self._lock:
            head = json.dumps([query, -1 if body is None else len(body)])
            self._engine.stdin.write(head.encode() + b"\n" + (body or b""))
            self._engine.stdin.flush()
            worked, text = json.loads(self._engine.stdout.readline())
        if not worked:
            raise RuntimeError(text)
        return str(text)

    def rows(self, query: str) -> list[dict[str, Any]]:
        settings = "output_format_json_quote_64bit_integers = 0, date_time_output_format = 'iso'"
        text = self.execute(f"{query} SETTINGS {settings} FORMAT JSONEachRow")
        return [json.loads(line) for line in text.split("\n") if line]

    def say(self, **said: Any) -> None:
        self._said = said

    def answer(self, seen: Seen, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for one insert."""
        self.inserts.append(seen)
        headers = {"X-ClickHouse-Query-Id": seen.parameters.get("query_id", "")}
        if self._said and not self._said.get("execute"):
            return self._as_said(headers)
        names = {name.lower(): value for name, value in seen.headers.items()}
        if (names.get("x-clickhouse-user"), names.get("x-clickhouse-key")) != (USER, PASSWORD):
            return self._failed(headers, "Code: 516. DB::Exception: Authentication failed")
        query = seen.parameters["query"]
        settings = ", ".join(
            f"{name} = '{seen.parameters[name]}'" for name in PASSED_ON if name in seen.parameters
        )
        insert, _, form = query.rpartition(" FORMAT ")
        try:
            self.execute(f"{insert} SETTINGS {settings}\n{form}", body)
        except RuntimeError as error:
            return self._failed(headers, str(error))
        return self._as_said(headers)

    def _as_said(self, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        text = self._said.get("text", "")
        return self._said.get("status", 200), headers | self._said.get("headers", {}), text.encode()

    @staticmethod
    def _failed(headers: dict[str, str], text: str) -> tuple[int, dict[str, str], bytes]:
        found = CODE.search(text)
        code = int(found[1]) if found else 1002
        return STATUS.get(code, 500), headers | {"X-ClickHouse-Exception-Code": str(code)}, text.encode()


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that do not believe a certificate, and proxies that cut, are what is tested."""


def _server(owner: ClickHouse) -> _Http:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            body = self.rfile.read(size)
            if len(body) < size:  # ClickHouse inserts nothing of a body that was cut off
                return
            parameters = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            status, headers, text = owner.answer(Seen(parameters, dict(self.headers), size), body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    return _Http(("127.0.0.1", 0), Handler)


def main() -> None:
    from chdb import session

    engine: Any = session.Session(sys.argv[1])  # type: ignore[no-untyped-call] # chdb types half of itself
    for line in sys.stdin.buffer:
        query, size = json.loads(line)
        try:
            if size < 0:
                result = [True, str(engine.query(query))]
            else:
                insert, _, form = query.rpartition("\n")
                body = sys.stdin.buffer.read(size)
                with engine.send_insert(insert, form) as stream:
                    stream.append(body)
                    stream.finish()
                result = [True, ""]
        except Exception as error:  # whatever it is, it is an answer
            result = [False, str(error)]
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
