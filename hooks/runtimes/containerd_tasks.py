# SPDX-License-Identifier: Apache-2.0
"""What containerd keeps beside each task: by it a container still runs the wrapper.

A task's shim runs the binary that it was told of until the task is deleted, whatever containerd's
configuration says by then. A container that was created and never started has no task: the kubelet starts
what it creates at once, or creates it anew.
"""

from __future__ import annotations

import os

STATE = "/run/containerd"
TASKS = "io.containerd.runtime.v2.task"
"""Below a containerd's directory for what lives (`state` in its configuration): NAMESPACE/ID/config.json."""
_SHIM_FILES = ("options.json", "runtime")  # what the shim was told of BinaryName
_LIMIT = 4 << 20


def noted(task: str, hook_directory: str) -> str:
    """The file in a task's directory by which its shim runs the wrapper, empty if it does not.

    That needs no hook in config.json: the wrapper adds none while the hook is disabled.
    """
    wrapper = f"{hook_directory}/flowtag-runc".encode()
    paths = (os.path.join(task, name) for name in _SHIM_FILES)
    return next((path for path in paths if wrapper in _read(path)), "")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return b""
