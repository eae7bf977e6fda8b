# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.hook_time [ROUNDS]`: what the hook adds to `runc run`, paired with no hook at all.

Every round runs the same container once with each hook, in turn; printed are medians of the paired
differences. The bar: the hook behind its stub adds at most 1.75 times what `python3 -I -S -c pass`
adds.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from exporter.config import Config, Host
from exporter.directories import prepare
from exporter.programs import remove_pins
from hooks.cli import STUB, hooks_object
from tests.rig.bundle import make_bundle
from tests.rig.container import Runc

PYTHON = "/usr/bin/python3"
ENV = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds of each `runc run`, by the hook that it had."""
    pins = f"/sys/fs/bpf/flowtag-hook-time-{os.getpid()}"
    with (
        tempfile.TemporaryDirectory() as scratch,
        tempfile.TemporaryDirectory(dir="/dev/shm") as tmpfs,  # /run is one on a host
        Runc(Path(scratch)) as runc,
    ):
        run = Path(tmpfs, "run")
        config = Config(host=Host(run_directory=str(run), pin_directory=pins))
        plain = {"path": PYTHON, "args": [PYTHON, "-I", "-S", "-c", "pass"], "env": ENV}
        ours = hooks_object(str(run))
        sets: dict[str, dict[str, Any]] = {
            "none": {},
            "true": {"createRuntime": [{"path": "/bin/true"}]},
            "pass": {"createRuntime": [plain]},
            "hook": {"createRuntime": ours["createRuntime"]},
        }
        times: dict[str, list[float]] = {name: [] for name in sets}
        try:
            prepare(config)
            bundles = {
                name: make_bundle(
                    Path(scratch, name),
                    "",
                    cgroup=f"{runc.cgroup_root}/{name}",
                    args=("/bin/true",),
                    hooks=hooks,
                )
                for name, hooks in sets.items()
            }
            for turn in range(rounds + 2):
                order = list(bundles.items())
                random.shuffle(order)  # what runs after what matters: cgroups are freed late
                for name, bundle in order:
                    argv = runc.command("run", "--bundle", str(bundle), f"{name}-{turn}")
                    begin = time.perf_counter()
                    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
                    if turn >= 2:  # the first ones warm the caches
                        times[name].append(time.perf_counter() - begin)
            live = len(list((run / "live").iterdir()))
            if live != rounds + 2 or any((run / "pending").iterdir()):
                raise SystemExit(f"the hook did not do its work: {live} of {rounds + 2}")
        finally:
            remove_pins(pins)
    return times


def main() -> None:
    """Print medians in milliseconds, and the ratio."""
    times = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
    none = times["none"]
    added = {
        name: statistics.median(a - b for a, b in zip(values, none, strict=True)) * 1000
        for name, values in times.items()
    }
    print(f"{STUB}: {len(none)} rounds, runc run {statistics.median(none) * 1000:.1f} ms")
    print(json.dumps({f"{name}_adds_ms": round(value, 2) for name, value in added.items()}))
    print(f"hook / pass = {added['hook'] / added['pass']:.2f}")


if __name__ == "__main__":
    main()
