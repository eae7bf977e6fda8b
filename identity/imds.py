# SPDX-License-Identifier: Apache-2.0
"""The instance metadata service, version 2 only: a token by PUT, then what is asked for by GET.

Source: Amazon EC2 User Guide, 'Use the Instance Metadata Service'. No proxy, no redirect, no name
look-up, no version 1; every answer is bounded in size, and all of a session in time.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
import urllib.parse
from io import BytesIO
from types import TracebackType

from bpf.error import FlowtagError
from identity.instance import UNREACHABLE, Refused

TOKEN_SECONDS = 60
ANSWER_MAX = 1 << 16
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z0-9+/=_-]{1,512}")


def endpoint(url: str) -> tuple[str, int]:
    """Address and port of `http://ADDRESS[:PORT]`; FlowtagError for names, paths and other schemes."""
    hint = "use http://169.254.169.254 or http://[fd00:ec2::254]"
    try:
        parts = urllib.parse.urlsplit(url)
        address, port = ipaddress.ip_address(parts.hostname or ""), parts.port or 80
    except ValueError:
        raise FlowtagError(f"{url!r} is no endpoint of the metadata service", hint) from None
    if parts.scheme != "http" or parts.path not in ("", "/") or parts.query or "@" in parts.netloc:
        raise FlowtagError(f"{url!r} is no endpoint of the metadata service", hint)
    return str(address), port


class Session:
    """Look-ups with one token, all within `seconds`. A context manager; Refused where there is no answer."""

    def __init__(self, url: str, seconds: float) -> None:
        self._address = endpoint(url)
        self._url = url
        self._deadline = time.monotonic() + seconds
        self._token = ""

    def __enter__(self) -> Session:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
        token = self._ask("PUT", "/latest/api/token", headers).decode("ascii", "replace")
        if not _TOKEN.fullmatch(token):
            raise self._refused("its token is none")
        self._token = token
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._token = ""

    def get(self, path: str) -> bytes:
        """What is at /latest/`path`."""
        return self._ask("GET", f"/latest/{path}", {"X-aws-ec2-metadata-token": self._token})

    def _refused(self, cause: str) -> Refused:
        return Refused(
            UNREACHABLE,
            f"asking the metadata service at {self._url}: {cause}",
            "is this an EC2 instance with IMDSv2 on? in a container the hop limit must be 2",
        )

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> bytes:
        import http.client  # slow to import, and every command reads the configuration

        try:
            answer = self._exchange(method, path, headers)
            response = http.client.HTTPResponse(_Received(answer), method=method)  # type: ignore[arg-type] # asks for makefile()
            response.begin()
            body = response.read(ANSWER_MAX + 1)
        except TimeoutError:
            raise self._refused("no answer in time") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise self._refused(str(cause)[:200]) from None
        if response.status != 200:
            raise self._refused(f"{method} {path} answered {response.status}")
        if len(body) > ANSWER_MAX:
            raise self._refused(f"{path} is larger than {ANSWER_MAX} bytes")
        return body

    def _exchange(self, method: str, path: str, headers: dict[str, str]) -> bytes:
        """One request on a connection of its own; all bytes of the answer."""
        host = self._address[0] if "." in self._address[0] else f"[{self._address[0]}]"
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", "Content-Length: 0"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        answer = b""
        with socket.create_connection(self._address, self._left()) as connection:
            connection.settimeout(self._left())
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
            while not _whole(answer):
                connection.settimeout(self._left())
                more = connection.recv(1 << 14)
                if not more:
                    break
                answer += more
                if len(answer) > 2 * ANSWER_MAX:
                    raise ValueError(f"an answer of more than {2 * ANSWER_MAX} bytes")
        return answer


def _whole(answer: bytes) -> bool:
    """Whether all that the answer's length promises is there; without one, its end tells."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head + b"\r\n") if separator else None
    return length is not None and len(body) >= int(length[1])


class _Received:
    """What http.client wants of a socket, once all has come."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def makefile(self, mode: str) -> BytesIO:
        return BytesIO(self._answer)
