# SPDX-License-Identifier: Apache-2.0
"""[sinks.NAME] of type "otlp": where the receiver is, and what it gets."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import SplitResult, urlsplit

from bpf.error import FlowtagError
from exporter.sinks.tls import Tls

PORT = 4317  # OTLP specification, "OTLP/gRPC Default Port"
SIGNALS = ("metrics", "logs")
PEERS = ("workload", "address")
# gRPC over HTTP/2, "Custom-Metadata": the rest is gRPC's own, or bytes.
HEADER = re.compile(r"(?!grpc-)[0-9a-z_.-]{1,64}(?<!-bin)")
SECRET = ("authorization", "cookie", "proxy-authorization")


@dataclass(frozen=True, slots=True)
class Otlp:
    """type = "otlp": OpenTelemetry over gRPC. endpoint: http://HOST:PORT, or https:// for TLS.

    signals: metrics of edges, logs of flows, or both. peers: what an edge's other end is, where no workload
    of this host: all one ("workload"), or its address. server_port: whether edges to different ports of
    a server differ. max_edges: of a batch, the rest is one. headers: sent with each request;
    headers_file: more of them, one `name: value` a line, read anew for each batch.
    """

    TYPE: ClassVar[str] = "otlp"

    endpoint: str
    signals: tuple[str, ...] = ("metrics",)
    peers: str = "workload"
    server_port: bool = True
    max_edges: int = 2000
    compression: str = "gzip"
    timeout_seconds: int = 10
    headers: Mapping[str, str] = field(default_factory=dict)
    headers_file: str = ""
    tls: Tls = field(default_factory=Tls)

    def __post_init__(self) -> None:
        self._check_endpoint()
        if not self.signals or set(self.signals) - set(SIGNALS) or len(set(self.signals)) < len(self.signals):
            raise FlowtagError(f"sinks: signals is {list(self.signals)}", f"use some of {', '.join(SIGNALS)}")
        if self.peers not in PEERS:
            raise FlowtagError(f"sinks: peers is {self.peers!r}", f"use one of {', '.join(PEERS)}")
        if not 1 <= self.max_edges <= 100_000:
            raise FlowtagError(f"sinks: max_edges is {self.max_edges}", "use 1 to 100000")
        if self.compression not in ("gzip", "none"):
            raise FlowtagError(f"sinks: compression is {self.compression!r}", "use gzip or none")
        if not 1 <= self.timeout_seconds <= 120:
            raise FlowtagError(f"sinks: timeout_seconds is {self.timeout_seconds}", "use 1 to 120")
        for name, value in self.headers.items():
            check_header(name, value, f"sinks: headers has {name!r}")
            if name in SECRET:
                raise FlowtagError(
                    f"sinks: headers has {name}",
                    "put what is secret into a file, and name that by headers_file",
                )
        path = self.headers_file
        if path and not (path.startswith("/") and path.isprintable()):
            raise FlowtagError(f"sinks: headers_file is {path!r}", "use an absolute path")

    def _check_endpoint(self) -> None:
        hint = "write http://HOST:4317, or https://HOST:4317 for TLS"
        try:
            url = urlsplit(self.endpoint)
            port = url.port
        except ValueError as error:
            raise FlowtagError(f"sinks: endpoint is {self.endpoint!r}: {error}", hint) from None
        more = url.path.strip("/") or url.query or url.fragment or url.username is not None
        plain = self.endpoint.isascii() and self.endpoint.isprintable() and " " not in self.endpoint
        if url.scheme not in ("http", "https") or not url.hostname or more or port == 0 or not plain:
            raise FlowtagError(f"sinks: endpoint is {self.endpoint!r}", hint)
        if url.scheme == "http":
            if self.tls != Tls():
                raise FlowtagError(
                    f"sinks: endpoint is {self.endpoint!r}, and tls is set", "write https:// for TLS"
                )
            if self.headers_file and not _is_here(url):
                raise FlowtagError(
                    f"sinks: headers_file would go in clear to {self.endpoint!r}", "write https:// for TLS"
                )

    @property
    def secure(self) -> bool:
        return self.endpoint.startswith("https:")

    @property
    def authority(self) -> str:
        """HOST:PORT, as gRPC resolves it and as the certificate must name it."""
        url = urlsplit(self.endpoint)
        host = url.hostname or ""
        return f"[{host}]:{url.port or PORT}" if ":" in host else f"{host}:{url.port or PORT}"


def _is_here(url: SplitResult) -> bool:
    """Whether what is sent stays on this host."""
    host = url.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_header(name: str, value: str, where: str) -> None:
    """FlowtagError, which shows neither, if gRPC would refuse it."""
    if not HEADER.fullmatch(name):
        raise FlowtagError(f"{where}: no name of a header", "use a-z, 0-9, -, _ and .; no grpc-*, no *-bin")
    if not (value.isascii() and value.isprintable() and value):
        raise FlowtagError(f"{where}: the value is empty, or not printable ASCII")
