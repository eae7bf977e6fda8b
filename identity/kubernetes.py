# SPDX-License-Identifier: Apache-2.0
"""Names from Kubernetes: a pod's labels, owner and ServiceAccount, as docs/kubernetes.md says."""

from __future__ import annotations

import os
import re
import socket

from bpf.error import FlowtagError
from identity.kubernetes_client import Client, Load, Timing, in_cluster, kubeconfig
from identity.kubernetes_health import Health
from identity.kubernetes_owners import Owners
from identity.kubernetes_pods import PODS, Container, Pod, Pods
from identity.kubernetes_watch import Watch
from identity.labels import RESERVED
from identity.names import Names
from identity.workload import KIND_POD, SOURCE_HOOK, Workload

CLOSE_SECONDS = 1.0
RUNTIMES = ("containerd", "crio", "docker", "")
"""Those whose containers may be Kubernetes'; empty: a cgroup's name did not tell it."""
_NODE = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?", re.ASCII)


def open_source(choice: str, node: str, environment: dict[str, str] | None = None) -> Kubernetes | None:
    """The source that the configuration asks for, at work; None if there is no Kubernetes to ask.

    choice: "auto" is the pod's own ServiceAccount, where flowtag runs in a pod; "off"; a kubeconfig's path.
    node: this node's name in Kubernetes; empty: NODE_NAME from the environment, else the host's name.
    """
    values = dict(os.environ) if environment is None else environment
    if choice == "off" or (choice == "auto" and not values.get("KUBERNETES_SERVICE_HOST")):
        return None
    load = in_cluster(environment=values) if choice == "auto" else kubeconfig(choice)
    return Kubernetes(load, node or values.get("NODE_NAME", "") or socket.gethostname().lower())


class Kubernetes:
    """The pods of one node in memory, kept up to date by two threads of its own: a Source.

    watch and owners have `health`, counters for whoever shows them.
    """

    name = "kubernetes"

    def __init__(self, load: Load, node: str, timing: Timing | None = None, room: int = PODS) -> None:
        if not _NODE.fullmatch(node):
            raise FlowtagError(
                f"naming this node in Kubernetes: {node!r} cannot be a node's name",
                "set identity.kubernetes_node, or NODE_NAME from spec.nodeName",
            )
        timing = timing or Timing()
        delays = (timing.first_delay, timing.longest_delay)
        self.pods = Pods(room)
        self.owners = Owners(Client(load, timing), Health("kubernetes: owners", *delays))
        self.watch = Watch(
            Client(load, timing), node, self.pods, Health("kubernetes: pods", *delays), timing, self._seen
        )
        self.owners.start()
        self.watch.start()

    @property
    def working(self) -> bool:
        """Whether the watch of pods stands."""
        return self.watch.health.working

    def _seen(self, pod: Pod) -> None:
        """Ask for its owner before the first flow does."""
        if pod.owner is not None:
            self.owners.top(pod.owner)

    def names(self, workload: Workload) -> Names | None:
        """What the API server says about a pod or a container of this node; from memory."""
        pod, container = self._find(workload)
        if pod is None:
            return None
        labels = dict(pod.labels)
        labels[f"{RESERVED}node"] = pod.node
        if pod.service_account:
            labels[f"{RESERVED}service-account"] = pod.service_account
        owner = self.owners.top(pod.owner) if pod.owner is not None else None
        app = ""
        if owner is not None:
            labels[f"{RESERVED}owner-kind"] = owner.kind
            labels[f"{RESERVED}owner"] = owner.name
            if owner.checked:
                app = owner.name
            else:
                labels[f"{RESERVED}owner-checked"] = "false"
        return Names(
            container=container.name if container else "",
            pod=pod.name,
            namespace=pod.namespace,
            app=app,
            image=container.image if container else "",
            labels=labels,
        )

    def _find(self, workload: Workload) -> tuple[Pod | None, Container | None]:
        """By the pod's uid, which the engine wrote; else by the container's id, which the kubelet tells."""
        pod = self.pods.by_uid(workload.pod_uid) if workload.pod_uid else None
        if pod is not None:
            named = [c for c in pod.containers if c.name == workload.container and workload.kind != KIND_POD]
            same = [c for c in named if c.id == workload.container_id]
            return pod, next(iter(same or named), None)
        if workload.runtime not in RUNTIMES or not workload.container_id:
            return None, None
        if workload.source == SOURCE_HOOK and workload.runtime != "docker" and not workload.pod:
            return None, None  # the hook saw a containerd or CRI-O container that is none of Kubernetes'
        pod = self.pods.by_container(workload.container_id)
        if pod is None or (workload.pod and (workload.namespace, workload.pod) != (pod.namespace, pod.name)):
            return None, None
        for container in pod.containers:
            if container.id == workload.container_id and workload.runtime in (container.runtime, ""):
                return pod, container
        return None, None

    def close(self) -> None:
        """End both threads, or leave one behind that still waits for an answer: it is a daemon."""
        self.watch.close(CLOSE_SECONDS)
        self.owners.close(CLOSE_SECONDS)
