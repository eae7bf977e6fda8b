# SPDX-License-Identifier: Apache-2.0
"""Docker's API over its socket: the SDK's transport and version, with bounds on size and time.

The SDK itself waits for ever for events and takes an answer of any size; labels are a tenant's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from types import TracebackType

import docker
import requests
from docker.errors import DockerException
from urllib3.exceptions import HTTPError

from identity import strict_json

SECONDS = 10.0
"""How long an answer may take as a whole, and one read of it."""
LIST_LIMIT = 4 << 20  # 2,000 containers of 2 KiB; decoded it takes four times that
ONE_LIMIT = 2 << 20
CHUNK = 1 << 16
OLDEST = "1.24"
FAULTS = (requests.RequestException, HTTPError, DockerException, OSError, ValueError)


class Failed(Exception):
    """The daemon did not answer, or not as Docker does."""


class Api:
    """A connection to the daemon behind a unix socket; every method raises Failed and nothing else."""

    def __init__(self, path: str) -> None:
        try:
            # A version given, or the SDK would ask for the daemon's without a bound on size and time.
            self._client = docker.APIClient(base_url=f"unix://{path}", version=OLDEST)
        except FAULTS as error:
            raise Failed(f"connecting to {path}: {error}") from None
        self._client.trust_env = False  # no proxy and no .netrc between us and a unix socket
        try:
            self._root = ""
            self._root = f"/v{self._newest()}"
        except Failed:
            self._client.close()
            raise

    def _newest(self) -> str:
        """The newest version that the daemon speaks: Docker 29 no longer knows what 20.10 does."""
        found = self._json("/version", {}, ONE_LIMIT)
        version = found.get("ApiVersion") if isinstance(found, dict) else None
        if not isinstance(version, str) or not re.fullmatch(r"1\.[0-9]{1,4}", version, re.ASCII):
            raise Failed("the answer to /version names none of the API")
        return version

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def containers(self) -> object:
        """The list of all containers, running or not; None if it is longer than LIST_LIMIT."""
        return self._json("/containers/json", {"all": "1"}, LIST_LIMIT)

    def container(self, container_id: str) -> object:
        """One container's description; None where there is none, or none of bearable size."""
        return self._json(f"/containers/{container_id}/json", {}, ONE_LIMIT)

    def events(self, since: str, until: str, seconds: float) -> Iterator[list[object]]:
        """Events from `since` to `until` (UTC seconds with nanoseconds), as they come, some at a time.

        The stream must last `seconds`. A line that is too long or no JSON is skipped.
        """
        begun = time.monotonic()
        filters = '{"type":["container","network"]}'
        parameters = {"since": since, "until": until, "filters": filters}
        line, skipping = b"", False
        for data in self._read("/events", parameters, seconds + SECONDS):
            *whole, line = (line + data).split(b"\n")
            if whole and skipping:
                del whole[0]
                skipping = False
            if skipping or len(line) > ONE_LIMIT:
                line, skipping = b"", True
            found = [event for event in map(_event, whole) if event is not None]
            if found:
                yield found
        if time.monotonic() - begun < seconds / 2:
            raise Failed("the stream of events ended before its time")

    def _json(self, path: str, parameters: dict[str, str], limit: int) -> object:
        """The answer's JSON; None for 404 and where it is longer than `limit`."""
        data = bytearray()
        for more in self._read(path, parameters, SECONDS):
            data += more
            if len(data) > limit:
                return None
        if not data:
            return None
        try:
            return strict_json.decode(bytes(data), limit)
        except ValueError as error:
            raise Failed(f"the answer to {path}: {error}") from None

    def _read(self, path: str, parameters: dict[str, str], seconds: float) -> Iterator[bytes]:
        """The answer's body as it comes; nothing for 404."""
        end = time.monotonic() + seconds
        url = f"{self._client.base_url}{self._root}{path}"
        try:
            with self._client.get(url, params=parameters, stream=True, timeout=seconds) as response:
                if response.status_code == 404:
                    return
                if response.status_code != 200:
                    raise Failed(f"the answer to {path} is {response.status_code}")
                for data in response.iter_content(CHUNK):
                    if time.monotonic() > end:
                        raise Failed(f"the answer to {path} took more than {seconds:g} s")
                    yield data
        except FAULTS as error:
            raise Failed(f"asking for {path}: {error}") from None


def _event(line: bytes) -> object:
    try:
        return strict_json.decode(line, ONE_LIMIT)
    except ValueError:
        return None
