# SPDX-License-Identifier: Apache-2.0
"""OCI state (and config.json) to the workload that it names.

The engine is told by the bundle's path and the cgroup's name, which the engine chooses; only then are
annotations read, and only the keys that this engine sets itself. A Docker or Podman user may write any
annotation, so there none is believed. Everything is untrusted: a wrong type counts as absent, nothing raises.
"""

from __future__ import annotations

from identity.workload import KIND_CONTAINER, KIND_POD, SOURCE_HOOK, STATE_VERIFIED, Workload

# What containerd puts between its state directory and NAMESPACE/ID.
_CONTAINERD_TASKS = ("io.containerd.runtime.v2.task", "io.containerd.runtime.v1.linux")

# Annotation by field. containerd: pkg/cri/annotations; CRI-O: pkg/annotations and the kubelet's.
_CRI = {
    "container": "io.kubernetes.cri.container-name",
    "pod": "io.kubernetes.cri.sandbox-name",
    "namespace": "io.kubernetes.cri.sandbox-namespace",
    "pod_uid": "io.kubernetes.cri.sandbox-uid",
    "image": "io.kubernetes.cri.image-name",
}
_CRIO = {
    "container": "io.kubernetes.container.name",
    "pod": "io.kubernetes.pod.name",
    "namespace": "io.kubernetes.pod.namespace",
    "pod_uid": "io.kubernetes.pod.uid",
    "image": "io.kubernetes.cri-o.ImageName",
}
_NERDCTL = {"container": "nerdctl/name"}
# Ports of a shared address; believed only for addresses that the host's configuration names.
TRANSLATED = "flowtag.io/translated"


def text(values: object, name: str) -> str:
    """The string under `name` of a JSON object, or nothing."""
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, str) else ""


def annotations_of(state: object, config: object) -> dict[str, str]:
    """The container's annotations: the state's, or the bundle's where the runtime passed none."""
    for document in (state, config):
        found = document.get("annotations") if isinstance(document, dict) else None
        if isinstance(found, dict):
            return {k: v for k, v in found.items() if isinstance(v, str)}
    return {}


def needs_config(state: object) -> bool:
    """Whether the bundle's config.json has to be read: for annotations, or to tell CRI-O from Podman."""
    notes = state.get("annotations") if isinstance(state, dict) else None
    return not isinstance(notes, dict) or (
        text(state, "bundle").endswith("/userdata")
        and (text(notes, "io.container.manager") == "cri-o" or "io.kubernetes.cri-o.ContainerID" in notes)
    )


def engine(bundle: str, container_id: str, config: object) -> tuple[str, str]:
    """Which engine made a bundle: its name, and the containerd namespace where there is one."""
    parts = bundle.rstrip("/").split("/")
    if container_id and parts[-1] == container_id and len(parts) > 3:
        task, namespace = parts[-3:-1]
        if task in _CONTAINERD_TASKS:
            return ("docker" if namespace == "moby" else "containerd"), namespace
    if (
        len(parts) > 3
        and parts[-1] == "userdata"
        and container_id
        and parts[-2] == container_id
        and parts[-3].endswith("-containers")  # containers/storage, by driver: overlay-, vfs-
    ):
        # Not told by io.container.manager: Podman lets a user's --annotation replace its own (4.3 and 5.8).
        # Both engines name the cgroup after themselves below whatever parent was asked for: CRI-O's
        # containerCgroupPath and Podman's libpod-ID, or SLICE:crio:ID for systemd.
        linux = config.get("linux") if isinstance(config, dict) else None
        path = text(linux, "cgroupsPath")
        ours = path.endswith((f"/crio-{container_id}", f":crio:{container_id}"))
        return ("crio" if ours else "podman"), ""
    return "runc", ""


def from_oci(state: object, config: object = None) -> Workload:
    """The workload that an OCI state names, without id and times; never raises.

    A sandbox (pause) container is its pod: kind pod, no container name and no image.
    """
    container_id = text(state, "id")
    notes = annotations_of(state, config)
    runtime, space = engine(text(state, "bundle"), container_id, config)
    keys: dict[str, str] = {}
    sandbox = False
    if runtime == "containerd" and space == "k8s.io":
        keys = _CRI
        sandbox = notes.get("io.kubernetes.cri.container-type") == "sandbox"
    elif runtime == "containerd":
        keys = _NERDCTL
    elif runtime == "crio":
        keys = _CRIO
        sandbox = notes.get("io.kubernetes.cri-o.ContainerType") == "sandbox"
    names = {field: notes.get(key, "") for field, key in keys.items()}
    if sandbox:
        names.update(container="", image="")
    return Workload(
        kind=KIND_POD if sandbox else KIND_CONTAINER,
        source=SOURCE_HOOK,
        state=STATE_VERIFIED,
        runtime=runtime,
        container_id=container_id,
        **names,
    )
