# SPDX-License-Identifier: Apache-2.0
"""Who owns a pod: the chain of controllers, each of which the API server has confirmed.

Whoever may create pods may write any ownerReferences into them. So a reference is believed only if the object
is there, in the pod's namespace, with that very uid; then it is the top of the chain that names the app.
"""

from __future__ import annotations

import random
import re
import threading
import time
from typing import NamedTuple

import structlog

from identity import strict_json
from identity.kubernetes_client import Client
from identity.kubernetes_health import Failure, Health
from identity.oci import text

# What can own pods and is the API's own: (group, kind) to its place in the API.
RESOURCES = {
    ("apps", "ReplicaSet"): "/apis/apps/v1/namespaces/{}/replicasets/{}",
    ("apps", "Deployment"): "/apis/apps/v1/namespaces/{}/deployments/{}",
    ("apps", "StatefulSet"): "/apis/apps/v1/namespaces/{}/statefulsets/{}",
    ("apps", "DaemonSet"): "/apis/apps/v1/namespaces/{}/daemonsets/{}",
    ("batch", "Job"): "/apis/batch/v1/namespaces/{}/jobs/{}",
    ("batch", "CronJob"): "/apis/batch/v1/namespaces/{}/cronjobs/{}",
}
DEPTH = 4
ROOM = 4096
# Metadata alone: the specs have secrets in their environment, and are none of our business.
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
ANSWER_BYTES = 2 << 20
# An orphaned ReplicaSet may be adopted by another Deployment; a permission may be given. Seconds.
BELIEVED, FORBIDDEN = 6 * 3600.0, 600.0
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]{0,62}", re.ASCII)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)


class Reference(NamedTuple):
    """An entry of ownerReferences; owners are in the namespace of what they own."""

    namespace: str
    group: str
    kind: str
    name: str
    uid: str


class Owner(NamedTuple):
    """Who a pod belongs to. checked: whether the API server has confirmed it, or could not be asked."""

    kind: str
    name: str
    checked: bool


class _Known(NamedTuple):
    """An answer. exists: None is not to be told; until: monotonic seconds, when to ask again."""

    exists: bool | None
    parent: Reference | None
    until: float


_FOREIGN = _Known(None, None, float("inf"))


def controller(metadata: dict[str, object], namespace: str) -> Reference | None:
    """The one owner that controls the object; None if there is none, or more than one."""
    owners = metadata.get("ownerReferences")
    found = [
        owner
        for owner in (owners[:64] if isinstance(owners, list) else ())
        if isinstance(owner, dict) and owner.get("controller") is True
    ]
    if len(found) != 1:
        return None
    group, slash, _ = text(found[0], "apiVersion").partition("/")
    group = group if slash else ""
    kind, name, uid = (text(found[0], key) for key in ("kind", "name", "uid"))
    # Refused, not cut to fit: what is cut names something else. Names go into a path, kinds into labels.
    if not all(map(_is_name, (namespace, name, uid, group or "core"))) or not _KIND.fullmatch(kind):
        return None
    return Reference(namespace, group, kind, name, uid)


def _is_name(name: str) -> bool:
    """Whether it is a name in the API's sense."""
    return len(name) <= 253 and _NAME.fullmatch(name) is not None


class Owners:
    """A bounded memory of owners, and one thread that asks for what is not in it.

    A thread beside the watch's: a slow answer about an owner must not hold up the news about pods.
    """

    def __init__(self, client: Client, health: Health, room: int = ROOM) -> None:
        self.health = health
        self._client = client
        self._room = room
        self._changed = threading.Condition()
        self._known: dict[Reference, _Known] = {}
        self._wanted: dict[Reference, None] = {}
        self._stop = threading.Event()
        self._told: set[tuple[str, str]] = set()
        self._thread = threading.Thread(target=self._run, name="kubernetes owners", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def top(self, reference: Reference) -> Owner | None:
        """From memory; None if not known yet, or if there is no such owner. Asks for what is missing."""
        owner: Owner | None = None
        for _ in range(DEPTH):
            if (reference.group, reference.kind) in RESOURCES:
                known = self._known.get(reference)
                if known is None or known.until < time.monotonic():
                    self._want(reference)
            else:
                known = _FOREIGN
            if known is None:
                return None
            if owner is not None and not known.exists:
                return owner
            if known.exists is False:
                return None
            owner = Owner(reference.kind, reference.name, bool(known.exists))
            if known.parent is None:
                return owner
            reference = known.parent
        return owner

    def _want(self, reference: Reference) -> None:
        with self._changed:
            if len(self._wanted) < self._room and reference not in self._wanted:
                self._wanted[reference] = None
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._wanted and not self._stop.is_set():
                    self._changed.wait()
                if self._stop.is_set():
                    return
                reference = next(iter(self._wanted))
            try:
                known = self._ask(reference)
            except Failure as failure:
                delay = self.health.failed(failure)
                with self._changed:  # to the end, so that one that always fails holds up no other
                    self._wanted[reference] = self._wanted.pop(reference)
                self._stop.wait(delay)
                continue
            self.health.progress()
            with self._changed:
                del self._wanted[reference]
                self._known.pop(reference, None)
                while len(self._known) >= self._room:
                    del self._known[next(iter(self._known))]
                self._known[reference] = known

    def _ask(self, reference: Reference) -> _Known:
        # Spread over time, so that not all is asked again at once.
        now = time.monotonic() + random.uniform(0, 60)  # noqa: S311 - keeps no secret
        path = RESOURCES[reference.group, reference.kind].format(reference.namespace, reference.name)
        try:
            with self._client.get(path, {}, whole=30, accept=f"{METADATA},application/json") as chunks:
                body = bytearray()
                for chunk in chunks:
                    body += chunk
                    if len(body) > ANSWER_BYTES:
                        return _Known(None, None, now + FORBIDDEN)
        except Failure as failure:
            if failure.kind == "http_404":
                return _Known(False, None, now + BELIEVED)
            if failure.kind.startswith("http_4") and failure.kind not in ("http_401", "http_408", "http_429"):
                self._tell(reference, failure)
                return _Known(None, None, now + FORBIDDEN)
            raise
        try:
            answer = strict_json.decode(bytes(body), ANSWER_BYTES)
        except ValueError:
            return _Known(None, None, now + FORBIDDEN)
        metadata = answer.get("metadata") if isinstance(answer, dict) else None
        if not isinstance(metadata, dict) or not text(metadata, "uid"):
            return _Known(None, None, now + FORBIDDEN)
        if text(metadata, "uid") != reference.uid:
            return _Known(False, None, now + BELIEVED)
        return _Known(True, controller(metadata, reference.namespace), now + BELIEVED)

    def _tell(self, reference: Reference, failure: Failure) -> None:
        self.health.errors[failure.kind] = self.health.errors.get(failure.kind, 0) + 1
        if (reference.kind, failure.kind) not in self._told:
            self._told.add((reference.kind, failure.kind))
            structlog.get_logger().warning(
                "kubernetes: owners of this kind cannot be checked, so they name no app",
                kind=reference.kind,
                error=str(failure),
                hint=failure.hint,
            )

    def close(self, timeout: float) -> None:
        self._stop.set()
        self._client.abort()
        with self._changed:
            self._changed.notify()
        self._thread.join(timeout)
