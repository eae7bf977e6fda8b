# SPDX-License-Identifier: Apache-2.0
"""The entries that name the hook in an OCI config.json and in a hooks.d."""

from __future__ import annotations

import os
from typing import Any

from hooks.oci_hook import RUN_DIRECTORY

FOLDER = os.path.dirname(os.path.abspath(__file__))
STUB = os.path.join(FOLDER, "flowtag-hook")
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The runtime's own limit, in whole seconds; the stub gives up after half a second.
TIMEOUT = 2
EVENTS = ("createRuntime", "poststop")


def entries(stub: str, run: str = RUN_DIRECTORY) -> dict[str, dict[str, Any]]:
    """The hook's entry by event: the stub, told its event."""
    extra = [] if run == RUN_DIRECTORY else [run]
    return {
        event: {"path": stub, "args": [stub, event, *extra], "env": [PATH], "timeout": TIMEOUT}
        for event in EVENTS
    }


def hooks_object(run_directory: str = RUN_DIRECTORY, stub: str = STUB) -> dict[str, Any]:
    """The `hooks` of an OCI config.json: createRuntime and poststop."""
    return {event: [entry] for event, entry in entries(stub, run_directory).items()}
