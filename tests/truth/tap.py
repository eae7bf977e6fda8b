# SPDX-License-Identifier: Apache-2.0
"""The exporter's records, each with the moment at which a reader had it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporter.records import boot_to_wall
from tests.rig.exporter import Exporter, Record
from tests.truth.log import Address, Key
from tests.truth.owner import HOST, as_host

_NETNS = re.compile(r'"netns": ?"(\d+)"')
LOST = ("lost_ring", "lost_storage", "lost_socket", "lost_close")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What flowtag says about one flow. Times are boottime ns; opened is None for an adopted socket.

    owner: a container id, HOST, as_host() by a certificate, or None for nobody; rule and reason as the
    record has them.
    """

    key: Key
    role: str
    opened: int | None
    ended: int
    read: int
    owner: str | None
    rule: str
    reason: str
    source: str

    @property
    def time(self) -> int:
        return self.ended if self.opened is None else self.opened


class Tap(Exporter):
    """The real exporter; what it prints is kept as lines with their time of arrival."""

    def __init__(self, directory: Path, pins: Path, roots: Sequence[str], tables: str) -> None:
        super().__init__(directory, pins, engine_roots=roots, tables=tables)
        self._arrived: list[tuple[int, str]] = []
        self._parsed = 0
        self._named: set[tuple[str, int]] = set()
        self._ours: list[tuple[int, Record]] = []

    def _read_records(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        with process.stdout as lines:
            for line in lines:
                self._arrived.append((time.clock_gettime_ns(time.CLOCK_BOOTTIME), line))

    def absorb(self, keys: Set[Key]) -> int:
        """Read what has come; how many closes of sockets with one of these keys there are by now."""
        spaces = {str(netns) for netns, _, _ in keys}
        while self._parsed < len(self._arrived):
            arrived, line = self._arrived[self._parsed]
            self._parsed += 1
            found = _NETNS.search(line)
            # Others on this machine have sockets too. A line without an end: the exporter was killed.
            if found and found[1] in spaces and line.endswith("\n"):
                record = json.loads(line)
                name = record["ring"], record["sequence"]
                # Delivery is at least once: after a kill the last batch may come again, word for word.
                if record["kind"] == "close" and name not in self._named and _key(record) in keys:
                    self._named.add(name)
                    self._ours.append((arrived, record))
        return len(self._ours)

    def verdicts(self, keys: Set[Key]) -> list[Verdict]:
        """All closes so far of sockets that have one of these keys."""
        self.absorb(keys)
        records = [record for _, record in self._ours]
        opened = _boottimes([record["time_open"] for record in records])
        ended = _boottimes([record["time_end"] for record in records])
        return [
            _verdict(record, at, None if record["time_open"] is None else begun, end)
            for (at, record), begun, end in zip(self._ours, opened, ended, strict=True)
        ]

    def lost(self) -> int:
        """What the kernel side counted as lost; after stop(), which makes the exporter say so."""
        said = [line for line in self.log.splitlines() if "counters since the maps were made" in line]
        assert said, f"the exporter told no counters: {self.log}"
        return sum(int(n) for name in LOST for n in re.findall(rf"\b{name}\W+(\d+)", said[-1]))


def _boottimes(texts: list[str | None]) -> list[int]:
    walls = np.array([text.rstrip("Z") if text else "NaT" for text in texts], "datetime64[ns]")
    found: list[int] = (walls.astype(np.int64) - boot_to_wall()).tolist()
    return found


def _key(record: Record) -> Key:
    return int(record["netns"]), _address(record, "local"), _address(record, "peer")


def _address(record: Record, side: str) -> Address:
    return record[f"{side}_address"], record[f"{side}_port"]


def _verdict(record: Record, read: int, opened: int | None, ended: int) -> Verdict:
    kind = record["workload_kind"]
    owner = None if kind == "none" else HOST if kind == "host" else record["container_id"]
    if record["identity_source"] == "certificate":
        owner = as_host(record["workload"])
    return Verdict(
        key=_key(record),
        role=record["role"],
        opened=opened,
        ended=ended,
        read=read,
        owner=owner,
        rule=record["attributed_by"],
        reason=record["unattributed_reason"] or "",
        source=record["identity_source"] or "",
    )
