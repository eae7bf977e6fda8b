# SPDX-License-Identifier: Apache-2.0
"""Containers of containerd that still name stub or wrapper: by what containerd keeps beside each task.

A task's shim runs the binary that its bundle names until the task is deleted, and that calls the poststop
hook of its config.json, whatever containerd's configuration says by then. A container that was created
and never started has no task: the kubelet starts what it creates at once, or creates it anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

STATE = "/run/containerd"
_TASKS = "io.containerd.runtime.v2.task"
# What the shim was started with (its Go name is BinaryName), and the container's specification.
_FILES = ("options.json", "runtime", "config.json")
_LIMIT = 4 << 20


def referring(hook_directory: str, state: str = STATE) -> Iterator[tuple[str, str]]:
    """The name of each such container, or its id, and the file that says so; in no order.

    state: containerd's directory for what lives, `state` in its configuration.
    """
    ours = f"{hook_directory}/flowtag-".encode()
    for namespace in _entries(os.path.join(state, _TASKS)):
        for task in _entries(namespace):
            for name in _FILES:
                if ours in _read(os.path.join(task, name)):
                    yield _name(task), os.path.join(task, name)
                    break


def _entries(directory: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []  # a task that has just ended


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return b""


def _name(task: str) -> str:
    """namespace/pod/container as CRI has annotated it, else the id."""
    try:
        annotations: Any = json.loads(_read(os.path.join(task, "config.json"))).get("annotations")
    except (ValueError, AttributeError):
        annotations = None
    parts = []
    if isinstance(annotations, dict):
        keys = ("sandbox-namespace", "sandbox-name", "container-name")
        parts = [annotations.get(f"io.kubernetes.cri.{key}") for key in keys]
    return "/".join(filter(None, map(str, filter(None, parts)))) or os.path.basename(task)
