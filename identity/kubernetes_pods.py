# SPDX-License-Identifier: Apache-2.0
"""The pods of this node as flowtag keeps them: of a pod's JSON what names need, clean and cut to size."""

from __future__ import annotations

import threading
from typing import NamedTuple

from identity import labels
from identity.kubernetes_owners import Reference, controller
from identity.oci import text
from identity.workload import ROOM, fit

PODS = 1024
"""Room for pods, those that have ended included; a kubelet runs 110 unless told otherwise."""
CONTAINERS = 64
# How status.containerStatuses[].containerID begins, and what this project calls that runtime.
SCHEMES = {"containerd": "containerd", "cri-o": "crio", "docker": "docker"}
_KINDS = (
    ("containers", "containerStatuses"),
    ("initContainers", "initContainerStatuses"),
    ("ephemeralContainers", "ephemeralContainerStatuses"),
)


class Container(NamedTuple):
    """A container that runs or ran in a pod: a restart makes another id."""

    id: str
    runtime: str
    name: str
    image: str


class Pod(NamedTuple):
    """What names need of a pod. owner: the controller that the pod names, as yet unchecked."""

    uid: str
    namespace: str
    name: str
    node: str
    service_account: str
    labels: dict[str, str]
    owner: Reference | None
    containers: tuple[Container, ...]


def parse(pod: object) -> Pod | None:
    """Of a pod's JSON; None without uid, namespace and name. A wrong type counts as absent; never raises."""
    metadata = _table(pod, "metadata")
    spec = _table(pod, "spec")
    uid = fit(text(metadata, "uid"), ROOM["pod_uid"])
    namespace = fit(text(metadata, "namespace"), ROOM["namespace"])
    name = fit(text(metadata, "name"), ROOM["pod"])
    if not uid or not namespace or not name:
        return None
    return Pod(
        uid,
        namespace,
        name,
        fit(text(spec, "nodeName"), 253),
        fit(text(spec, "serviceAccountName"), 253),
        labels.tenant(metadata.get("labels")),
        controller(metadata, namespace),
        _containers(spec, _table(pod, "status")),
    )


def _table(values: object, name: str) -> dict[str, object]:
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, dict) else {}


def _tables(values: dict[str, object], name: str) -> list[dict[str, object]]:
    value = values.get(name)
    return [item for item in value[:CONTAINERS] if isinstance(item, dict)] if isinstance(value, list) else []


def _containers(spec: dict[str, object], status: dict[str, object]) -> tuple[Container, ...]:
    """Every container id that the kubelet tells, of this start and of the one before."""
    found: dict[str, Container] = {}
    for in_spec, in_status in _KINDS:
        images = {text(item, "name"): text(item, "image") for item in _tables(spec, in_spec)}
        for item in _tables(status, in_status):
            name = text(item, "name")
            image = images.get(name) or text(item, "image")
            for holder in (
                item,
                _table(_table(item, "state"), "terminated"),
                _table(_table(item, "lastState"), "terminated"),
            ):
                scheme, _, identifier = text(holder, "containerID").partition("://")
                identifier = fit(identifier, ROOM["container_id"])
                if scheme in SCHEMES and identifier and len(found) < 3 * CONTAINERS:
                    found.setdefault(
                        identifier,
                        Container(
                            identifier,
                            SCHEMES[scheme],
                            fit(name, ROOM["container"]),
                            fit(image, ROOM["image"]),
                        ),
                    )
    return tuple(found.values())


class Pods:
    """Pods by uid and by container id, bounded; those that ended stay while there is room.

    Records of a pod's last flows come after its end. Neither uid nor container id is ever used again, so
    what has ended cannot become wrong, only superfluous. One thread writes, any thread reads.
    """

    def __init__(self, room: int = PODS) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._pods: dict[str, Pod] = {}
        self._ended: dict[str, None] = {}  # in the order of their ends
        self._by_container: dict[str, str] = {}  # uid; empty where two pods claim one container

    def __len__(self) -> int:
        return len(self._pods)

    def by_uid(self, uid: str) -> Pod | None:
        with self._lock:
            return self._pods.get(uid)

    def by_container(self, container_id: str) -> Pod | None:
        with self._lock:
            return self._pods.get(self._by_container.get(container_id, ""))

    def replace(self, pods: list[Pod]) -> int:
        """These are all that live, from one moment to the next; how many found no room."""
        with self._lock:
            living = {pod.uid for pod in pods}
            for uid in self._pods.keys() - living:
                self._ended.setdefault(uid)
            return sum(not self._put(pod) for pod in pods)

    def put(self, pod: Pod) -> bool:
        """A pod that lives, new or changed; False if there is no room for it."""
        with self._lock:
            return self._put(pod)

    def end(self, uid: str) -> None:
        with self._lock:
            if uid in self._pods:
                self._ended.setdefault(uid)

    def _put(self, pod: Pod) -> bool:
        before = self._pods.get(pod.uid)
        if before is None and len(self._pods) >= self._room:
            if not self._ended:
                return False
            self._remove(next(iter(self._ended)))
        elif before is not None:
            ids = {container.id for container in pod.containers}
            past = tuple(container for container in before.containers if container.id not in ids)
            pod = pod._replace(containers=pod.containers + past[:CONTAINERS])
            self._forget(pod.uid, past[CONTAINERS:])
        self._ended.pop(pod.uid, None)
        self._pods[pod.uid] = pod
        for container in pod.containers:
            if self._by_container.setdefault(container.id, pod.uid) != pod.uid:
                self._by_container[container.id] = ""
        return True

    def _remove(self, uid: str) -> None:
        del self._ended[uid]
        self._forget(uid, self._pods.pop(uid).containers)

    def _forget(self, uid: str, containers: tuple[Container, ...]) -> None:
        for container in containers:
            if self._by_container.get(container.id) in (uid, ""):
                del self._by_container[container.id]
