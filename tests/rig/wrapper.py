# SPDX-License-Identifier: Apache-2.0
"""A runtime that edits each bundle before the real one sees it: hooks added, sections dropped.

    path = make_wrapper(
        directory, "runc",                         # or an absolute path
        hooks={"createRuntime": [...], "poststop": [...]},
        drop=["process.rlimits"],                  # what the test machine cannot do
    )

It is what engines are pointed at where the machine's limits stand in the way (podman wants more open
files than root may have here), and where a test puts in a hook of its own by hand.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_SCRIPT = """#!/usr/bin/python3 -IS
import json, os, sys
RUNTIME, HOOKS, DROP = json.loads({settings!r})
words = sys.argv[1:]
if "create" in words or "run" in words:
    bundle = "."
    for at, word in enumerate(words):
        if word in ("-b", "--bundle"):
            bundle = words[at + 1]
        elif word.startswith("--bundle="):
            bundle = word.partition("=")[2]
    path = os.path.join(bundle, "config.json")
    with open(path) as file:
        config = json.load(file)
    for event, entries in HOOKS.items():
        config.setdefault("hooks", {{}}).setdefault(event, []).extend(entries)
    for name in DROP:
        *parents, last = name.split(".")
        section = config
        for parent in parents:
            section = section.get(parent, {{}})
        section.pop(last, None)
    with open(path, "w") as file:
        json.dump(config, file)
os.execv(RUNTIME, [RUNTIME, *words])
"""


def make_wrapper(
    directory: Path,
    runtime: str,
    *,
    name: str = "",
    hooks: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    drop: Sequence[str] = (),
) -> Path:
    """Write the wrapper into `directory`, called `name`, or as the runtime is."""
    program = runtime if runtime.startswith("/") else shutil.which(runtime)
    if program is None:
        raise RuntimeError(f"wrapping {runtime}: there is no such program")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / (name or Path(program).name)
    settings = json.dumps([program, hooks or {}, list(drop)])
    path.write_text(_SCRIPT.format(settings=settings), encoding="ascii")
    path.chmod(0o755)
    return path
