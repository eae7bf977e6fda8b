# SPDX-License-Identifier: Apache-2.0
"""Batches to an OTLP receiver over gRPC: metrics of edges, logs of flows, in requests of bounded size.

Requests go one after the other. What the receiver has acknowledged of a batch is remembered, so the next
attempt begins behind it; only a process that dies between forgets it, and sends the whole batch again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

# Else gRPC's core writes of every failed handshake to standard error, what the status says as well. Read when
# it is imported, so before any of our modules that import it.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import structlog

from bpf.error import FlowtagError
from exporter.batch import Batch
from exporter.sinks import otlp_edges, otlp_logs, otlp_metrics, otlp_status
from exporter.sinks.otlp_channel import Receiver, Response, open_receiver
from exporter.sinks.otlp_config import SIGNALS, Otlp
from exporter.sinks.sink import RefusedError

LIMIT = 4 << 20  # bytes of a request before compression: OTLP specification, "OTLP/gRPC Request"


@dataclass(slots=True)
class Counts:
    """Since the start. rejected_*: what a receiver took for bad, by partial success or by status;
    edges_overflowed: edges beyond max_edges; throttled: how often a receiver asked for a pause.
    """

    requests: int = 0
    rejected_data_points: int = 0
    rejected_log_records: int = 0
    edges_overflowed: int = 0
    throttled: int = 0


@dataclass(slots=True)
class Progress:
    """Of one batch: by signal the edge or row behind the last that has an answer, and how many data
    points and log records were taken, and not taken. reason: why, the last that the receiver gave.
    overflow: edges beyond max_edges.
    """

    batch: tuple[str, int]
    done: dict[str, int] = field(default_factory=dict)
    accepted: int = 0
    rejected: int = 0
    reason: str = ""
    overflow: int = 0


class OtlpReceiver:
    """Owns nothing between batches but what it remembers."""

    def __init__(self, config: Otlp) -> None:
        self.counts = Counts()
        self._config = config
        self._progress = Progress(("", 0))
        self._not_before = 0.0  # monotonic

    def deliver(self, batch: Batch) -> None:
        """Every request has an answer that is final. RefusedError if the receiver took nothing at all."""
        wait = self._not_before - time.monotonic()
        if wait > 0:
            raise FlowtagError(f"{self._config.endpoint} asked for a pause, {wait:.0f} s are left")
        progress = self._progress
        if progress.batch != (batch.key, len(batch.records)):
            progress = self._progress = Progress((batch.key, len(batch.records)))
        with open_receiver(self._config) as receiver:
            for signal in filter(self._config.signals.__contains__, SIGNALS):
                for request, end, items in self._requests(signal, batch, progress.done.get(signal, 0)):
                    self._send(receiver, signal, request, items)
                    progress.done[signal] = end
        self.counts.edges_overflowed += progress.overflow
        if progress.rejected:
            self._tell(batch, progress)

    def close(self) -> None:
        """Nothing is open."""

    def _requests(self, signal: str, batch: Batch, begin: int) -> Iterator[tuple[bytes, int, int]]:
        config = self._config
        if signal == "logs":
            return otlp_logs.requests(batch, begin, LIMIT)
        sums = otlp_edges.sums(batch, config.peers, config.server_port, config.max_edges)
        self._progress.overflow = sums.overflow
        return otlp_metrics.requests(batch, sums, begin, LIMIT)

    def _send(self, receiver: Receiver, signal: str, request: bytes, items: int) -> None:
        self.counts.requests += 1
        try:
            response = receiver.export(signal, request)
        except grpc.RpcError as error:
            verdict = otlp_status.judge(error)
            if verdict.again:
                if verdict.wait:
                    self.counts.throttled += 1
                    self._not_before = time.monotonic() + verdict.wait
                raise FlowtagError(f"sending {signal} to {self._config.endpoint}: {verdict.text}") from None
            self._count(signal, items, items, verdict.text)
        else:
            self._count(signal, items, *_partial(response, items))

    def _count(self, signal: str, items: int, rejected: int, reason: str) -> None:
        progress = self._progress
        progress.accepted += items - rejected
        progress.rejected += rejected
        progress.reason = reason or progress.reason
        if signal == "logs":
            self.counts.rejected_log_records += rejected
        else:
            self.counts.rejected_data_points += rejected

    def _tell(self, batch: Batch, progress: Progress) -> None:
        if not progress.accepted:
            raise RefusedError(f"{self._config.endpoint} took nothing of it: {progress.reason}")
        structlog.get_logger().error(
            "receiver rejected a part of a batch",
            endpoint=self._config.endpoint,
            batch=batch.key,
            accepted=progress.accepted,
            rejected=progress.rejected,
            reason=progress.reason,
        )


def _partial(response: Response, items: int) -> tuple[int, str]:
    """How many were rejected, and why; a message without any is a hint that nobody asked for."""
    partial = response.partial_success
    rejected = (
        partial.rejected_log_records
        if hasattr(partial, "rejected_log_records")
        else partial.rejected_data_points
    )
    return min(max(0, rejected), items), otlp_status.shorten(partial.error_message)
