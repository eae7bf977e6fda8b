# SPDX-License-Identifier: Apache-2.0
"""`flowtag register`: how a runtime comes to call the hook."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from hooks.oci_hook import RUN_DIRECTORY
from hooks.self_test import self_test

if TYPE_CHECKING:
    import argparse

FOLDER = os.path.dirname(os.path.abspath(__file__))
STUB = os.path.join(FOLDER, "flowtag-hook")
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# runc's own limit, in whole seconds; the stub gives up after half a second.
TIMEOUT = 2


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
        self_test(FOLDER)
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
