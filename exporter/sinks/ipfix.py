# SPDX-License-Identifier: Apache-2.0
"""Batches as IPFIX (RFC 7011) to a collector: docs/sinks/ipfix.md.

IPFIX has no acknowledgement. On a stream a batch is delivered when the collector's kernel has all of it
and the connection is still open; on UDP when it was sent.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable

import structlog

from exporter.batch import Batch, Origin
from exporter.label import Label
from exporter.sinks import ipfix_flows, ipfix_options, ipfix_transport
from exporter.sinks.config import Ipfix
from exporter.sinks.ipfix_message import Run

STREAM_MESSAGE = 32_768  # RFC 7011 allows 65535; a collector that passes messages on in datagrams does not
DATAGRAM_MESSAGE = 1400  # what fits the least usual path: 1500 less IPv6, UDP and a tunnel
REMEMBERED = 1 << 14  # workloads and origins that the collector was told of


class IpfixCollector:
    """Owns the transport session, which lives from batch to batch. left_out counts ownership records."""

    def __init__(self, config: Ipfix) -> None:
        self._config = config
        self._session: Session | None = None
        self.left_out = 0

    def deliver(self, batch: Batch) -> None:
        """All of it, or an OSError after timeout_seconds at most; a batch that failed comes again whole."""
        deadline = time.monotonic() + self._config.timeout_seconds
        if self._session is not None and not self._session.transport.alive():
            self._end(whole=False)
        if self._session is None:
            self._session = Session(self._config, ipfix_transport.connect(self._config, deadline))
        try:
            self._session.send_batch(batch, deadline)
        except BaseException:
            # A datagram session goes on: its sequence numbers then show what was lost.
            if self._config.transport != "udp":
                self._end(whole=False)
            raise
        self._count(batch)

    def close(self) -> None:
        self._end(whole=True)

    def _end(self, whole: bool) -> None:
        if self._session is not None:
            self._session.transport.close(whole)
            self._session = None

    def _count(self, batch: Batch) -> None:
        left_out = int((~ipfix_flows.is_flow(batch.records)).sum())
        if left_out:
            self.left_out += left_out
            structlog.get_logger().info("ipfix has no ownership records", batch=batch.key, left_out=left_out)


class Session:
    """One transport session: its sequence numbers, and what the collector was told in it."""

    def __init__(self, config: Ipfix, transport: ipfix_transport.Transport) -> None:
        self.transport = transport
        self._config = config
        self._room = config.message_bytes or (
            DATAGRAM_MESSAGE if config.transport == "udp" else STREAM_MESSAGE
        )
        self._sequence: dict[int, int] = {}
        self._told: dict[int | Origin, Label | None] = {}
        self._described_at: float | None = None
        self._since_described = 0

    def send_batch(self, batch: Batch, deadline: float) -> None:
        domain = self._config.observation_domain or domain_of(batch.origin.host_id)
        self._describe(domain, deadline)
        self._tell(batch, domain, deadline)
        for run in ipfix_flows.runs(batch, self._room):
            self._send(run, domain, deadline)
        self.transport.settle(deadline)

    def _describe(self, domain: int, deadline: float) -> None:
        """Templates and types: once, and on UDP, where they may be lost, again and again."""
        now = time.monotonic()
        if self._described_at is not None:
            old = now - self._described_at >= self._config.template_seconds
            many = self._since_described >= self._config.template_messages
            if self._config.transport != "udp" or not (old or many):
                return
            if old:
                self._told.clear()
        self._described_at, self._since_described = now, 0
        room, enterprise = self._room, self._config.enterprise
        self._send_all(ipfix_options.types(enterprise, room), self._described_in(domain), deadline)
        self._send_all(ipfix_options.options(enterprise, room), self._described_in(domain), deadline)
        self._send_all(ipfix_options.templates(enterprise, room), domain, deadline)

    def _tell(self, batch: Batch, domain: int, deadline: float) -> None:
        """Who the origin and the workloads are, unless they were told so in this session."""
        if len(self._told) > REMEMBERED:
            self._told.clear()
        new = [
            (o, label) for o, label in batch.labels.items() if label.workload and self._told.get(o) != label
        ]
        domain = self._described_in(domain)
        if batch.origin not in self._told:
            self._send_all(ipfix_options.origin(batch.origin, self._room), domain, deadline)
        self._send_all(ipfix_options.workloads(new, self._room), domain, deadline)
        self._told[batch.origin] = None
        self._told.update(new)

    def _described_in(self, domain: int) -> int:
        return domain if self._config.descriptions == "same" else 0

    def _send_all(self, runs: Iterable[Run], domain: int, deadline: float) -> None:
        if self._config.descriptions == "off" and domain == 0:
            return
        for run in runs:
            self._send(run, domain, deadline)

    def _send(self, run: Run, domain: int, deadline: float) -> None:
        burst = self.transport.burst
        for begin in range(0, len(run.data), burst):
            part = Run(run.data[begin : begin + burst], run.records)
            sequence = self._sequence.get(domain, 0)
            part.stamp(sequence, int(time.time()), domain)
            self.transport.send(part.data.reshape(-1).data, deadline)
            self._sequence[domain] = (sequence + len(part.data) * part.records) & 0xFFFFFFFF
            self._since_described += len(part.data)


def domain_of(host_id: str) -> int:
    """An observation domain for a host: collectors tell exporters behind one address by it. Never 0."""
    return zlib.crc32(host_id.encode()) or 1
