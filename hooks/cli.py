# SPDX-License-Identifier: Apache-2.0
"""`flowtag register`: how a runtime comes to call the hook."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

from bpf.error import FlowtagError
from hooks.oci_hook import RUN_DIRECTORY

if TYPE_CHECKING:
    import argparse

FOLDER = os.path.dirname(os.path.abspath(__file__))
STUB = os.path.join(FOLDER, "flowtag-hook")
PYTHON = "/usr/bin/python3"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# runc's own limit, in whole seconds; the stub gives up after half a second.
TIMEOUT = 2

_PROBE = """
import sys
if sys.version_info < (3, 11):
    sys.exit(f"it is Python {sys.version_info[0]}.{sys.version_info[1]}")
sys.path.append(sys.argv[1])
import hooks.oci_hook
"""


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `register` to the command line."""
    parser = subparsers.add_parser(
        "register",
        help="make a container runtime call the hook",
        description="Print the `hooks` object for the config.json of a runc bundle.",
        allow_abbrev=False,
    )
    parser.add_argument("--runtime", metavar="R", help="the runtime; so far only runc")
    parser.add_argument("--print", action="store_true", dest="show", help="print it and change nothing")
    parser.add_argument(
        "--run-directory",
        metavar="D",
        default=RUN_DIRECTORY,
        help="where the hook keeps its files (default %(default)s)",
    )

    def run(args: argparse.Namespace) -> int:
        if args.runtime != "runc" or not args.show:
            parser.error("so far only `register --runtime runc --print` exists")
        if not os.path.isabs(args.run_directory):
            parser.error(f"--run-directory {args.run_directory}: not an absolute path")
        check_hook()
        print(json.dumps(hooks_object(args.run_directory), indent=2))
        return 0

    parser.set_defaults(run=run)


def hooks_object(run_directory: str = RUN_DIRECTORY) -> dict[str, Any]:
    """The `hooks` of an OCI config.json: createRuntime and poststop."""
    extra = [] if run_directory == RUN_DIRECTORY else [run_directory]
    return {
        event: [{"path": STUB, "args": [STUB, event, *extra], "env": [PATH], "timeout": TIMEOUT}]
        for event in ("createRuntime", "poststop")
    }


def check_hook(folder: str = FOLDER, python: str = PYTHON) -> None:
    """Run what the stub runs, short of a container; FlowtagError says what is wrong."""
    stub = os.path.join(folder, "flowtag-hook")
    for path in (stub, os.path.join(folder, "main.py")):
        if not os.path.isfile(path):
            raise FlowtagError(f"checking the hook: {path} is missing", "install flowtag again")
    if not os.access(stub, os.X_OK):
        raise FlowtagError(f"checking the hook: {stub} is not executable", f"chmod 755 {stub}")
    root = os.path.dirname(folder)
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", _PROBE, root],
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
            f"the hook needs {python} 3.11 or later with its standard library, and {root} readable",
        )
