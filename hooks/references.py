# SPDX-License-Identifier: Apache-2.0
"""Which containers still refer to the stub, the wrapper or an engine's runtime entry.

Docker keeps a runtime's name with each container, and needs that entry to start it again. Other containers
refer by the hooks in their bundle's config.json (poststop is still to come), by what a shim or runc noted.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from hooks.runtime import Options, Reference
from hooks.runtimes.containerd_tasks import noted
from hooks.runtimes.docker import RUNTIME, Docker

LIMIT = 16 << 20

BUNDLES = (
    ("docker", "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/*/config.json"),
    ("docker", "/run/containerd/io.containerd.runtime.v2.task/moby/*/config.json"),
    ("containerd", "/run/containerd/io.containerd.runtime.v2.task/*/*/config.json"),
    ("containerd", "/run/k3s/containerd/io.containerd.runtime.v2.task/*/*/config.json"),
    ("crio", "/run/containers/storage/*-containers/*/userdata/config.json"),
    ("podman", "/var/lib/containers/storage/*-containers/*/userdata/config.json"),
    ("runc", "/run/runc/*/state.json"),
)
"""Engine and pattern of the files that hold a container's hooks; a file counts for the first that names it.

Podman and CRI-O share a storage: what lies in /run is given to CRI-O only where an annotation says so.
"""


def find(
    options: Options,
    engine: str = "auto",
    docker_roots: Sequence[str] | None = None,
    bundles: Sequence[tuple[str, str]] = BUNDLES,
) -> list[Reference]:
    """Every container that refers, by engine and name. Files that vanish meanwhile are none.

    engine: the one that the file and the socket in `options` are of.
    """
    said = options if engine == "docker" else options._replace(file="", socket="")
    roots = [Docker().data_root(said)] if docker_roots is None else docker_roots
    found = [reference for root in roots for reference in of_docker(root)]
    ids = {os.path.basename(os.path.dirname(reference.file)) for reference in found}
    # A running container of Docker's shows twice, the second time by its id.
    found += (item for item in of_bundles(options.hook_directory, bundles) if item.container not in ids)
    return found


def of_docker(root: str) -> Iterator[Reference]:
    """Containers below a data root that were made with the runtime `flowtag`, running or not."""
    for path in sorted(glob.glob(f"{glob.escape(root)}/containers/*/hostconfig.json")):
        document = _object(path)
        if document.get("Runtime") == RUNTIME:
            directory = os.path.dirname(path)
            name = _object(f"{directory}/config.v2.json").get("Name")
            plain = name.lstrip("/") if isinstance(name, str) else ""
            yield Reference("docker", plain or os.path.basename(directory), path)


def of_bundles(directory: str, patterns: Sequence[tuple[str, str]] = BUNDLES) -> Iterator[Reference]:
    """Containers whose hooks name a program of the hook directory, or whose shim runs the wrapper."""
    seen: set[str] = set()
    for engine, pattern in patterns:
        for path in sorted(glob.glob(pattern)):
            if path in seen:
                continue
            seen.add(path)
            document = _object(path)
            hooked = any(hook.startswith(f"{directory}/") for hook in _hooks(document))
            file = path if hooked else noted(os.path.dirname(path), directory)
            if file:
                yield Reference(_engine(engine, document), _container(path), file)


def _engine(engine: str, document: dict[str, Any]) -> str:
    if engine != "crio":
        return engine
    annotations = document.get("annotations")
    keys = annotations if isinstance(annotations, dict) else {}
    return "crio" if any(key.startswith("io.kubernetes.cri-o.") for key in keys) else "podman"


def _container(path: str) -> str:
    directory = os.path.dirname(path)
    return os.path.basename(os.path.dirname(directory) if directory.endswith("/userdata") else directory)


def _hooks(document: dict[str, Any]) -> Iterator[str]:
    """The path of each hook, of a config.json or of runc's state.json, which has them inside `config`."""
    inner = document.get("config")
    hooks = inner.get("Hooks") if isinstance(inner, dict) else document.get("hooks")
    for entries in hooks.values() if isinstance(hooks, dict) else ():
        for entry in entries if isinstance(entries, list) else ():
            path = entry.get("path") if isinstance(entry, dict) else None
            if isinstance(path, str):
                yield path


def _object(path: str) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none, or it is no such thing."""
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
