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
_SHIM_FILES = ("options.json", "runtime")  # what the shim was told of BinaryName
_LIMIT = 4 << 20


def referring(hook_directory: str, state: str = STATE) -> Iterator[tuple[str, str]]:
    """The name of each such container, or its id, and the file that says so; in no order.

    state: containerd's directory for what lives, `state` in its configuration.
    """
    ours = f"{hook_directory}/flowtag-".encode()
    for namespace in _entries(os.path.join(state, _TASKS)):
        for task in _entries(namespace):
            config = os.path.join(task, "config.json")
            file = noted(task, hook_directory) or (config if ours in _read(config) else "")
            if file:
                yield _name(task), file


def noted(task: str, hook_directory: str) -> str:
    """The file in a task's directory by which its shim runs the wrapper, empty if it does not.

    That needs no hook in config.json: the wrapper adds none while the hook is disabled.
    """
    wrapper = f"{hook_directory}/flowtag-runc".encode()
    paths = (os.path.join(task, name) for name in _SHIM_FILES)
    return next((path for path in paths if wrapper in _read(path)), "")


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
