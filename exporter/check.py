# SPDX-License-Identifier: Apache-2.0
"""`flowtag check`: what this host can do and what is wrong with it, a line each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from exporter.config import Config

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: state is ok, warn or FAIL; hint says what to do, where there is something to do."""

    state: str
    subject: str
    text: str
    hint: str = ""


Check = Callable[[Config], Iterator[Finding]]


def check(config: Config, as_json: bool) -> int:
    """Print what is found; 1 if something fails."""
    from exporter import check_host, check_identity, check_state

    checks = (*check_host.CHECKS, *check_identity.CHECKS, *check_state.CHECKS)
    found = list(run(checks, config))
    if as_json:
        findings = [asdict(finding) for finding in found]
        print(json.dumps({"healthy": healthy(found), "checks": findings}, indent=2))
    else:
        print("\n".join(text(found)))
    return 0 if healthy(found) else 1


def run(checks: tuple[Check, ...], config: Config) -> Iterator[Finding]:
    """Every finding of every check; a check that cannot look is a finding too."""
    for one in checks:
        try:
            yield from one(config)
        except OSError as error:
            yield Finding(
                FAIL,
                one.__name__,
                f"reading {error.filename}: {error.strerror}",
                "run as root",
            )


def healthy(found: list[Finding]) -> bool:
    """No finding fails."""
    return all(finding.state != FAIL for finding in found)


def text(found: list[Finding]) -> list[str]:
    """A line for each finding, what to do below it, and the sum."""
    lines = []
    for finding in found:
        lines.append(f"{finding.state:<4}  {finding.subject}: {finding.text}")
        if finding.hint:
            lines.append(f"      -> {finding.hint}")
    count = Counter(finding.state for finding in found)
    return [*lines, f"{count[OK]} ok, {count[WARN]} to look at, {count[FAIL]} failed"]
