# SPDX-License-Identifier: Apache-2.0
"""Our verdict and that of `openssl verify` on certificate chains, side by side.

ours(made), openssl(made, directory)  # "" for accepted, else what was said

.venv/bin/python -m tests.rig.chain_verdicts --count 20000 --first 0     # a long comparison
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from identity import certificate
from identity.certificate import Certificate
from identity.instance import Refused
from tests.rig.chain_faults import chain
from tests.rig.chains import NOW, Made, pem


def ours(made: Made) -> str:
    """Empty if the chain is accepted as verified, else why not."""
    settings = Certificate(skew_seconds=0)
    try:
        found = certificate.identity(settings, made.chain_pem, None, made.trust_pem, NOW)
    except Refused as error:
        return f"{error.reason}: {error}"
    assert found.state == "verified"
    return ""


def openssl(made: Made, directory: Path, name: str = "chain") -> str:
    """The same by `openssl verify`."""
    leaf, rest, trust = (directory / f"{name}.{part}" for part in ("leaf", "rest", "trust"))
    leaf.write_bytes(pem(made.chain[0]))
    rest.write_bytes(b"".join(map(pem, made.chain[1:])))
    trust.write_bytes(made.trust_pem)
    argv = ["openssl", "verify", "-no-CApath", "-no-CAstore", "-CAfile", str(trust), "-attime", str(NOW)]
    if made.chain[1:]:
        argv += ["-untrusted", str(rest)]
    done = subprocess.run(
        [*argv, "-purpose", "sslclient", str(leaf)], capture_output=True, text=True, check=False
    )
    for path in (leaf, rest, trust):
        path.unlink()
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip() or "refused"


@dataclass(slots=True)
class Comparison:
    """Numbers of chains: accepted and refused by both; stricter: by openssl alone; wrong: by us alone."""

    both: list[int] = field(default_factory=list)
    neither: list[int] = field(default_factory=list)
    stricter: dict[int, str] = field(default_factory=dict)
    wrong: dict[int, str] = field(default_factory=dict)


def compare(numbers: Iterable[int], directory: Path, *, bytes_too: bool = False) -> Comparison:
    """Both verdicts on each of these chains."""
    found = Comparison()

    def one(number: int) -> tuple[int, str, str]:
        made = chain(number, bytes_too=bytes_too)
        return number, ours(made), openssl(made, directory, str(number))

    with ThreadPoolExecutor(4) as pool:
        for number, mine, theirs in pool.map(one, numbers):
            if mine and theirs:
                found.neither.append(number)
            elif mine:
                found.stricter[number] = mine
            elif theirs:
                found.wrong[number] = theirs
            else:
                found.both.append(number)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.rig.chain_verdicts", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--bytes", action="store_true", help="change bytes of every chain as well")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = compare(range(args.first, args.first + args.count), Path(directory), bytes_too=args.bytes)
    print(
        f"accepted by both: {len(found.both)}; refused by both: {len(found.neither)}; refused by us alone:"
        f" {len(found.stricter)}; accepted by us alone: {len(found.wrong)}"
    )
    for reason, count in Counter(found.stricter.values()).most_common():
        number = next(number for number, said in found.stricter.items() if said == reason)
        print(f"  {count} we alone, such as {number} {chain(number).faults}: {reason}")
    for number, said in found.wrong.items():
        print(f"WRONG: chain {number} {chain(number).faults}: openssl says {said}")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
