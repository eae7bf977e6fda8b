# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.truth`: play the scenarios, join records with the traffic's own log, print the tables.

Exit status 1 if one flow was misattributed, doubled, or missing beyond the kernel's own count of losses,
or nobody's where the design says whose it is; and if a whole run had too few flows of a rule or reason.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from bpf import build
from tests.truth import report
from tests.truth.mutation import MUTATIONS, mutated
from tests.truth.scenario import SCENARIOS
from tests.truth.tally import Tally, tally

QUICK = 0.1


def play(names: list[str], size: float, *, faults: bool = True) -> dict[str, Tally]:
    """Play these scenarios one after the other; what goes wrong is told at once."""
    tallies = {}
    with tempfile.TemporaryDirectory(prefix="flowtag-truth-") as directory:
        for name in names:
            one = tallies[name] = tally(SCENARIOS[name](Path(directory), size))
            said = "green" if one.green else "RED"
            print(f"{name}: {said} in {one.seconds:.1f} s", file=sys.stderr, flush=True)
            for fault in one.faults if faults else ():
                print(f"  {fault}", file=sys.stderr)
    return tallies


def survivors(names: list[str]) -> list[str]:
    """Take these rules out of a copy of the program, one at a time; those whose scenario stays green."""
    found = []
    for name in names:
        mutation = MUTATIONS[name]
        print(f"without {name}, ", end="", file=sys.stderr, flush=True)
        with (
            tempfile.TemporaryDirectory(prefix="flowtag-mutant-") as directory,
            mutated(mutation, Path(directory)),
        ):
            if play([mutation.scenario], QUICK, faults=False)[mutation.scenario].green:
                found.append(name)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.truth", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--scenario", action="append", choices=SCENARIOS, help="only this one; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the traffic")
    parser.add_argument("--json", metavar="FILE", help="write all counts there")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/accuracy.md")
    parser.add_argument(
        "--mutate", choices=("all", *MUTATIONS), help="take this rule out: exit status 0 if it turns red"
    )
    args = parser.parse_args()
    if os.geteuid() != 0:
        print("tests.truth: needs root", file=sys.stderr)
        return 1
    if build.is_stale(build.OBJECT):
        build.build()
    if args.mutate:
        alive = survivors(list(MUTATIONS) if args.mutate == "all" else [args.mutate])
        print(f"stayed green: {', '.join(alive) or 'none'}")
        return 1 if alive else 0
    names = args.scenario or list(SCENARIOS)
    tallies = play(names, QUICK if args.quick else 1.0)
    print(report.as_markdown(tallies) if args.markdown else report.as_text(tallies))
    if args.json:
        text = json.dumps(report.as_json(tallies), indent=1)
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    thin = [] if args.quick or args.scenario else report.thin(tallies)
    for line in thin:
        print(f"too few to prove anything: {line}", file=sys.stderr)
    return 1 if thin or not all(one.green for one in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
