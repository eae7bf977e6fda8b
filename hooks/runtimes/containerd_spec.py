# SPDX-License-Identifier: Apache-2.0
"""The base spec: what containerd starts every container's specification from, with our hooks in it.

CRI takes the security defaults out of its own start value, but not out of a base spec, which is how an
administrator sets them. So what it would have taken out is not in ours.
"""

from __future__ import annotations

import json
import os
from typing import Any

from bpf.error import FlowtagError
from hooks import edit
from hooks.bundle import entries
from hooks.runtime import Options
from hooks.runtimes.containerd_engine import Engine, run


def base_spec(engine: Engine, options: Options) -> bytes:
    """The file's content; FlowtagError if ctr does not tell this version's default."""
    doing = "asking ctr for containerd's default specification"
    spec = _decode(run([engine.ctr(), "oci", "spec"], doing), doing)
    process, linux = spec.get("process", {}), spec.get("linux", {})
    for holder, name in ((process, "rlimits"), (process, "apparmorProfile"), (linux, "seccomp")):
        holder.pop(name, None)
    stub = os.path.join(options.hook_directory, "flowtag-hook")
    spec["hooks"] = {event: [entry] for event, entry in entries(stub, options.run_directory).items()}
    return (json.dumps(spec, indent=1) + "\n").encode()


def check_spec(path: str) -> None:
    """FlowtagError if containerd could not read it: then CRI would not start."""
    doing = f"checking {path}"
    if not _decode((edit.read(path) or b"").decode("utf-8", "replace"), doing).get("hooks"):
        raise FlowtagError(f"{doing}: it has no hooks")


def _decode(text: str, doing: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise FlowtagError(f"{doing}: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("ociVersion"), str):
        raise FlowtagError(f"{doing}: it is no OCI specification")
    return value
