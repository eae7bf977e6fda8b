# SPDX-License-Identifier: Apache-2.0
"""What a gRPC status means for a request: again later, or never again.

Source: OTLP specification, "Failures" and "OTLP/gRPC Throttling".
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

RETRYABLE = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
# Not by that table, which would drop what is sent while a token is expired: somebody mends it.
MENDABLE = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
THROTTLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})
LONGEST_WAIT = 600.0  # a receiver's mistake must not stop us for ever
TEXT = 300  # characters of what the other end says


@dataclass(frozen=True, slots=True)
class Verdict:
    """text: the code and what the receiver said. wait: seconds that it asked for, else 0."""

    again: bool
    text: str
    wait: float = 0.0


def judge(error: grpc.RpcError) -> Verdict:
    code = error.code()
    text = f"{code.name}: {shorten(error.details() or '')}"
    wait = _asked(error) if code in THROTTLE else None
    return Verdict(code in RETRYABLE | MENDABLE or wait is not None, text, min(wait or 0.0, LONGEST_WAIT))


def shorten(text: str) -> str:
    """What the other end says, as one printable line."""
    return "".join(c if c.isprintable() else " " for c in text[:TEXT])


def _asked(error: grpc.RpcError) -> float | None:
    """The delay of a RetryInfo in the status' details, if there is one."""
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        try:
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Unpack(info):
                    return max(0.0, float(info.retry_delay.ToNanoseconds()) / 1e9)
        except DecodeError:
            return None
    return None
