# SPDX-License-Identifier: Apache-2.0
"""What is configured, as one typed value: a section for each concern. config_file.py reads it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from bpf import abi
from bpf.error import FlowtagError
from exporter.sinks import config as sink_config
from identity import address, instance, nat64, port_block
from identity.certificate import Certificate
from identity.instance import Static
from identity.instance_document import Document


@dataclass(frozen=True, slots=True)
class Host:
    """[host] where things are on this host, and what its engines are called.

    engine_roots: more first-level cgroups whose children are containers, beside the well-known ones.
    activators: process names (comm, 15 bytes) that listen for others; their listeners are nobody's.
    host_network_containers: false promises that no container uses the host's network, so that a host
    whose containers have no cgroup v2 may still call its own sockets its own.
    """

    pin_directory: str = abi.PIN_DIRECTORY
    run_directory: str = "/run/flowtag"
    engine_roots: tuple[str, ...] = ()
    activators: tuple[str, ...] = (
        "dockerd",
        "docker-proxy",
        "containerd",
        "crio",
        "podman",
        "conmon",
        "rootlessport",
    )
    host_network_containers: bool = True

    def __post_init__(self) -> None:
        for key in ("pin_directory", "run_directory"):
            path = getattr(self, key)
            # The hook's settings are lines.
            if not path.startswith("/") or not path.isprintable():
                raise FlowtagError(f"host.{key} is {path!r}", "use an absolute path")
        for name in self.engine_roots:
            if not 0 < len(name.encode()) < abi.ROOT.size - 8 or "/" in name:
                raise FlowtagError(
                    f"host.engine_roots has {name!r}", "use the names of first-level cgroups, 1 to 31 bytes"
                )
        for name in self.activators:
            if not 0 < len(name.encode()) < abi.COMM_LEN:
                raise FlowtagError(
                    f"host.activators has {name!r}", "use process names (/proc/PID/comm), 1 to 15 bytes"
                )


@dataclass(frozen=True, slots=True)
class Exporter:
    """[exporter] the ring between kernel and exporter.

    ring_bytes: a power of two; used when the ring is created. drain_ms: how often it is read.
    interim_seconds: how often open flows and idle owners are told of, by the wall clock; 0: never.
    """

    ring_bytes: int = 16 << 20
    drain_ms: int = 100
    interim_seconds: int = 60

    def __post_init__(self) -> None:
        if not 4096 <= self.ring_bytes <= 1 << 30 or self.ring_bytes & (self.ring_bytes - 1):
            raise FlowtagError(
                f"exporter.ring_bytes is {self.ring_bytes}", "use a power of two from 4096 to 2^30"
            )
        if not 1 <= self.drain_ms <= 60_000:
            raise FlowtagError(f"exporter.drain_ms is {self.drain_ms}", "use 1 to 60000")
        if not 0 <= self.interim_seconds <= 3600:
            raise FlowtagError(f"exporter.interim_seconds is {self.interim_seconds}", "use 0 to 3600")


@dataclass(frozen=True, slots=True)
class Translation:
    """[translation] IPv6 to IPv4: docs/translation.md.

    shared_addresses: those of which a container may have ports, by annotation. nat64_prefixes: inside
    them a peer's address is also reported as the IPv4 address that it stands for.
    publication_seconds: how long a publication waits for its socket to connect.
    """

    shared_addresses: tuple[str, ...] = ()
    nat64_prefixes: tuple[str, ...] = (nat64.WELL_KNOWN,)
    publication_seconds: int = 300

    def __post_init__(self) -> None:
        for text in self.shared_addresses:
            try:
                port_block.require_unique(address.from_text(text))
            except ValueError as error:
                raise FlowtagError(f"translation.shared_addresses: {error}", "write 192.0.2.1") from None
        for text in self.nat64_prefixes:
            nat64.parse(text)
        if not 1 <= self.publication_seconds <= 86_400:
            raise FlowtagError(
                f"translation.publication_seconds is {self.publication_seconds}", "use 1 to 86400"
            )


@dataclass(frozen=True, slots=True)
class Identity:
    """[identity] who this host is (docs/ec2.md), and where names and labels come from, beside what the hook
    wrote (docs/identity.md).

    order: the sources of the host's identity, the best first, ending with hostname; `document` asks the
    metadata service, so it is not in it until named. stale_seconds: how long an identity stands that its
    source does not confirm any more. poll_seconds: how often to look where no change is announced.
    docker: "auto" is /run/docker.sock, whenever that is there; "off"; or the path of the API's socket.
    podman: "auto" is /var/lib/containers/storage; "off"; or the path of another storage.
    app_labels: a tenant's labels that may set `app`, the first that is there; none unless named here.
    kubernetes: "auto" is the pod's own ServiceAccount, where flowtag runs in a pod; "off"; or the path of a
    kubeconfig. kubernetes_node: this node's name; empty is NODE_NAME, else the host's name.
    """

    docker: str = "auto"
    podman: str = "auto"
    app_labels: tuple[str, ...] = ()
    kubernetes: str = "auto"
    kubernetes_node: str = ""
    order: tuple[str, ...] = ("certificate", "static", "hostname")
    stale_seconds: int = 3600
    poll_seconds: int = 10
    certificate: Certificate = field(default_factory=Certificate)
    document: Document = field(default_factory=Document)
    static: Static = field(default_factory=Static)

    def __post_init__(self) -> None:
        unknown = [name for name in self.order if name not in instance.SOURCES]
        if unknown or len(set(self.order)) != len(self.order) or self.order[-1:] != ("hostname",):
            raise FlowtagError(
                f"identity.order is {list(self.order)}",
                f"use some of {', '.join(instance.SOURCES)}, each once, hostname at the end",
            )
        if not 0 <= self.stale_seconds <= 30 * 86_400:
            raise FlowtagError(f"identity.stale_seconds is {self.stale_seconds}", "use 0 to 2592000")
        if not 1 <= self.poll_seconds <= 3600:
            raise FlowtagError(f"identity.poll_seconds is {self.poll_seconds}", "use 1 to 3600")
        for key in ("docker", "podman", "kubernetes"):
            value = getattr(self, key)
            if value not in ("auto", "off") and not (value.startswith("/") and value.isprintable()):
                raise FlowtagError(f"identity.{key} is {value!r}", 'use "auto", "off" or an absolute path')
        if "" in self.app_labels:
            raise FlowtagError("identity.app_labels has an empty key", "use keys of labels")


@dataclass(frozen=True, slots=True)
class Spool:
    """[spool] records on disk until every sink has them, and as long as people may read them: docs/spool.md.

    enabled: false, and no sink configured, leaves `--output` the only way out. max_bytes: of the
    directory's files; min_free_bytes: what its file system must have left. Beyond either the oldest
    records are dropped, and counted. keep_seconds: how long what every sink has stays there for `flowtag
    flows`, room permitting; 0: not at all. stop_seconds: how long sinks may take at the end.
    """

    enabled: bool = False
    directory: str = "/var/lib/flowtag/spool"
    max_bytes: int = 1 << 30
    min_free_bytes: int = 256 << 20
    keep_seconds: int = 3600
    stop_seconds: int = 5

    def __post_init__(self) -> None:
        if not self.directory.startswith("/") or not self.directory.isprintable():
            raise FlowtagError(f"spool.directory is {self.directory!r}", "use an absolute path")
        if self.max_bytes < 1 << 20:
            raise FlowtagError(f"spool.max_bytes is {self.max_bytes}", "use 1048576 or more")
        if self.min_free_bytes < 0:
            raise FlowtagError(f"spool.min_free_bytes is {self.min_free_bytes}", "use 0 or more")
        if not 0 <= self.keep_seconds <= 86_400:
            raise FlowtagError(f"spool.keep_seconds is {self.keep_seconds}", "use 0 to 86400")
        if not 0 <= self.stop_seconds <= 60:
            raise FlowtagError(f"spool.stop_seconds is {self.stop_seconds}", "use 0 to 60")


@dataclass(frozen=True, slots=True)
class Metrics:
    """[metrics] numbers for Prometheus. listen: ADDRESS:PORT of an HTTP server; empty: none."""

    listen: str = ""

    def __post_init__(self) -> None:
        if self.listen:
            try:
                endpoint(self.listen)
            except ValueError:
                raise FlowtagError(
                    f"metrics.listen is {self.listen!r}",
                    "use an address and a port: 127.0.0.1:9464, [::1]:9464",
                ) from None


def endpoint(text: str) -> tuple[str, int]:
    """Address and port of ADDRESS:PORT or [ADDRESS]:PORT; ValueError for all else."""
    host, _, port = text.rpartition(":")
    number = int(port)
    if not 0 < number < 65536 or not port.isascii():
        raise ValueError(port)
    return str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))), number


@dataclass(frozen=True, slots=True)
class Config:
    """What is in force. Sections are named after each folder's concern."""

    host: Host = field(default_factory=Host)
    exporter: Exporter = field(default_factory=Exporter)
    translation: Translation = field(default_factory=Translation)
    identity: Identity = field(default_factory=Identity)
    metrics: Metrics = field(default_factory=Metrics)
    spool: Spool = field(default_factory=Spool)
    sinks: dict[str, sink_config.Sink] = field(default_factory=dict)

    @property
    def spooled(self) -> bool:
        """Whether records go to the spool first, and to sinks from there."""
        return self.spool.enabled or bool(self.sinks)
