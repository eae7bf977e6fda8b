# SPDX-License-Identifier: Apache-2.0
"""A scenario in a mount namespace of its own, where the cgroup hierarchies look as on another host.

    evidence = play(V1_ONLY, "tests.truth.scenarios.cgroups", "v1_body", directory, size)

Exporter, hook and runc all run inside. Only umount, and a mount over what is there: the tmpfs at
/sys/fs/cgroup is the machine's own.
"""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

from tests.rig.exporter import ROOT
from tests.truth.stage import Evidence

V1_ONLY = "umount /sys/fs/cgroup/unified"
PURE_V2 = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup"


def play(view: str, module: str, function: str, directory: Path, size: float) -> Evidence:
    """Run `function` of `module`, which is a scenario, inside; RuntimeError if it raises."""
    result = directory / f"{function}.evidence"
    inside = [sys.executable, "-m", "tests.truth.view", module, function, str(directory), str(size)]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'{view} && exec "$@"', "sh", *inside],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise RuntimeError(f"{function} failed inside its view:\n{done.stderr}")
    with result.open("rb") as file:
        evidence: Evidence = pickle.load(file)  # noqa: S301 - our own child wrote it
    return evidence


def main() -> None:
    module, function, directory, size = sys.argv[1:]
    evidence = getattr(importlib.import_module(module), function)(Path(directory), float(size))
    with Path(directory, f"{function}.evidence").open("wb") as file:
        pickle.dump(evidence, file)


if __name__ == "__main__":
    main()
