# SPDX-License-Identifier: Apache-2.0
"""What `flowtag check` says about flowtag itself: maps, programs, exporter, losses, hook."""

from __future__ import annotations

import os
from collections.abc import Iterator

from bpf import abi, loaded
from bpf.error import FlowtagError, LayoutError
from exporter import counters, lock
from exporter.check import FAIL, OK, WARN, Check, Finding
from exporter.config import Config
from exporter.health.problem import DEGRADED
from exporter.maps_dump import ring_positions
from exporter.programs import CGROUP_PROGRAMS, FLOW_PROGRAMS, link_path
from identity import gap, incarnation
from identity.pinned import open_map

# Losses by counter: what is lost, and what to do.
LOSSES = {
    "lost_ring": ("records: the ring was full", "raise exporter.ring_bytes, or see why `flowtag run` lags"),
    "lost_storage": ("flows: no memory for what their sockets remember", "see the kernel's memory"),
    "lost_socket": ("closes: the socket was no full TCP socket", "report it"),
    "lost_close": ("flows: reopened before anybody saw their close", "report it"),
    "cgroup_full": ("cgroups without room in ft_cgroup", "see `flowtag maps dump`: who fills it?"),
}
# Programs that have no second witness.
_ALONE = (*CGROUP_PROGRAMS, "flowtag_destroy")


def maps(config: Config) -> Iterator[Finding]:
    pins = config.host.pin_directory
    missing, there = [], []
    for name in abi.MAPS:
        try:
            with open_map(name, pins) as pinned:
                there.append(name)
                if name == "ft_events":
                    yield _ring(*ring_positions(pinned), pinned.max_entries)
        except LayoutError as error:
            yield Finding(FAIL, "maps", str(error), error.hint)
        except FlowtagError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                missing.append(name)
            else:
                yield Finding(FAIL, "maps", str(error), error.hint)
    if missing and there:
        yield Finding(FAIL, "maps", f"{', '.join(missing)} not in {pins}", "run `flowtag maps create`")
    elif missing:
        yield Finding(
            WARN,
            "maps",
            f"none in {pins}: containers that start now stay unknown",
            "run `flowtag maps create`, at boot best",
        )
    elif len(there) == len(abi.MAPS):
        yield Finding(OK, "maps", f"all {len(there)} in {pins}, of layout {abi.LAYOUT}")


def _ring(consumed: int, produced: int, size: int) -> Finding:
    waiting = produced - consumed
    text = f"{waiting} of {size} bytes wait for the exporter"
    if not 0 <= waiting <= size:
        return Finding(FAIL, "ring", f"positions {consumed}, {produced} cannot be", "report it")
    if waiting > size // 2:
        return Finding(WARN, "ring", text, "is `flowtag run` running? a full ring loses records")
    return Finding(OK, "ring", text)


def programs(config: Config) -> Iterator[Finding]:
    attached = []
    missing = []
    for name in CGROUP_PROGRAMS + FLOW_PROGRAMS:
        path = link_path(config.host.pin_directory, name)
        try:
            link = loaded.link(path)
        except FileNotFoundError:
            missing.append(name)
        except OSError as error:
            yield Finding(FAIL, "programs", f"reading link {path}: {error.strerror}", "run as root")
        else:
            attached.append(name)
            yield _misses(link)
    if missing and attached:
        yield Finding(FAIL, "programs", f"not attached: {', '.join(missing)}", "restart `flowtag run`")
    elif missing:
        yield Finding(
            WARN, "programs", "none attached: flows are not recorded", "`flowtag run` attaches them"
        )
    elif attached:
        yield Finding(OK, "programs", f"attached: {', '.join(attached)}")


def _misses(link: loaded.Link) -> Finding:
    text = f"{link.program} on {link.attached_to}: {link.misses} recursion misses"
    if link.misses and link.program in _ALONE:
        return Finding(WARN, "programs", text, "events that no program saw; report it if it grows")
    if link.misses:
        text += ", for flowtag_destroy to rescue"
    return Finding(OK, "programs", text)


