# SPDX-License-Identifier: Apache-2.0
"""The pods of this node, kept up to date: one list, then a watch that is taken up where it broke off."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import structlog

from identity import strict_json
from identity.kubernetes_client import WORDS, Client, Timing
from identity.kubernetes_health import Failure, Health
from identity.kubernetes_pods import Pod, Pods, parse
from identity.kubernetes_stream import lines, objects
from identity.oci import text
from identity.workload import fit

PATH = "/api/v1/pods"
PAGE = 250
PAGES = 1000  # a server that always has one more page is not believed
OBJECT_BYTES = 4 << 20
"""The longest JSON of a pod that is read. etcd takes 1.5 MiB; escapes make more of it in JSON."""
ANSWERS = 3
"""Answers without progress after which the version is given up, whatever they say."""


class Watch:
    """One thread: list, watch, back off, and again. `seen` is called with every pod that is there."""

    def __init__(
        self,
        client: Client,
        node: str,
        pods: Pods,
        health: Health,
        timing: Timing,
        seen: Callable[[Pod], None],
    ) -> None:
        self.health = health
        self._client = client
        self._node = node
        self._pods = pods
        self._timing = timing
        self._seen = seen
        self._version = ""  # of the last event or list; empty: list first
        self._answers = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubernetes pods", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout: float) -> None:
        """End the thread; one that waits for a connection or a first byte ends when that times out."""
        self._stop.set()
        self._client.abort()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self._version:
                    self._list()
                self._watch()
            except Failure as failure:
                if not self._stop.is_set():
                    self._stop.wait(self._failed(failure))
            except Exception as error:
                structlog.get_logger().error("kubernetes: a fault of flowtag's", error=repr(error))
                self._version = ""
                self._stop.wait(self._failed(Failure("internal", repr(error))))

    def _failed(self, failure: Failure) -> float:
        """What the failure means for the version; how long to wait."""
        if failure.kind.startswith("http_"):
            self._answers += 1
        if failure.kind == "http_410":
            self.health.relists_gone += 1
            self._version = ""
        elif self._answers >= ANSWERS:  # a version from the future, after etcd was restored, and the like
            self._version = ""
        return self.health.failed(failure)

    def _progress(self) -> None:
        self._answers = 0
        self.health.progress()

    def _query(self) -> dict[str, str]:
        return {"fieldSelector": f"spec.nodeName={self._node}"}

    def _list(self) -> None:
        """All pods, page by page; only when the last page is whole do they replace what was known."""
        found: list[Pod] = []
        more = ""
        version = ""
        end = time.monotonic() + self._timing.list
        for _ in range(PAGES):
            query = self._query() | {"limit": str(PAGE)} | ({"continue": more} if more else {})
            with self._client.get(PATH, query, whole=max(0.1, end - time.monotonic())) as chunks:
                metadata: object = None
                for piece in objects(chunks, OBJECT_BYTES):
                    item = self._decode(piece)
                    if isinstance(item, dict) and "resourceVersion" in item:
                        metadata = item
                    elif (pod := parse(item)) and pod.node == self._node:
                        found.append(pod)
            version, more = text(metadata, "resourceVersion"), text(metadata, "continue")
            if not version:
                raise Failure("bad_answer", "a list of pods without resourceVersion")
            if not more:
                break
        else:
            raise Failure("bad_answer", f"a list of more than {PAGES} pages")
        self.health.left_out += self._pods.replace(found)
        self._version = version
        self.health.lists += 1
        self.health.answered = time.monotonic()  # no progress: a watch that never stands would be unnoticed
        for pod in found:
            self._seen(pod)

    def _watch(self) -> None:
        """Until the server ends it, which is no failure unless that is far too early."""
        # As long as is asked for, so that a server which says nothing is left after a while; by chance, so
        # that a cluster's nodes do not come back all at once.
        seconds = random.randint(*self._timing.watch)  # noqa: S311 - keeps no secret
        query = self._query() | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        limit = seconds + self._timing.answer
        with self._client.get(PATH, query, whole=limit, silence=limit) as chunks:
            self.health.watches += 1
            self.health.connected = began = time.monotonic()
            for line in lines(chunks, OBJECT_BYTES):
                if self._event(self._decode(line)):
                    self._progress()
        if time.monotonic() - began < seconds / 2:
            raise Failure("disconnected", "the watch ended before its time")
        self._progress()

    def _decode(self, piece: bytes | None) -> object:
        """A piece of an answer; None, and counted, where it is too long or no JSON."""
        if piece is None:
            self.health.oversized += 1
            return None
        try:
            return strict_json.decode(piece, OBJECT_BYTES)
        except ValueError:
            self.health.errors["bad_json"] = self.health.errors.get("bad_json", 0) + 1
            return None

    def _event(self, event: object) -> bool:
        """Take one event in; whether it brought the version further."""
        kind = text(event, "type")
        thing = event.get("object") if isinstance(event, dict) else None
        if kind == "ERROR":
            raise _error(thing)
        metadata = thing.get("metadata") if isinstance(thing, dict) else None
        if kind in ("ADDED", "MODIFIED", "DELETED"):
            self.health.events += 1
            pod = parse(thing)
            if pod is None:
                self.health.unknown += 1
            elif kind == "DELETED" or pod.node != self._node:
                self._pods.end(pod.uid)
            else:
                self.health.left_out += not self._pods.put(pod)
                self._seen(pod)
        elif kind == "BOOKMARK":
            self.health.bookmarks += 1
        else:
            self.health.unknown += 1  # what it does to the version is unknown too
            return False
        version = text(metadata, "resourceVersion")
        self._version = version or self._version
        return bool(version)


def _error(status: object) -> Failure:
    """An ERROR event's Status as the same Failure that the HTTP status would be."""
    code = status.get("code") if isinstance(status, dict) else None
    if text(status, "reason") in ("Expired", "Gone"):
        code = 410
    number = code if type(code) is int and 100 <= code <= 599 else 500
    return Failure(f"http_{number}", f"in the watch: {fit(text(status, 'message'), WORDS)}")
