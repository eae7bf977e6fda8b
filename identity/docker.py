# SPDX-License-Identifier: Apache-2.0
"""Names, images, labels and networks of Docker's containers, kept up to date by the daemon's events.

One thread talks to the daemon; records are only ever answered from memory. A daemon that is away, slow
or confused costs names, never a record: what was known stays until the daemon is back and says otherwise.
"""

from __future__ import annotations

import os
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import structlog

from identity.docker_names import from_create, from_inspect, from_list, identifier, table, text
from identity.known import Known
from identity.names import Names
from identity.workload import Workload

if TYPE_CHECKING:
    from identity.docker_api import Api

SOCKET = "/run/docker.sock"
RUNTIMES = ("docker", "")
"""Whose containers may be Docker's; none where a container was found by a cgroup that does not tell."""
WINDOW = 2.0
"""Seconds that one request for events lasts: how long a container that nobody announced waits."""
ABSENT_SECONDS = 5.0
AGAIN_SECONDS = (1.0, 30.0)
MOST_ASKED = 256
UNKNOWN_SECONDS = 30.0
"""How long a container that Docker does not know is not asked for again."""
REFRESH = frozenset(("start", "rename", "update", "connect", "disconnect", "restart", "unpause"))


class Docker:
    """A source of names (identity/names.py)."""

    name = "docker"

    def __init__(self, path: str = SOCKET, known: Known | None = None) -> None:
        self._path = path
        self._known = Known() if known is None else known
        self._asked: dict[str, None] = {}
        self._unknown: dict[str, float] = {}
        self._since = 0
        self.working: bool | None = None
        self._log = structlog.get_logger().bind(source=self.name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="names-docker", daemon=True)
        self._thread.start()

    def names(self, workload: Workload) -> Names | None:
        """What is known of a container; one that is not known yet is asked for in the background."""
        if workload.runtime not in RUNTIMES or not workload.container_id:
            return None
        known = self._known.get(workload.container_id)
        if known is None and len(self._asked) < MOST_ASKED:
            self._asked[workload.container_id] = None
        return known

    def close(self) -> None:
        """Stop; the thread ends with its request, in seconds at most, and nobody waits for it."""
        self._stop.set()

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            if not os.path.exists(self._path):
                self.working = None
                self._stop.wait(ABSENT_SECONDS)
                continue
            try:
                # Here, for it takes long and 15 MiB, which a host without Docker does not pay.
                from identity import docker_api
            except ImportError as error:
                self._log.warning("no names from Docker: its library is missing", error=str(error))
                self.working = False
                return
            try:
                with docker_api.Api(self._path) as api:
                    self._list(api)
                    self._log.info("names from Docker", containers=len(self._known))
                    self.working = True
                    while not self._stop.is_set():
                        self._answer(api)
                        self._follow(api)
                        failures = 0
            except docker_api.Failed as error:
                if not failures:  # once for each time that it goes away
                    self._log.warning("no news of names from Docker", error=str(error))
            except Exception as error:  # or names would end for good, and nobody would know why
                self._log.error("no news of names from Docker", error=repr(error))
            failures += 1
            self.working = False
            least, most = AGAIN_SECONDS
            delay = min(most, least * 2 ** min(failures - 1, 8))
            self._stop.wait(delay * random.uniform(0.5, 1))  # noqa: S311  # jitter, no secret

    def _list(self, api: Api) -> None:
        """All that there are; events from the moment before are followed next."""
        self._since = time.time_ns()
        listed = api.containers()
        if not isinstance(listed, list):
            self._log.warning("names from Docker: the list is too long, each is asked for by itself")
            return
        living = set()
        for entry in listed:
            container_id, names, runs = from_list(entry)
            if container_id:
                self._known.put(container_id, names, ended=not runs)
                living.add(container_id)
        self._known.end_others(living)

    def _follow(self, api: Api) -> None:
        """Events for WINDOW seconds; what an event is about is looked at anew."""
        until = time.time_ns() + int(WINDOW * 1e9)
        for events in api.events(_timestamp(self._since), _timestamp(until), WINDOW):
            changed: dict[str, None] = {}
            for event in events:
                self._take(table(event), changed)
            for container_id in changed:
                self._look(api, container_id)
            self._answer(api)
            if self._stop.is_set():
                return

    def _take(self, event: dict[str, Any], changed: dict[str, None]) -> None:
        """One event: note what it says, and whom to look at."""
        when = event.get("timeNano")
        if isinstance(when, int) and when >= self._since:
            self._since = when + 1
        actor = table(event.get("Actor"))
        action = text(event.get("Action"))
        if event.get("Type") == "network":
            container_id = identifier(table(actor.get("Attributes")).get("container"))
        else:
            container_id = identifier(actor.get("ID"))
        if not container_id:
            return
        if action == "create":
            if self._known.get(container_id) is None:
                self._known.put(container_id, from_create(event)[1])
        elif action in ("die", "destroy"):
            changed.pop(container_id, None)
            self._known.end(container_id)
        elif action in REFRESH:
            changed[container_id] = None

    def _look(self, api: Api, container_id: str) -> None:
        """Ask for one container."""
        description = api.container(container_id)
        found, names, runs = from_inspect(description)
        if found == container_id:
            self._known.put(container_id, names, ended=not runs)
            return
        self._known.end(container_id)
        if len(self._unknown) >= MOST_ASKED:
            self._unknown.clear()
        self._unknown[container_id] = time.monotonic()

    def _answer(self, api: Api) -> None:
        """Ask for containers that records named and nobody knew."""
        while self._asked:
            container_id = self._asked.popitem()[0]
            asked = self._unknown.get(container_id, -UNKNOWN_SECONDS)
            if identifier(container_id) and time.monotonic() - asked >= UNKNOWN_SECONDS:
                self._look(api, container_id)


def _timestamp(ns: int) -> str:
    return f"{ns // 1_000_000_000}.{ns % 1_000_000_000:09}"
