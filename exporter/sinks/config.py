# SPDX-License-Identifier: Apache-2.0
"""[sinks.NAME]: where batches go. Its `type` says which kind it is, and so which keys it has."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

from bpf.error import FlowtagError
from exporter.sinks.tls import Tls

NAME = re.compile(r"[a-z0-9-]{1,24}")  # a part of a mark's file name
RESERVED = ("spool",)  # what the spool calls itself where it has no sink


def _absolute(name: str, path: str) -> None:
    if not path.startswith("/") or not path.isprintable():
        raise FlowtagError(f"sinks: {name} is {path!r}", "use an absolute path")


@dataclass(frozen=True, slots=True)
class Json:
    """type = "json": JSON lines. path: a file, or "-" for standard output.

    rotate_bytes: a file that has grown to this becomes path.1, and so on; keep: how many of those stay.
    """

    TYPE: ClassVar[str] = "json"

    path: str
    rotate_bytes: int = 256 << 20
    keep: int = 4

    def __post_init__(self) -> None:
        if self.path != "-":
            _absolute("path", self.path)
        if self.rotate_bytes < 1 << 16:
            raise FlowtagError(f"sinks: rotate_bytes is {self.rotate_bytes}", "use 65536 or more")
        if not 1 <= self.keep <= 1000:
            raise FlowtagError(f"sinks: keep is {self.keep}", "use 1 to 1000")


@dataclass(frozen=True, slots=True)
class Parquet:
    """type = "parquet": one file a batch, in directory/date=YYYY-MM-DD/hour=HH/."""

    TYPE: ClassVar[str] = "parquet"

    directory: str

    def __post_init__(self) -> None:
        _absolute("directory", self.directory)


@dataclass(frozen=True, slots=True)
class Ipfix:
    """type = "ipfix": RFC 7011 to the collector `host`, over transport tcp, tls or udp.

    port 0: 4739, of tls 4740. enterprise: the private enterprise number of our own elements.
    observation_domain 0: made of the host id. descriptions: the observation domain in which types, origins
    and workloads are told: "zero", "same" as the flows' or "off". message_bytes 0: 32768, in datagrams 1400.
    template_seconds, template_messages: how often templates are sent again on UDP; messages_per_second:
    how fast it may go there. timeout_seconds: for one batch.
    """

    TYPE: ClassVar[str] = "ipfix"

    host: str
    port: int = 0
    transport: str = "tcp"
    enterprise: int = 32473  # RFC 5612: for documentation; none is assigned to flowtag
    observation_domain: int = 0
    descriptions: str = "zero"
    message_bytes: int = 0
    template_seconds: int = 60
    template_messages: int = 1000
    messages_per_second: int = 5000
    timeout_seconds: int = 60
    tls: Tls = field(default_factory=Tls)

    @property
    def used_port(self) -> int:
        return self.port or (4740 if self.transport == "tls" else 4739)

    def __post_init__(self) -> None:
        if not self.host or not self.host.isprintable() or " " in self.host:
            raise FlowtagError(f"sinks: host is {self.host!r}", "use a name or an address")
        for name, texts in (("transport", ("tcp", "tls", "udp")), ("descriptions", ("zero", "same", "off"))):
            if getattr(self, name) not in texts:
                raise FlowtagError(
                    f"sinks: {name} is {getattr(self, name)!r}", f"use one of {', '.join(texts)}"
                )
        if self.tls != Tls() and self.transport != "tls":
            raise FlowtagError(
                f"sinks: tls is set, and transport is {self.transport}", 'use transport = "tls"'
            )
        for name, least, most in (
            ("port", 0, 65535),
            ("enterprise", 1, (1 << 32) - 1),
            ("observation_domain", 0, (1 << 32) - 1),
            ("template_seconds", 1, 86_400),
            ("template_messages", 10, 1_000_000),
            ("messages_per_second", 10, 1_000_000),
            ("timeout_seconds", 1, 3600),
        ):
            if not least <= getattr(self, name) <= most:
                raise FlowtagError(f"sinks: {name} is {getattr(self, name)}", f"use {least} to {most}")
        if self.message_bytes and not 1200 <= self.message_bytes <= 65535:
            raise FlowtagError(f"sinks: message_bytes is {self.message_bytes}", "use 0, or 1200 to 65535")


Sink = Json | Parquet | Ipfix
KINDS: dict[str, type[Sink]] = {kind.TYPE: kind for kind in (Json, Parquet, Ipfix)}
