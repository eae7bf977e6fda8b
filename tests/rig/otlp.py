# SPDX-License-Identifier: Apache-2.0
"""An OTLP receiver over gRPC, of the official protobufs: keeps what it is sent, and fails on demand.

    with Receiver() as receiver:                     # Receiver(port=N, pair=..., client_ca=...)
        receiver.endpoint                            # http://127.0.0.1:PORT, or https://
        receiver.answers += [Fail(StatusCode.UNAVAILABLE, retry_after=2.0), Partial(3, "no"), Hang(5)]
        receiver.calls                               # every request that came, the failed ones too
        receiver.log_records(), receiver.points("network.flow.io")     # of those that were accepted

Each call takes the next of `answers`; without one it is accepted. opentelemetry-proto has no servicers of
its own any more, so methods are registered by their names; messages are those of the package.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint, Metric, NumberDataPoint

from tests.rig.tls import Pair

Request = logs_service_pb2.ExportLogsServiceRequest | metrics_service_pb2.ExportMetricsServiceRequest
Point = NumberDataPoint | HistogramDataPoint


@dataclass(frozen=True, slots=True)
class Fail:
    """An error status; with a RetryInfo in its details if retry_after is given."""

    code: grpc.StatusCode
    retry_after: float | None = None
    text: str = "on demand"


@dataclass(frozen=True, slots=True)
class Partial:
    """Accepted but for so many of it."""

    rejected: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer for so long; then it is accepted."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Call:
    """A request with its headers, and whether it was accepted."""

    signal: str
    request: Request
    metadata: dict[str, str]
    accepted: bool
    size: int


class Receiver:
    """Owns the server. pair: its certificate; client_ca: mutual TLS, with clients that it signed;
    most_bytes: of a request, as receivers limit it.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        pair: Pair | None = None,
        client_ca: bytes | None = None,
        most_bytes: int = 4 << 20,
    ) -> None:
        self.calls: list[Call] = []
        self.answers: list[Fail | Partial | Hang] = []
        self._lock = threading.Lock()
        self._server = grpc.server(
            ThreadPoolExecutor(4),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", most_bytes)],
        )
        self._server.add_generic_rpc_handlers(
            (
                self._handler("logs", logs_service_pb2.ExportLogsServiceRequest, self._logs),
                self._handler("metrics", metrics_service_pb2.ExportMetricsServiceRequest, self._metrics),
            )
        )
        address = f"127.0.0.1:{port}"
        if pair is None:
            self.port: int = self._server.add_insecure_port(address)
        else:
            credentials = grpc.ssl_server_credentials(
                [(pair.key.read_bytes(), pair.certificate.read_bytes())], client_ca, client_ca is not None
            )
            self.port = self._server.add_secure_port(address, credentials)
        self.endpoint = f"{'https' if pair else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()

    def log_records(self) -> list[LogRecord]:
        return [
            record
            for call in self.calls
            if call.accepted and isinstance(call.request, logs_service_pb2.ExportLogsServiceRequest)
            for resource in call.request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def metrics(self) -> list[Metric]:
        return [
            metric
            for call in self.calls
            if call.accepted and isinstance(call.request, metrics_service_pb2.ExportMetricsServiceRequest)
            for resource in call.request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    def points(self, name: str) -> list[Point]:
        return [
            point
            for metric in self.metrics()
            if metric.name == name
            for point in (*metric.sum.data_points, *metric.histogram.data_points)
        ]

    def _handler(
        self, signal: str, kind: type[Request], method: Callable[[Any, grpc.ServicerContext], Any]
    ) -> grpc.GenericRpcHandler:
        export = grpc.unary_unary_rpc_method_handler(
            method, kind.FromString, lambda response: response.SerializeToString()
        )
        service = f"opentelemetry.proto.collector.{signal}.v1.{signal.capitalize()}Service"
        return grpc.method_handlers_generic_handler(service, {"Export": export})

    def _logs(
        self, request: logs_service_pb2.ExportLogsServiceRequest, context: grpc.ServicerContext
    ) -> logs_service_pb2.ExportLogsServiceResponse:
        partial = self._take("logs", request, context)
        response = logs_service_pb2.ExportLogsServiceResponse()
        if partial:
            response.partial_success.rejected_log_records = partial.rejected
            response.partial_success.error_message = partial.message
        return response

    def _metrics(
        self, request: metrics_service_pb2.ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        partial = self._take("metrics", request, context)
        response = metrics_service_pb2.ExportMetricsServiceResponse()
        if partial:
            response.partial_success.rejected_data_points = partial.rejected
            response.partial_success.error_message = partial.message
        return response

    def _take(self, signal: str, request: Request, context: grpc.ServicerContext) -> Partial | None:
        with self._lock:
            answer = self.answers.pop(0) if self.answers else None
            headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
            accepted = not isinstance(answer, Fail)
            self.calls.append(Call(signal, request, headers, accepted, request.ByteSize()))
        if isinstance(answer, Fail):
            if answer.retry_after is not None:
                context.set_trailing_metadata((("grpc-status-details-bin", _details(answer)),))
            context.abort(answer.code, answer.text)
        if isinstance(answer, Hang):
            time.sleep(answer.seconds)
        return answer if isinstance(answer, Partial) else None


def _details(answer: Fail) -> bytes:
    info = RetryInfo()
    info.retry_delay.FromNanoseconds(int((answer.retry_after or 0) * 1e9))
    status = Status(code=answer.code.value[0], message=answer.text)
    status.details.add().Pack(info)
    details: bytes = status.SerializeToString()
    return details


def value(any_value: AnyValue) -> Any:
    """As Python has it."""
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(item) for item in any_value.array_value.values]
    return getattr(any_value, kind) if kind else None


def attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """By key; AssertionError for one that is there twice."""
    found: dict[str, Any] = {}
    for pair in pairs:
        assert pair.key not in found, pair.key
        found[pair.key] = value(pair.value)
    return found
