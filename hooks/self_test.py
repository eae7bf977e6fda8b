# SPDX-License-Identifier: Apache-2.0
"""Before an engine is told to call the hook: does it run, called as an engine calls it?"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time

from bpf.error import FlowtagError
from hooks import installed, runs
from hooks.bundle import PATH

PYTHON = "/usr/bin/python3"
SECONDS = 1.0
_STATE = {"ociVersion": "1.0.2", "id": "", "status": "creating", "pid": 0, "bundle": ""}  # names no container
_PROBE = """
import sys
if sys.version_info < (3, 11):
    sys.exit(f"it is Python {sys.version_info[0]}.{sys.version_info[1]}")
sys.path.append(sys.argv[1])
import hooks.oci_hook
import hooks.bundle
"""


def self_test(directory: str, python: str = PYTHON) -> None:
    """Run the stub of a hook directory, or of the checkout's hooks/, and the wrapper where it has a runtime.

    No container and no file of the host is touched. FlowtagError says what is wrong and what to do.
    """
    stub = os.path.join(directory, installed.STUB)
    linked = os.path.join(directory, "app")
    application = linked if os.path.lexists(linked) else os.path.dirname(os.path.abspath(directory))
    for path in (stub, os.path.join(application, "hooks", "main.py")):
        if not os.path.isfile(path):
            raise FlowtagError(f"checking the hook: {path} is missing", "install flowtag again")
    _executable(stub)
    _probe(application, python)
    _run_stub(stub, installed.disabled(directory))
    if os.path.lexists(os.path.join(directory, "runc")):
        _run_wrapper(os.path.join(directory, installed.WRAPPER))


def _executable(path: str) -> None:
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        raise FlowtagError(
            f"checking the hook: {path} is on a file system that is mounted noexec",
            "use another --hook-directory, or mount it with exec",
        )
    if not os.access(path, os.X_OK):
        raise FlowtagError(f"checking the hook: {path} is not executable", f"chmod 755 {path}")


def _probe(application: str, python: str) -> None:
    """The interpreter, asked for what the stub hides: why it could not run the hook."""
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", _PROBE, application],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FlowtagError(
            f"checking the hook: running {python}: {error}", "install python3, 3.11 or later"
        ) from error
    if done.returncode:
        cause = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise FlowtagError(
            f"checking the hook: {python} cannot run it: {cause[-1]}",
            f"the hook needs {python} 3.11 or later with its standard library, and {application} readable",
        )


def _run_stub(stub: str, disabled: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="flowtag-self-test-") as run:
        for event in ("createRuntime", "poststop"):
            took = _run([stub, event, run], json.dumps(_STATE).encode())
            if took > SECONDS:
                raise FlowtagError(
                    f"checking the hook: {stub} {event} took {took:.1f} s, where half a second is its limit",
                    "is the machine very busy? try again",
                )
        found = runs.read(run)
    if not disabled and [found.events.get(e) is not None for e in ("createRuntime", "poststop")] != [
        True,
        True,
    ]:
        raise FlowtagError(
            f"checking the hook: {stub} exits 0, but left no line of its runs",
            "is timeout(1) of coreutils installed? else report it",
        )
    if found.failed:
        kinds = sorted({kind for event in found.events.values() for kind in event.failures})
        raise FlowtagError(
            f"checking the hook: {stub} exits 0, but Python behind it failed: {', '.join(kinds)}",
            "is the machine very busy? try again",
        )


def _run_wrapper(wrapper: str) -> None:
    if not os.path.isfile(wrapper):
        raise FlowtagError(f"checking the wrapper: {wrapper} is missing", "install flowtag again")
    _executable(wrapper)
    _run([wrapper, "--version"], b"", silent=False)


def _run(argv: list[str], text: bytes, *, silent: bool = True) -> float:
    """Run a program as an engine runs a hook, with nothing but PATH and three descriptors; its seconds.

    FlowtagError unless it exits 0, and has no output if it is to have none.
    """
    about = "hook" if silent else "wrapper"
    name, _, value = PATH.partition("=")
    began = time.monotonic()
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, env={name: value}, cwd="/", timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FlowtagError(f"checking the {about}: running {argv[0]}: {error}", "see the cause") from error
    took = time.monotonic() - began
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise FlowtagError(
            f"checking the {about}: {' '.join(argv[:2])} exits {done.returncode}: {said[-1]}",
            "containers would not start with it",
        )
    if silent and (done.stdout or done.stderr):
        raise FlowtagError(
            f"checking the {about}: {argv[0]} has output: {(done.stdout or done.stderr)[:200]!r}",
            "install flowtag again",
        )
    return took
