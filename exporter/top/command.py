# SPDX-License-Identifier: Apache-2.0
"""`flowtag top`: what each workload's flows do now. Reads beside the exporter and changes nothing."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np

from exporter import ring_tail
from exporter.config import Config
from exporter.flows.names import Names
from exporter.flows.table import amount
from exporter.printable import fit
from exporter.programs import Show
from exporter.ring import DTYPE, HEADER, STRIDE, Columns
from exporter.ring_tail import RingTail
from exporter.top import screen
from exporter.top.difference import Difference
from exporter.top.summary import Line, as_dict, ordered, owners, summarize

KEYS = {"s": "sent", "r": "received", "f": "flows", "o": "opened", "t": "retransmitted", "l": "rtt"} | {
    "e": "failed",
    "w": "workload",
}
_HEAD = f"{'flows':>6} {'open/s':>6} {'sent/s':>6} {'recv/s':>6} {'retr%':>5} {'rtt ms':>7} "
_FAILS = f"{'refus':>5} {'timeo':>5} {'unrch':>5} {'reset':>5}"


class Source:
    """Intervals, from a baseline on. A context manager."""

    def __init__(self, config: Config) -> None:
        self._pins = config.host.pin_directory
        self._show = Show(self._pins)
        self._names = Names(config)
        self._begin()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._ring.__exit__(None, None, None)
        self._show.__exit__()

    def _begin(self) -> None:
        self._ring = RingTail.open(self._pins)
        self._stamp = ring_tail.stamp(self._pins)
        self._baseline()

    def _baseline(self) -> None:
        self._ring.seek(self._ring.producer)
        self._ring.missed = 0
        self._difference = Difference(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        self._difference.step(self._snapshot(), self._drain())
        self._at = time.monotonic()

    def next(self) -> tuple[list[Line], Line, float, int]:
        """Lines, total, seconds since the last call, and records that were missed: then all begins anew."""
        if ring_tail.stamp(self._pins) != self._stamp:
            self._ring.__exit__(None, None, None)
            self._show.__exit__()
            self._show = Show(self._pins)
            self._begin()
        rows = self._snapshot()
        interval = self._difference.step(rows, self._drain())
        now = time.monotonic()
        seconds, self._at = now - self._at, now
        missed = self._ring.missed
        lines, total = summarize(interval, self._names.of(owners(interval)))
        if missed:
            self._baseline()
        return lines, total, seconds, missed

    def _snapshot(self) -> Columns:
        raw = np.frombuffer(self._show.read(), np.uint8).reshape(-1, STRIDE - HEADER)
        whole = np.zeros((len(raw), STRIDE), np.uint8)
        whole[:, HEADER:] = raw
        return whole.reshape(-1).view(DTYPE)

    def _drain(self) -> Columns:
        parts = []
        while (taken := self._ring.take()).count:
            parts.append(taken.records)
        return np.concatenate(parts) if parts else np.empty(0, DTYPE)


def run(config: Config, interval: float, sort: str, *, once: bool, as_json: bool) -> int:
    """Until q or Ctrl-C, or one interval with `once`."""
    try:
        with Source(config) as source:
            if once or as_json or not screen.usable():
                _print(source, interval, sort, once=once, as_json=as_json)
            else:
                _draw(source, interval, sort)
    except KeyboardInterrupt:
        pass
    return 0


def _print(source: Source, interval: float, sort: str, *, once: bool, as_json: bool) -> None:
    while True:
        time.sleep(interval)
        lines, total, seconds, missed = source.next()
        lines = ordered(lines, sort)
        if as_json:
            found = {"seconds": seconds, "missed": missed, "workloads": [as_dict(line) for line in lines]}
            print(json.dumps({**found, "total": as_dict(total)}), flush=True)
        else:
            print("\n".join(table(lines, total, seconds, missed, 120)), flush=True)
        if once:
            return
        if not as_json:
            print()


def _draw(source: Source, interval: float, sort: str) -> None:
    with screen.Screen() as terminal:
        due = time.monotonic() + interval
        shown: tuple[list[Line], Line, float, int] | None = None
        terminal.draw([f"flowtag top: the first {interval:g} s; q ends it"])
        while True:
            key = terminal.key(due - time.monotonic())
            if key == "q":
                return
            sort = KEYS.get(key or "", sort)
            if key is None:
                due = time.monotonic() + interval
                shown = source.next()
            if shown is not None:
                lines, total, seconds, missed = shown
                columns, rows = shutil.get_terminal_size()
                text = table(ordered(lines, sort), total, seconds, missed, columns)
                keys = "  ".join(f"{letter} {name}" for letter, name in KEYS.items())
                foot = f"q end  {keys}"[: columns - 1]
                terminal.draw([*text[: max(3, rows - 1)], foot][:rows])


def table(lines: list[Line], total: Line, seconds: float, missed: int, columns: int) -> list[str]:
    """The total first, then the lines; none wider than the terminal."""
    fails = columns >= 90
    head = _HEAD + (_FAILS if fails else f"{'fail':>4}")
    room = max(8, min(48, columns - len(head) - 2))
    text = [f"{'workload':<{room}} {head}"]
    if missed:
        text.append(f"{missed} records were written over before they were seen: this interval lacks them")
    text += [_row(line, seconds, room, fails=fails) for line in (total, *lines)]
    return [line[: columns - 1] for line in text]


def _row(line: Line, seconds: float, room: int, *, fails: bool) -> str:
    rtt = "-" if line.rtt_us is None else f"{line.rtt_us / 1000:.1f}"
    numbers = (line.opened / seconds, line.bytes_sent / seconds, line.bytes_received / seconds)
    rates = " ".join(f"{amount(number):>6}" for number in numbers)
    why = (line.refused, line.timeout, line.unreachable, line.rst_received)
    failed = " ".join(f"{amount(n):>5}" for n in why) if fails else f"{amount(line.failed):>4}"
    return (
        f"{fit(line.workload, room)} {amount(line.flows):>6} {rates} "
        f"{line.retransmitted:>5.1f} {rtt:>7} {failed}"
    )
