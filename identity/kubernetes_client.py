# SPDX-License-Identifier: Apache-2.0
"""GET requests through the `kubernetes` client: its credentials, TLS and connections, but not its models.

RssAnon of a Python that has imported what is used here of 37.0.2 is 27 MiB, and 48 with CoreV1Api and V1Pod;
59 up to 36, which imports every model. Beside, the models raise for what they do not expect.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from identity import strict_json
from identity.kubernetes_health import Failure
from identity.oci import text
from identity.workload import fit

if TYPE_CHECKING:
    from kubernetes.client import Configuration

IN_CLUSTER = "/var/run/secrets/kubernetes.io/serviceaccount"
CHUNK = 65536
WORDS = 300  # of a stranger's explanation
# A peer that vanished is noticed after a minute, also while nothing is said.
_KEEPALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
Load = Callable[["Configuration"], None]
_NO_CREDENTIALS = "name a kubeconfig in identity.kubernetes, or run as a pod (docs/kubernetes.md)"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. connect, answer: until the connection stands, until the first byte and between two.

    list: a whole list, page by page. watch: how long one is asked to last, by chance between the two.
    first_delay, longest_delay: of the back-off.
    """

    connect: float = 5.0
    answer: float = 15.0
    list: float = 120.0
    watch: tuple[int, int] = (120, 240)
    first_delay: float = 1.0
    longest_delay: float = 60.0


def in_cluster(directory: str = IN_CLUSTER, environment: dict[str, str] | None = None) -> Load:
    """The credentials of the pod's ServiceAccount; the client reads the token again every minute."""

    def load(configuration: Configuration) -> None:
        from kubernetes.config import incluster_config

        loader = incluster_config.InClusterConfigLoader(  # type: ignore[no-untyped-call] # it has no types
            token_filename=os.path.join(directory, "token"),
            cert_filename=os.path.join(directory, "ca.crt"),
            environ=os.environ if environment is None else environment,
        )
        loader.load_and_set(configuration)  # type: ignore[no-untyped-call] # as above

    return load


def kubeconfig(path: str) -> Load:
    """The credentials of the current context of a kubeconfig file; that file is never written."""

    def load(configuration: Configuration) -> None:
        from kubernetes.config import kube_config

        kube_config.load_kube_config(  # type: ignore[no-untyped-call] # it has no types
            path, client_configuration=configuration, persist_config=False
        )

    return load


class Client:
    """One conversation: one request at a time, by one thread; `abort` may come from another.

    After a failure the credentials are read anew, and the connection is made anew: tokens, certificates and
    the server's address change.
    """

    def __init__(self, load: Load, timing: Timing) -> None:
        self._load = load
        self._timing = timing
        self._api: Any = None
        self._response: Any = None
        self._aborted = threading.Event()

    @contextmanager
    def get(
        self,
        path: str,
        query: dict[str, str],
        whole: float,
        silence: float | None = None,
        accept: str = "application/json",
    ) -> Iterator[Iterator[bytes]]:
        """The body's bytes as they come; a Failure for other answers, for none, and for what the body raises.

        whole: seconds for all of it; silence: seconds between two bytes, once the answer has begun.
        """
        try:
            response = self._request(path, query, accept)
            try:
                sock = getattr(response.connection, "sock", None)
                if sock is not None:
                    sock.settimeout(silence or self._timing.answer)
                self._response = response
                if self._aborted.is_set():
                    raise Failure("closed", "flowtag ends")
                if response.status != 200:
                    raise _refusal(response)
                yield self._chunks(response, whole)
            finally:
                self._response = None
                response.close()
        except Failure as failure:
            if failure.kind not in ("http_403", "http_404", "http_410"):
                self.reset()
            raise
        except Exception as error:
            self.reset()
            raise _failure(error) from error

    def _request(self, path: str, query: dict[str, str], accept: str) -> Any:
        try:
            if self._api is None:
                self._api = self._connect()
            request = self._api.param_serialize(
                "GET",
                path,
                query_params=list(query.items()),
                header_params={"Accept": accept},
                auth_settings=["BearerToken"],  # reads the token anew when a minute has passed
            )
        except Exception as error:
            raise Failure("credentials", _words(error), hint=_NO_CREDENTIALS) from error
        timeout = (self._timing.connect, self._timing.answer)
        return self._api.call_api(*request, _request_timeout=timeout).response

    def _connect(self) -> Any:
        from kubernetes.client import ApiClient, Configuration

        configuration = Configuration()
        # The client's own retries sleep as long as the server says, where nothing can wake them.
        configuration.retries = False
        configuration.socket_options = _KEEPALIVE
        self._load(configuration)
        client = ApiClient(configuration)
        client.user_agent = "flowtag"
        return client

    def _chunks(self, response: Any, whole: float) -> Iterator[bytes]:
        end = time.monotonic() + whole
        while chunk := response.read1(CHUNK):
            yield chunk
            if time.monotonic() > end:
                raise Failure("slow", f"the answer was not whole after {whole:.0f} s")

    def reset(self) -> None:
        """Forget connection and credentials."""
        api, self._api = self._api, None
        if api is not None:
            api.close()

    def abort(self) -> None:
        """End the request that another thread waits for, and every later one."""
        self._aborted.set()
        response = self._response
        if response is not None:
            # What has just ended by itself cannot be shut down.
            with suppress(OSError, ValueError, RuntimeError):
                response.shutdown()


def _refusal(response: Any) -> Failure:
    """The Failure for an answer that is not 200; of its body only the message is read, and not much of it."""
    status = int(response.status)
    try:
        message = text(strict_json.decode(response.read(CHUNK), CHUNK), "message")
    except Exception:  # whatever is wrong with an error's explanation, the error is told
        message = ""
    wait = response.headers.get("Retry-After", "")
    hint = {
        401: "see that the token or the client certificate is valid for this cluster",
        403: "give flowtag's ServiceAccount the role in docs/kubernetes.md",
    }.get(status, "")
    words = f"the API server answers {status}: {fit(message, WORDS)}".removesuffix(": ")
    return Failure(f"http_{status}", words, float(wait) if wait.isascii() and wait.isdigit() else 0.0, hint)


def _failure(error: Exception) -> Failure:
    """What went wrong below HTTP, by its kind."""
    import urllib3.exceptions as http
    from kubernetes.client.exceptions import ApiException

    kind = "internal"
    if isinstance(error, ApiException):  # the client's name for a TLS error
        kind = "tls"
    elif isinstance(error, http.NewConnectionError | http.NameResolutionError):
        kind = "unreachable"
    elif isinstance(error, http.TimeoutError | TimeoutError):
        kind = "timeout"
    elif isinstance(error, http.HTTPError | OSError | ValueError):
        kind = "disconnected"
    return Failure(kind, _words(error))


def _words(error: Exception) -> str:
    """An error of the client's in one line."""
    reason = getattr(error, "reason", None) or error
    return f"{type(error).__name__}: {fit(' '.join(str(reason).split()), WORDS)}"
