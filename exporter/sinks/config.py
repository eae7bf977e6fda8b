# SPDX-License-Identifier: Apache-2.0
"""[sinks.NAME]: where batches go. Its `type` says which kind it is, and so which keys it has."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import urlsplit

from bpf.error import FlowtagError
from exporter.sinks.otlp_config import Otlp
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


BROKER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
MECHANISMS = ("scram-sha-512", "scram-sha-256", "plain")
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise FlowtagError(f"sinks: {name} is {value!r}", f"use one of {', '.join(known)}")


def _between(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise FlowtagError(f"sinks: {name} is {value}", f"use {least} to {most}")


def _credentials(username: str, password_file: str) -> None:
    if not (username.isascii() and username.isprintable()):
        raise FlowtagError(f"sinks: username is {username!r}", "use printable ASCII")
    if password_file:
        _absolute("password_file", password_file)


@dataclass(frozen=True, slots=True)
class Kafka:
    """type = "kafka": a message a record (format "json"), or Arrow streams of many (format "arrow").

    brokers: HOST:PORT of some of the cluster's. transport: "tls", or "tcp" without encryption. mechanism: how
    username and password_file are proved, by SASL; without a username there is none. compression: of "json";
    Arrow streams have zstd inside. message_max_bytes: of one message, before compression.
    timeout_seconds: how long a message may take to be acknowledged.
    """

    TYPE: ClassVar[str] = "kafka"

    brokers: tuple[str, ...]
    topic: str
    format: str = "json"
    compression: str = "zstd"
    message_max_bytes: int = 1_000_000
    timeout_seconds: int = 30
    transport: str = "tls"
    tls: Tls = field(default_factory=Tls)
    mechanism: str = "scram-sha-512"
    username: str = ""
    password_file: str = ""

    def __post_init__(self) -> None:
        wrong = [broker for broker in self.brokers if not BROKER.fullmatch(broker)]
        if wrong or not self.brokers:
            raise FlowtagError(f"sinks: brokers is {list(self.brokers)}", 'use ["HOST:PORT", ...]')
        if not TOPIC.fullmatch(self.topic) or self.topic in (".", ".."):
            raise FlowtagError(f"sinks: topic is {self.topic!r}", "use 1 to 249 of A-Z, a-z, 0-9, . _ and -")
        _one_of("format", self.format, ("json", "arrow"))
        _one_of("compression", self.compression, COMPRESSIONS)
        _one_of("transport", self.transport, ("tls", "tcp"))
        _one_of("mechanism", self.mechanism, MECHANISMS)
        _between("message_max_bytes", self.message_max_bytes, 1 << 16, 1 << 26)
        _between("timeout_seconds", self.timeout_seconds, 3, 600)
        _credentials(self.username, self.password_file)
        if bool(self.username) != bool(self.password_file):
            raise FlowtagError("sinks: username needs password_file, and the other way round")
        if self.transport == "tcp" and self.tls != Tls():
            raise FlowtagError('sinks: tls has keys, and transport is "tcp"', 'use transport = "tls"')


@dataclass(frozen=True, slots=True)
class ClickHouse:
    """type = "clickhouse": inserts into a table, over HTTP. url: https://HOST:PORT or http://HOST:PORT.

    The table is docs/sinks/clickhouse.md's. timeout_seconds: how long one insert may take, with connecting.
    """

    TYPE: ClassVar[str] = "clickhouse"

    url: str
    table: str = "flows"
    database: str = "default"
    username: str = "default"
    password_file: str = ""
    timeout_seconds: int = 30
    tls: Tls = field(default_factory=Tls)

    def __post_init__(self) -> None:
        try:
            url = urlsplit(self.url)
            plain = url.scheme in ("http", "https") and url.hostname and url.port != 0
        except ValueError:
            plain = False
        if not plain or self.url != f"{url.scheme}://{url.netloc}" or "@" in url.netloc:
            raise FlowtagError(
                f"sinks: url is {self.url!r}", "use https://HOST:PORT, and username for the name"
            )
        for name in ("table", "database"):
            value = getattr(self, name)
            if not IDENTIFIER.fullmatch(value):
                raise FlowtagError(f"sinks: {name} is {value!r}", "use A-Z, a-z, 0-9 and _, no digit first")
        _credentials(self.username, self.password_file)
        _between("timeout_seconds", self.timeout_seconds, 1, 600)
        if url.scheme == "http" and self.tls != Tls():
            raise FlowtagError("sinks: tls has keys, and url begins with http:", "use https://HOST:PORT")


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


Sink = Json | Parquet | Kafka | ClickHouse | Otlp | Ipfix
KINDS: dict[str, type[Sink]] = {kind.TYPE: kind for kind in (Json, Parquet, Kafka, ClickHouse, Otlp, Ipfix)}
