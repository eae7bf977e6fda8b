# SPDX-License-Identifier: Apache-2.0
"""What container engines call their cgroups, and which container a cgroup's name means.

Sources: containerd and cri-o cgroup path code, moby daemon/oci_linux.go, podman libpod/oci_util.go,
kubelet pkg/kubelet/cm/cgroup_manager_linux.go; the systemd driver puts scopes beside services.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# First-level cgroups whose children are containers or pods, with the runtime where the name tells it.
FIRST_LEVEL = {
    "docker": "docker",
    "kubepods": "",
    "kubepods.slice": "",
    "libpod_parent": "podman",
    "crio": "crio",
    "k8s.io": "containerd",
    "default": "containerd",
    "moby": "docker",
    "nerdctl": "containerd",
    "runc": "runc",
}
# Beginnings of cgroup names that mean a container wherever they stand.
PREFIXES = {
    "docker-": "docker",
    "libpod-": "podman",
    "crio-": "crio",
    "cri-containerd-": "containerd",
    "nerdctl-": "containerd",
}
_SCOPE = re.compile(r"(docker|libpod|crio|cri-containerd|nerdctl)-([0-9a-f]{64})(?:\.scope)?", re.ASCII)
_PLAIN = re.compile(r"[0-9a-f]{64}", re.ASCII)
# Between a root and its containers, and the engines' own helpers: never a container.
_BETWEEN = re.compile(
    r"(?:kubepods[-.a-z0-9_]*|burstable|besteffort|guaranteed|(?:kubepods[-a-z]*-)?pod[-0-9a-f_]+(?:\.slice)?"
    r"|(?:libpod|crio)-conmon-.*)",
    re.ASCII,
)


class Found(NamedTuple):
    """A container told by its cgroup's name; runtime is empty where the name does not say.

    certain: the name has an engine's form. Else it may as well be a directory between.
    """

    container_id: str
    runtime: str
    certain: bool = True


def is_root(name: str, level: int, extra: tuple[str, ...] = ()) -> bool:
    """Whether a cgroup of this name, `level` steps below the mount, is an engine's."""
    if level == 1 and (name in FIRST_LEVEL or name in extra):
        return True
    return name.startswith(tuple(PREFIXES))


def roots(extra: tuple[str, ...] = ()) -> tuple[tuple[str, bool], ...]:
    """(name, whether it is a prefix) of every root, for the kernel program: the same rule as is_root."""
    names = [*FIRST_LEVEL, *(name for name in extra if name not in FIRST_LEVEL)]
    return (*((name, False) for name in names), *((prefix, True) for prefix in PREFIXES))


def container(path: str) -> Found | None:
    """The container that a cgroup path (from the cgroup2 mount, with a leading slash) belongs to itself.

    None for roots, pods, the engines' helpers and whatever lies inside a container.
    """
    parts = path.strip("/").split("/")
    name = parts[-1]
    scope = _SCOPE.fullmatch(name)
    if scope:
        return Found(scope[2], PREFIXES[scope[1] + "-"])
    if len(parts) < 2:
        return None
    runtime = FIRST_LEVEL.get(parts[0], "")
    if _PLAIN.fullmatch(name):
        return Found(name, runtime)
    if len(parts) == 2 and not parts[0].startswith("kubepods") and not _BETWEEN.fullmatch(name):
        return Found(name, runtime, certain=False)
    return None
