# SPDX-License-Identifier: Apache-2.0
"""Which containers lived when, with which addresses and cgroups: what the simpler methods look up."""

from __future__ import annotations

from dataclasses import dataclass, field

FOREVER = 1 << 63


@dataclass(slots=True)
class Life:
    """One container (or the host), from `since` to `until` in boottime ns."""

    owner: str
    addresses: frozenset[str]
    since: int
    until: int = FOREVER


@dataclass(slots=True)
class Living:
    """Everybody who lived in one run, in order of birth, and the cgroups (v2 ids) that are theirs."""

    lives: list[Life] = field(default_factory=list)
    cgroups: dict[int, str] = field(default_factory=dict)

    def born(self, owner: str, addresses: frozenset[str], now: int) -> Life:
        life = Life(owner, addresses, now)
        self.lives.append(life)
        return life

    def at(self, address: str, moment: int) -> str | None:
        """Who has this address: of several, the youngest, as the last writer of a table wins."""
        for life in reversed(self.lives):
            if address in life.addresses and life.since <= moment < life.until:
                return life.owner
        return None
