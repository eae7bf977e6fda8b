# SPDX-License-Identifier: Apache-2.0
"""Who really owned a socket, and what flowtag may say about it. Only the harness knows.

Owners are container ids, or HOST for every process that is in no container.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

HOST = "the host"


def as_host(identity: str) -> str:
    """The host under an identity that its certificate gives it: an owner of its own."""
    return f"{HOST} as {identity}"


def without_identity(owner: str) -> str:
    """The same owner as those name it who know of no certificates."""
    return HOST if owner.startswith(as_host("")) else owner


@dataclass(frozen=True, slots=True)
class Expectation:
    """owner: the truth. reasons: those for which the design leaves such a socket to nobody.

    nobodys: it must be nobody's, even where the truth could be guessed. hooked: a container's whose hook
    ran; the report says for what reasons such are nobody's.
    """

    owner: str
    reasons: frozenset[str] = frozenset()
    nobodys: bool = False
    hooked: bool = False


def hooked(container_id: str, *reasons: str) -> Expectation:
    """A container whose hook ran: its own, but where the design says `reasons`."""
    return Expectation(container_id, frozenset(reasons))


def unhooked(container_id: str) -> Expectation:
    """Nobody's until the exporter has found the container, its own from then on."""
    return Expectation(container_id, frozenset({"unclaimed_container", "expired"}))


def nobodys(owner: str, *reasons: str) -> Expectation:
    """The design leaves it to nobody, whoever it was."""
    return Expectation(owner, frozenset(reasons), nobodys=True)


@dataclass(slots=True)
class Register:
    """Every nonce that was given out, and what is expected of its sockets."""

    by_nonce: dict[str, Expectation] = field(default_factory=dict)

    def nonce(self, expectation: Expectation) -> str:
        """A fresh one: random, so that nothing that flowtag reads can lead to it."""
        nonce = secrets.token_hex(8)
        self.by_nonce[nonce] = expectation
        return nonce