def claims(config: Config) -> Iterator[Finding]:
    try:
        missing = gap.read(config.host.pin_directory)
    except FlowtagError:
        return  # maps() has said so
    if missing.since:
        yield Finding(
            FAIL,
            "claims",
            "a container's claim could not be written, so the host's own flows are nobody's (degraded)",
            "its identity is lost: end the containers on the host's network, remove the maps, start again"
            if missing.by == gap.LOST
            else f"{config.host.run_directory}/pending has its `reason`; `flowtag run` writes it when it can",
        )


def exporter(config: Config) -> Iterator[Finding]:
    if lock.held(config.host.run_directory):
        yield Finding(OK, "exporter", "runs")
        yield from _health(config.metrics.listen)
    else:
        yield Finding(
            WARN,
            "exporter",
            "does not run: what the programs report waits in the ring",
            "start `flowtag run`",
        )


def _health(listen: str) -> Iterator[Finding]:
    """What the running exporter says of itself at /readyz, where it is asked."""
    if not listen:
        return
    from exporter.metrics import ask

    try:
        told = ask.ask(listen)
    except (OSError, ValueError) as error:
        yield Finding(
            WARN, "exporter", f"its health cannot be had at {listen}: {error}", "is it the same file?"
        )
        return
    for one in told:
        yield Finding(WARN if one.severity == DEGRADED else FAIL, "exporter", one.text, one.hint)


def losses(config: Config) -> Iterator[Finding]:
    try:
        with open_map("ft_count", config.host.pin_directory) as count:
            totals = counters.read(count)
    except FlowtagError:
        return  # maps() has said so
    for name, (what, hint) in LOSSES.items():
        if totals[name]:
            yield Finding(WARN, "losses", f"{name}: {totals[name]} {what}", hint)
    if not any(totals[name] for name in LOSSES):
        yield Finding(OK, "losses", f"none in {totals['records']} records since the maps were made")


def spool(config: Config) -> Iterator[Finding]:
    """The ledger of each sink, from the directory alone: the exporter may be at work there."""
    if not config.spooled:
        return
    from exporter.spool import ledger  # and pyarrow with it

    try:
        rows = ledger.read(config.spool.directory)
    except FileNotFoundError:
        yield Finding(WARN, "spool", f"{config.spool.directory} is not there yet", "start `flowtag run`")
        return
    for row in rows:
        dropped = {reason: count for reason, count in row.dropped.items() if count}
        text = f"{row.sink}: {row.seen} seen, {row.delivered} delivered, {row.waiting} waiting"
        if dropped:
            text += ", dropped " + ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        if row.unaccounted:
            text += f", {row.unaccounted} unaccounted"
        lost = dropped or row.unaccounted
        yield Finding(WARN if lost else OK, "spool", text, "see docs/spool.md" if lost else "")


def hook(config: Config) -> Iterator[Finding]:
    """What the hook has left for us. Whether it works and who calls it is `flowtag status`'s to say."""
    run = config.host.run_directory
    settings = os.path.join(run, "hook")
    if not os.path.exists(settings):
        yield Finding(
            WARN,
            "hook",
            f"its settings are not there ({settings}): it takes the defaults",
            "run `flowtag maps create`",
        )
    live = _files(os.path.join(run, "live"))
    if live:
        text = f"{live} containers were announced by it and have not ended; `flowtag status` says more"
        yield Finding(OK, "hook", text)
    else:
        yield Finding(
            WARN,
            "hook",
            "no container was announced by it since boot, or all have ended",
            "`flowtag status` says whether engines call it",
        )
    # Without a reason its hook is still at work on it.
    pending = sum(bool(one.reason) for _, one in incarnation.every(os.path.join(run, "pending")))
    if pending:
        yield Finding(
            FAIL,
            "hook",
            f"{pending} identities could not be written and wait in {run}/pending",
            "`flowtag run` writes them; each file's `reason` says why",
        )


def _files(directory: str) -> int:
    try:
        return sum(name.endswith(".json") for name in os.listdir(directory))
    except FileNotFoundError:
        return 0


CHECKS: tuple[Check, ...] = (maps, programs, claims, exporter, losses, spool, hook)
