# SPDX-License-Identifier: Apache-2.0
"""The TCP sockets of every network namespace that has a process, and who holds them (proc(5)).

/proc/PID/net/tcp and tcp6 show the namespace of the process. A namespace without a process, one that
only a bind mount keeps, is not seen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from identity.address import canonical

_STATES = (
    "?",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
)


@dataclass(frozen=True, slots=True)
class Socket:
    """One line of the table; inode is 0 where no process holds the socket any more."""

    address: bytes
    port: int
    state: str
    inode: int


def parse(line: str) -> Socket:
    """One line of /proc/net/tcp or tcp6 below the heading; ValueError if it is not one."""
    try:
        _, local, _, state, *rest = line.split()
        text, port = local.split(":")
        raw = bytes.fromhex(text)
        if sys.byteorder == "little":  # 32-bit words, printed as the host's numbers
            raw = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
        code = int(state, 16)
        name = _STATES[code] if code < len(_STATES) else str(code)
        return Socket(canonical(raw), int(port, 16), name, int(rest[5]))
    except (ValueError, IndexError):
        raise ValueError(f"not a line of a TCP table: {line!r}") from None


def namespaces() -> dict[str, int]:
    """The lowest pid in each network namespace, by the namespace's link in /proc."""
    found: dict[str, int] = {}
    for pid in _pids():
        try:
            found.setdefault(os.readlink(f"/proc/{pid}/ns/net"), pid)
        except OSError:
            continue
    return found


def sockets(pid: int) -> Iterator[Socket]:
    """The sockets in a process's network namespace; none if it has gone."""
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{table}", encoding="ascii") as file:
                next(file, None)
                for line in file:
                    yield parse(line)
        except OSError:
            continue


def holders(inodes: set[int]) -> dict[int, list[int]]:
    """The pids that have these sockets open, by inode."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes if inode}
    found: dict[int, list[int]] = {inode: [] for inode in wanted.values()}
    for pid in _pids() if wanted else ():
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for name in names:
            try:
                inode = wanted.get(os.readlink(f"/proc/{pid}/fd/{name}"))
            except OSError:
                continue
            if inode is not None and pid not in found[inode]:
                found[inode].append(pid)
    return found


def _pids() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
