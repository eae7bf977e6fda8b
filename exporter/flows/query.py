# SPDX-License-Identifier: Apache-2.0
"""What `flowtag flows` is asked for, from the words of its command line. Light: numpy is not needed yet.

Each parser raises ValueError with what is wrong.
"""

from __future__ import annotations

import ipaddress
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from bpf import abi
from identity import address

ANY = "any"
Network = tuple[bytes, int]
"""16 bytes of address, and how many bits of it count."""
_AGO = re.compile(r"(\d{1,9})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FRACTION = re.compile(r"\.(\d+)")


@dataclass(frozen=True, slots=True)
class Query:
    """Records must meet every condition; of a condition's values one is enough, and none asks nothing.

    workloads, peer_workloads: globs. since, until: ns of UTC, both included, of the record's end.
    limit: the newest so many.
    """

    workloads: tuple[str, ...] = ()
    peer_workloads: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    ports: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    unattributed: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    limit: int | None = None


def network(text: str) -> Network:
    """192.0.2.1, 10.0.0.0/8, 2001:db8::/32."""
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address and no network") from None
    extra = 96 if found.version == 4 else 0
    return address.canonical(found.network_address.packed), found.prefixlen + extra


def port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) < 65536):
        raise ValueError(f"{text!r} is no port")
    return int(text)


def limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 1 << 40):
        raise ValueError(f"{text!r} is no number above 0")
    return int(text)


def moment(text: str) -> int:
    """ns of UTC: 90s, 10m, 2h or 1d ago, or RFC 3339 (without a zone it is UTC)."""
    ago = _AGO.fullmatch(text)
    if ago:
        return time.time_ns() - int(ago[1]) * _SECONDS[ago[2]] * 10**9
    fraction = _FRACTION.search(text)
    try:
        found = datetime.fromisoformat(_FRACTION.sub("", text).upper())
    except ValueError:
        raise ValueError(f"{text!r} is no time; write 10m, 2h or 2026-11-24T17:00:00Z") from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    digits = fraction[1][:9].ljust(9, "0") if fraction else "0"
    return int(found.timestamp()) * 10**9 + int(digits)


KINDS = tuple(name for name in abi.EVENTS if name != "none")
REASONS = (ANY, *(name for name in abi.REASONS if name != "none"))
