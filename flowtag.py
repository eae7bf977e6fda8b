# SPDX-License-Identifier: Apache-2.0
"""The command `flowtag`: the parser, and the only place that prints errors and exits."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import exporter.cli
import hooks.cli
from bpf.error import FlowtagError, LoadError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0 fine, 1 failure or not healthy, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="flowtag",
        description="Tags every TCP flow of this host with the workload that owned its local end.",
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    hooks.cli.add_commands(subparsers)
    exporter.cli.add_commands(subparsers)
    try:
        try:
            args = parser.parse_args(argv)
            code = int(args.run(args))
        except SystemExit as end:  # argparse's, after --help or a usage error
            code = int(end.code or 0)
        if sys.stdout:
            sys.stdout.flush()
    except FlowtagError as error:
        print(f"flowtag: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        if isinstance(error, LoadError) and error.log:
            print(error.log.rstrip(), file=sys.stderr)
        return 1
    except BrokenPipeError:
        discard_output()  # whoever read us has seen enough
        return 0
    except OSError as error:
        discard_output()
        about = f"{error.filename}: " if error.filename else ""
        print(f"flowtag: {about}{error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def discard_output() -> None:
    """What is still buffered goes nowhere; at exit the interpreter would fail on it once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    sys.exit(main())
