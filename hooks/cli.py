# SPDX-License-Identifier: Apache-2.0
"""`flowtag register | unregister | enable | disable | status | nri`: how an engine comes to call the hook."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from bpf.error import FlowtagError
from hooks import bundle, installed, nri
from hooks.bundle import PATH as PATH
from hooks.oci_hook import RUN_DIRECTORY
from hooks.runtime import HOOK_DIRECTORY, Options
from hooks.self_test import self_test

if TYPE_CHECKING:
    import argparse

    from hooks.register import Registration

FOLDER = os.path.dirname(os.path.abspath(__file__))
STUB = os.path.join(FOLDER, "flowtag-hook")
RUNTIMES = ("docker", "containerd", "podman", "crio", "runc")


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the command line."""
    register = subparsers.add_parser(
        "register",
        help="make container engines call the hook",
        description="Write the hook into the configuration of the engines that are here, after showing how.",
        allow_abbrev=False,
    )
    unregister = subparsers.add_parser(
        "unregister",
        help="make container engines stop calling it",
        description="Take the hook out of their configuration, and remove it when no container refers to it.",
        allow_abbrev=False,
    )
    for parser in (register, unregister):
        parser.add_argument(
            "--runtime",
            metavar="R",
            choices=("auto", *RUNTIMES),
            help=f"{', '.join(RUNTIMES)}, or auto: every engine that is here, the default",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="show what would change, and change nothing"
        )
        parser.add_argument(
            "--method", metavar="M", default="", help="of several ways into the engine, which"
        )
        parser.add_argument(
            "--reload",
            action="store_true",
            help="have Docker read its file again, by SIGHUP, and wait for it",
        )
    unregister.add_argument(
        "--before-removal",
        action="store_true",
        help="flowtag itself goes: where the hook must stay, leave a command that removes it later",
    )
    register.add_argument(
        "--print",
        action="store_true",
        dest="show",
        help="with --runtime runc: print the `hooks` object for a bundle's config.json, and change nothing",
    )
    enable = subparsers.add_parser(
        "enable", help="let the hook work again after `disable`", allow_abbrev=False
    )
    disable = subparsers.add_parser(
        "disable",
        help="make the hook do nothing, from the next container on",
        description="The kill switch: no engine is touched, and containers start as if there were no hook.",
        allow_abbrev=False,
    )
    status = subparsers.add_parser(
        "status",
        help="whether engines call the hook, and which containers have an identity",
        description="Exit code 0, or 1 where something needs a hand.",
        allow_abbrev=False,
    )
    status.add_argument("--json", action="store_true", help="one JSON object instead of text")
    status.add_argument(
        "--runtime", metavar="R", choices=("auto", *RUNTIMES), help="that engine and its containers only"
    )
    for parser in (register, unregister, status):
        parser.add_argument(
            "--file", metavar="F", default="", help="the engine's configuration file or hooks.d"
        )
        parser.add_argument("--socket", metavar="S", default="", help="where the engine answers")
    for parser in (register, unregister, enable, disable, status):
        parser.add_argument(
            "--hook-directory",
            metavar="D",
            default=HOOK_DIRECTORY,
            help="where the hook is, apart from the application (default %(default)s)",
        )
        parser.add_argument(
            "--run-directory",
            metavar="D",
            default=RUN_DIRECTORY,
            help="where the hook keeps its files (default %(default)s)",
        )
        parser.set_defaults(parser=parser)
    register.set_defaults(run=_register)
    unregister.set_defaults(run=_unregister)
    enable.set_defaults(run=_enable)
    disable.set_defaults(run=_disable)
    status.set_defaults(run=_status)
    nri.add_command(subparsers)


def _register(args: argparse.Namespace) -> int:
    options = _options(args)
    if args.show:
        if args.runtime != "runc" or args.dry_run or args.reload or args.file:
            args.parser.error("--print goes with --runtime runc alone: register --runtime runc --print")
        there = os.path.isfile(os.path.join(options.hook_directory, installed.STUB))
        directory = options.hook_directory if there else FOLDER
        self_test(directory)
        print(json.dumps(hooks_object(options.run_directory, f"{directory}/{installed.STUB}"), indent=2))
        return 0
    done = _registration(options).register(_name(args), args.dry_run, args.reload)
    return 0 if done else 1


def _unregister(args: argparse.Namespace) -> int:
    if args.before_removal and (args.dry_run or args.runtime):
        args.parser.error("--before-removal is for every engine, and no trial")
    registration = _registration(_options(args))
    done = registration.unregister(_name(args), args.dry_run, args.reload)
    if args.before_removal:
        registration.leave()
    return 0 if done else 1


def _enable(args: argparse.Namespace) -> int:
    changed = installed.enable(_options(args).hook_directory)
    print("enabled: the next container has the hook" if changed else "it was enabled, nothing changed")
    return 0


def _disable(args: argparse.Namespace) -> int:
    if installed.disable(_options(args).hook_directory):
        print(
            "disabled: the next container has no hook, nor have poststops of those that run: their claims end"
        )
        print("with their cgroups. No engine was touched; `flowtag enable` takes it back.")
    else:
        print("it was disabled, nothing changed")
    return 0


def _status(args: argparse.Namespace) -> int:
    from hooks import status, status_text
    from hooks.runtimes import adapters

    found = status.look(_options(args), adapters(), args.runtime or "auto")
    if args.json:
        print(json.dumps(status_text.document(found), indent=2))
    else:
        print("\n".join(status_text.text(found)))
    return 1 if found.problems else 0


def _name(args: argparse.Namespace) -> str:
    """The adapter that is meant: NRI's is one of its own."""
    name: str = args.runtime or "auto"
    return "containerd-nri" if (name, args.method) == ("containerd", "nri") else name


def _options(args: argparse.Namespace) -> Options:
    names = ("hook_directory", "run_directory", "file", "socket")
    given = {name: getattr(args, name, "") for name in names}
    for name, value in given.items():
        if value and not os.path.isabs(value.removeprefix("unix://")):
            args.parser.error(f"--{name.replace('_', '-')} {value}: not an absolute path")
    method = getattr(args, "method", "")
    if (given["file"] or given["socket"] or method) and (args.runtime or "auto") == "auto":
        args.parser.error("--file, --socket and --method are of one engine: name it with --runtime")
    paths = {
        name: os.path.normpath(value) if value else "" for name, value in given.items() if name != "socket"
    }
    return Options(**paths, socket=given["socket"], method=method)


def _registration(options: Options) -> Registration:
    from hooks.references import find
    from hooks.register import Registration
    from hooks.runtimes import adapters

    return Registration(adapters(), options, find, _say, _complain)


def _say(line: str, stream: TextIO | None = None) -> None:
    """Print; a reader that has gone keeps no change from being made, nor its exit code from being true."""
    stream = stream or sys.stdout
    try:
        print(line, file=stream, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _complain(error: FlowtagError) -> None:
    _say(f"flowtag: {error}", sys.stderr)
    if error.hint:
        _say(f"hint: {error.hint}", sys.stderr)


def hooks_object(run_directory: str = RUN_DIRECTORY, stub: str = STUB) -> dict[str, Any]:
    """The `hooks` of an OCI config.json: createRuntime and poststop."""
    return {event: [entry] for event, entry in bundle.entries(stub, run_directory).items()}
