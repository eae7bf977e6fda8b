# SPDX-License-Identifier: Apache-2.0
"""What the traffic itself said: the payloads' logs, and the truth that both ends of a connection give.

A socket's owner is told by its far end: the nonce in the token that the far end read. A socket whose
token nobody read (refused, reset before) is told by its own line alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

NONCE = 16  # hexadecimal digits at a token's beginning

Address = tuple[str, int]
Key = tuple[int, Address, Address]
"""What a record can be found by: network namespace, local and peer address with port."""


@dataclass(frozen=True, slots=True)
class Line:
    """One end of one connection, as its payload noted it. Times are boottime ns."""

    token: str
    role: str
    netns: int
    local: Address
    peer: Address
    since: int
    until: int
    said: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Socket:
    """One flow that there must be a record of; it opened between since and until."""

    key: Key
    role: str
    since: int
    until: int
    nonce: str
    witnessed: bool


class Contradiction(Exception):
    """Two ends do not tell the same story: the harness is broken."""


def parse(text: str) -> Line:
    token, role, netns, address, port, peer_address, peer_port, since, until, said, outcome = text.split()
    return Line(
        token=token,
        role=role,
        netns=int(netns),
        local=(address, int(port)),
        peer=(peer_address, int(peer_port)),
        since=int(since),
        until=int(until),
        said="" if said == "-" else said,
        outcome=outcome,
    )


def read(directory: Path) -> list[Line]:
    """Every log in `directory`; a last line that a kill cut off does not count."""
    lines: list[Line] = []
    for path in sorted(directory.iterdir()):
        whole = path.read_text(encoding="ascii").rpartition("\n")[0]
        lines.extend(map(parse, whole.splitlines()))
    return lines


def sockets(lines: Iterable[Line]) -> list[Socket]:
    """The truth; Contradiction if the two ends of a connection differ about it."""
    lines = list(lines)
    by_token = {line.token: line for line in lines}
    witness = {line.said: line for line in lines if line.said}
    if len(by_token) != len(lines):
        raise Contradiction("a token was used twice")
    found = []
    for line in lines:
        far = witness.get(line.token)
        if far is not None and (far.local, far.peer) != (line.peer, line.local):
            raise Contradiction(f"{line} and {far} are not two ends of one connection")
        # The client knows when it all began; accept() may have returned much later.
        client = by_token.get(line.said) if line.role == "server" else None
        found.append(
            Socket(
                key=(line.netns, line.local, line.peer),
                role=line.role,
                since=min(line.since, client.since) if client else line.since,
                until=line.until,
                nonce=(far.said if far else line.token)[:NONCE],
                witnessed=far is not None,
            )
        )
    return found
