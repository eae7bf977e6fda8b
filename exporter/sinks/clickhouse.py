# SPDX-License-Identifier: Apache-2.0
"""Batches into a ClickHouse table, each by one INSERT over HTTP: docs/sinks/clickhouse.md.

The body is an Arrow stream, compressed inside. The batch's key is the insert's deduplication token, so that
a batch that comes again is once in the table, and the query's id, so that it cannot come again while
the first attempt still runs. A connection is made for each batch: ClickHouse closes idle ones long
before the next minute.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlencode, urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import BaseHTTPResponse

from bpf.error import FlowtagError
from exporter import record_table
from exporter.batch import Batch
from exporter.sinks import arrow_stream, secret, tls
from exporter.sinks.config import ClickHouse
from exporter.sinks.sink import RefusedError

PORTS = {"http": 8123, "https": 8443}
ANSWER_BYTES = 1 << 12  # what of an answer is read: an insert's is empty, an error's first line says all
# What a table's owner wrote down as never to be let in: VIOLATED_CONSTRAINT, throwIf(). All other errors
# can be mended at the server, so that the same batch passes.
REFUSED = ("469", "395")
CODE = "X-ClickHouse-Exception-Code"


class ClickHouseTable:
    """Owns nothing between batches."""

    def __init__(self, config: ClickHouse) -> None:
        self._config = config

    def deliver(self, batch: Batch) -> None:
        """In the table, as far as one INSERT says so; FlowtagError, OSError, urllib3's HTTPError if not."""
        headers = {
            "X-ClickHouse-User": self._config.username,
            "Content-Type": "application/octet-stream",
            "User-Agent": "flowtag",
        }
        if self._config.password_file:
            headers["X-ClickHouse-Key"] = secret.read(self._config.password_file)
        body = arrow_stream.encode(batch)
        with self._connection() as connection:
            connection.request("POST", self._path(batch.key), body, headers, preload_content=False)
            answer = connection.getresponse()
            text = answer.read(ANSWER_BYTES).decode("utf-8", "replace")
        self._judge(answer, text)

    def close(self) -> None:
        """Nothing is open."""

    def _path(self, key: str) -> str:
        columns = ", ".join(record_table.SCHEMA.names)
        table = f"{self._config.database}.{self._config.table}"
        return "/?" + urlencode(
            {
                "query": f"INSERT INTO {table} ({columns}) FORMAT ArrowStream",
                "query_id": key,
                "insert_deduplication_token": key,
                "async_insert": 0,  # else the answer may come before the table has it
                "wait_end_of_query": 1,  # the status is that of the whole insert
            }
        )

    @contextlib.contextmanager
    def _connection(self) -> Iterator[HTTPConnection]:
        """Cut when the time is over, whatever the other end does: a socket's own timeout begins anew with
        every byte."""
        seconds = self._config.timeout_seconds
        url = urlsplit(self._config.url)
        host, port = url.hostname or "", url.port or PORTS[url.scheme]
        if url.scheme == "https":
            connection: HTTPConnection = HTTPSConnection(
                host, port, timeout=seconds, ssl_context=tls.context(self._config.tls)
            )
        else:
            connection = HTTPConnection(host, port, timeout=seconds)
        over = threading.Event()

        def cut() -> None:
            over.set()
            if isinstance(connection.sock, socket.socket):
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(
                        connection.sock, socket.SHUT_RDWR
                    )  # SSLSocket's own is not for threads

        watch = threading.Timer(seconds, cut)
        watch.daemon = True
        watch.start()
        try:
            connection.connect()
            if over.is_set():
                raise TimeoutError
            yield connection
        except Exception as error:
            if over.is_set():
                raise FlowtagError(
                    f"inserting into ClickHouse at {self._config.url}: over {seconds} s"
                ) from error
            raise
        finally:
            watch.cancel()
            connection.close()

    def _judge(self, answer: BaseHTTPResponse, text: str) -> None:
        """ClickHouse has it: 200, no exception, and nothing said; a proxy's page is not ClickHouse."""
        code = answer.headers.get(CODE, "")
        if answer.status == 200 and not code and not text:
            return
        first = " ".join(text.split())[:500]
        where = f"inserting into ClickHouse at {self._config.url}"
        message = f"{where}: HTTP {answer.status}: {first or code or 'no reason'}"
        raise RefusedError(message) if code in REFUSED else FlowtagError(message)
