# SPDX-License-Identifier: Apache-2.0
"""What an engine may leave behind, also when it was killed, and how it goes.

directory = scratch("ftc")                     # /tmp/ftc...: sockets' paths must be short
sweep(directory)                               # processes, mounts and files that belong to it
remove_cgroups("flowtag-test-7-c0")            # in every hierarchy, with what runs in them
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.rig.container import cgroup_mounts


def scratch(prefix: str) -> Path:
    """A new folder in /tmp, which is the same in every view of the machine."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))


def sweep(directory: Path) -> None:
    """End processes that name the folder in their arguments, unmount what lies below it, remove it."""
    _end(lambda: [pid for pid in _processes() if f"{directory}/" in _arguments(pid)])
    for place in reversed(_mounts(directory)):
        subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)
    shutil.rmtree(directory, ignore_errors=True)


def remove_namespace(path: str) -> None:
    """Take away what holds a network namespace open, if it is still there."""
    if path and os.path.exists(path):
        subprocess.run(["umount", "--lazy", path], capture_output=True, check=False)
        with suppress(OSError):
            os.unlink(path)


def remove_cgroups(name: str) -> None:
    """Kill what is in the first-level cgroup of that name and below, and remove the cgroups."""
    for mount in cgroup_mounts():
        top = mount / name
        folders = [Path(folder) for folder, _, _ in os.walk(top, topdown=False)]

        def inside(folders: list[Path] = folders) -> list[int]:
            found: list[int] = []
            for folder in folders:
                with suppress(OSError):
                    found += map(int, (folder / "cgroup.procs").read_text(encoding="ascii").split())
            return found

        _end(inside)
        for folder in folders:
            with suppress(OSError):
                folder.rmdir()


def _end(found: Callable[[], list[int]], timeout: float = 5) -> None:
    """Kill by pid what `found()` lists until it lists nothing."""
    deadline = time.monotonic() + timeout
    while pids := found():
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]


def _arguments(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


def _mounts(directory: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    places = [line.split()[1] for line in lines]
    return [place for place in places if place.startswith(f"{directory}/")]
