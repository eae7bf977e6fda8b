# SPDX-License-Identifier: Apache-2.0
"""The exporter's commands: run, maps, check. What they do is imported when they are called.

`flowtag maps ...` must not wait for numpy and structlog, which only `flowtag run` needs.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

from bpf import abi
from exporter.config import Config
from exporter.config_file import load
from exporter.flows import query

_TRANSLATE = (
    "socket:COOKIE | port:ADDRESS:PORT | block:ADDRESS:FIRST-LAST | netns:COOKIE|PATH | cgroup:ID|PATH"
)
# exporter.top.summary.SORTS, which needs numpy; a test compares the two.
_TOP_SORTS = ("sent", "received", "flows", "opened", "retransmitted", "rtt", "failed", "workload")
_LOOKUP = "ADDRESS[:PORT] | pid:N | cgroup:PATH|ID | container:ID | socket:COOKIE"


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the commands to flowtag's parser; each sets `run`, a function of the arguments."""
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument("--config", metavar="F", help="configuration (/etc/flowtag/flowtag.toml)")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="one JSON object instead of text")

    run = subparsers.add_parser("run", parents=[config], help="the exporter, in the foreground")
    run.add_argument("--output", choices=("json", "table", "none"), default="table")
    run.add_argument("--for", dest="seconds", metavar="SECONDS", type=_seconds, help="stop after so long")
    run.set_defaults(run=_run)

    maps = subparsers.add_parser("maps", help="the pinned maps")
    actions = maps.add_subparsers(metavar="ACTION", required=True)
    create = actions.add_parser(
        "create", parents=[config], help="make the maps, the run directory, the hook's settings"
    )
    create.set_defaults(run=_maps_create)
    dump = actions.add_parser("dump", parents=[config, as_json], help="show and explain them")
    dump.set_defaults(run=_maps_dump)
    lookup = actions.add_parser("lookup", parents=[config, as_json], help="who owns something, by which rule")
    lookup.add_argument("target", metavar="WHAT", help=_LOOKUP)
    lookup.set_defaults(run=_maps_lookup)

    verify = actions.add_parser(
        "verify", parents=[config, as_json], help="compare them with the live cgroups and namespaces"
    )
    verify.set_defaults(run=_maps_verify)

    translate = actions.add_parser("translate", parents=[config], help="publish for a translator, by hand")
    translate.add_argument("action", choices=("add", "del"))
    translate.add_argument("what", metavar="WHAT", help=_TRANSLATE)
    translate.add_argument("--workload", metavar="ID", type=int, help="whose: the id in ft_workload")
    translate.add_argument("--container", metavar="ID", help="whose: a living container's id")
    translate.add_argument(
        "--netns", metavar="COOKIE", type=int, default=0, help="of a port; 0: any translator's"
    )
    translate.set_defaults(run=_maps_translate)

    check = subparsers.add_parser(
        "check", parents=[config, as_json], help="what this host can do, and what is wrong with it"
    )
    check.add_argument("--print-config", action="store_true", help="print the configuration that is in force")
    check.set_defaults(run=_check)

    _add_flows(subparsers, config)

    top = subparsers.add_parser("top", parents=[config], help="what each workload's flows do now, live")
    top.add_argument("--interval", metavar="SECONDS", type=_seconds, default=2.0)
    top.add_argument("--sort", choices=_TOP_SORTS, default="sent")
    top.add_argument("--once", action="store_true", help="one interval as text, then end")
    top.add_argument("--json", action="store_true", help="one JSON object for each interval")
    top.set_defaults(run=_top)


def _add_flows(subparsers: argparse._SubParsersAction[Any], config: argparse.ArgumentParser) -> None:
    flows = subparsers.add_parser(
        "flows",
        parents=[config],
        help="the records of the spool and of the ring, readable",
        description="Filters may be repeated: one value of each option is enough; all options must hold.",
    )
    flows.add_argument("--follow", action="store_true", help="go on with records as they come")
    flows.add_argument("--output", choices=("table", "json"), default="table")
    several: dict[str, Any] = {"action": "append", "default": []}
    glob = "of workload, app, container, pod, namespace or container id"
    flows.add_argument("--workload", metavar="GLOB", help=glob, **several)
    flows.add_argument("--peer-workload", metavar="GLOB", help="the same of the other end", **several)
    flows.add_argument(
        "--address",
        metavar="ADDRESS|CIDR",
        type=_word(query.network),
        help="of either end",
        **several,
    )
    flows.add_argument("--port", metavar="N", type=_word(query.port), help="of either end", **several)
    flows.add_argument("--kind", choices=query.KINDS, **several)
    flows.add_argument("--role", choices=abi.ROLES, **several)
    flows.add_argument("--end", choices=abi.ENDS, help="why the flow ended", **several)
    flows.add_argument(
        "--unattributed",
        choices=query.REASONS,
        nargs="?",
        const=query.ANY,
        help="nobody's, for this reason or for any",
        **several,
    )
    flows.add_argument("--since", metavar="TIME", type=_word(query.moment), help="10m, 2h, or RFC 3339")
    flows.add_argument("--until", metavar="TIME", type=_word(query.moment))
    flows.add_argument("--limit", metavar="N", type=_word(query.limit), help="the newest N of them")
    flows.set_defaults(run=_flows)


def _word(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A parser's ValueError as argparse says it, whole."""

    def checked(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _config(args: argparse.Namespace) -> Config:
    return load(args.config)


def _run(args: argparse.Namespace) -> int:
    from exporter import daemon

    return daemon.run(_config(args), args.output, args.seconds)


def _flows(args: argparse.Namespace) -> int:
    from exporter.flows import command

    asked = query.Query(
        workloads=tuple(args.workload),
        peer_workloads=tuple(args.peer_workload),
        networks=tuple(args.address),
        ports=tuple(args.port),
        kinds=tuple(args.kind),
        roles=tuple(args.role),
        ends=tuple(args.end),
        unattributed=tuple(args.unattributed),
        since=args.since,
        until=args.until,
        limit=args.limit,
    )
    return command.run(_config(args), asked, args.output, follow=args.follow)


def _top(args: argparse.Namespace) -> int:
    from exporter.top import command

    return command.run(_config(args), args.interval, args.sort, once=args.once, as_json=args.json)


def _maps_create(args: argparse.Namespace) -> int:
    from exporter.directories import prepare

    made = prepare(_config(args))
    for path in made:
        print(f"made {path}", file=sys.stderr)
    if not made:
        print("everything is there", file=sys.stderr)
    return 0


def _maps_dump(args: argparse.Namespace) -> int:
    from exporter.maps_dump import dump

    return dump(_config(args).host.pin_directory, args.json)


def _maps_lookup(args: argparse.Namespace) -> int:
    from exporter.maps_lookup import lookup

    return lookup(_config(args), args.target, args.json)


def _maps_verify(args: argparse.Namespace) -> int:
    from exporter.verify import verify

    return verify(_config(args), args.json)


def _maps_translate(args: argparse.Namespace) -> int:
    from exporter import translate

    request = translate.Request(args.action == "add", args.what, args.workload, args.container, args.netns)
    translate.run(_config(args), request)
    return 0


def _check(args: argparse.Namespace) -> int:
    config = _config(args)
    if args.print_config:
        from exporter.config_file import dump

        print(dump(config), end="")
        return 0
    from exporter.check import check

    return check(config, args.json)
