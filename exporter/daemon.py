# SPDX-License-Identifier: Apache-2.0
"""The exporter: takes the kernel side over, then turns the ring into records until told to stop."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import structlog

from bpf.error import FlowtagError
from exporter import activators, counters, describe, garbage, host, log, metrics, programs, records
from exporter.batch import Origin
from exporter.config import Config
from exporter.describe import Describer
from exporter.directories import prepare
from exporter.host_life import HostLife
from exporter.interim import Interims, counter
from exporter.lock import Lock
from exporter.ownership import Ownership
from exporter.reconcile import Reconciler
from exporter.ring import Batch, Ring
from exporter.workloads import Workloads
from identity import cgroup, engines, nat64, netns
from identity.pinned import open_map

if TYPE_CHECKING:
    from exporter.spool.spooling import Spooling

Format = Callable[[Batch], str]
COLLECT_SECONDS = 30


class ClosedOutput(Exception):
    """Whoever read our standard output has gone: the end, and no error."""


def run(config: Config, output: str, seconds: float | None) -> int:
    """Run for `seconds` (None: until SIGINT or SIGTERM); `output` is json, table or none."""
    log.configure()
    logger = structlog.get_logger()
    stop = _Stop(seconds)
    prepare(config)
    with (
        Lock(config.host.run_directory),
        programs.Programs(_knobs(config), config.host.pin_directory, config.exporter.ring_bytes) as loaded,
        open_map("ft_workload", config.host.pin_directory) as workload_map,
        open_map("ft_count", config.host.pin_directory) as count_map,
        open_map("ft_addr", config.host.pin_directory) as address_map,
    ):
        loaded.attach(programs.CGROUP_PROGRAMS)
        life = HostLife(config, workload_map, loaded.host)
        life.begin()
        reconciler = Reconciler(config, loaded, count_map)
        reconciler.tick()
        loaded.attach(programs.FLOW_PROGRAMS)
        visited = loaded.adopt()
        logger.info("attached", pins=config.host.pin_directory, namespaces=visited)
        try:
            # Sources start their threads here, after attaching: their imports must not delay that.
            workloads = Workloads(workload_map)
            sources = [life.names, *describe.open_sources(config.identity)]
            with (
                Ring(loaded.map_fd("ft_events")) as ring,
                Describer(config.identity, sources) as describer,
                life,
                metrics.serve(config.metrics, [metrics.host(life)]),
                Interims(
                    config.exporter.interim_seconds,
                    loaded,
                    ring,
                    Ownership(address_map, workload_map, loaded.tell_owner),
                    counter(count_map),
                ),
            ):
                text = _format(config, output, ring, workloads, describer)

                def tick() -> None:
                    reconciler.tick()
                    if life.tick():
                        workloads.forget()

                if config.spooled:
                    from exporter.spool import spooling  # pyarrow, for those who spool

                    with spooling.start(config, output, ring, workloads, describer) as way:
                        written = _follow(config, way, text, tick, stop)
                    way.report()
                else:
                    written = _drain(config, ring, text, tick, stop)
        finally:
            totals = counters.read(count_map)
            totals["recursion_misses"] = loaded.recursion_misses()
            totals["open"] = loaded.open_flows()
            logger.info("counters since the maps were made", **totals)
        logger.info("stopped", records_written=written)
    return 0


class _Stop:
    """True once a signal came or the time is over."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._signalled = False
        self.writing = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signal)

    def _signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        if self.writing:  # a reader that stalls must not keep us; what it did not get stays in the ring
            raise ClosedOutput

    def __bool__(self) -> bool:
        return self._signalled or (self._end is not None and time.monotonic() >= self._end)


def _knobs(config: Config) -> programs.Knobs:
    return programs.Knobs(
        host_netns=netns.host_cookie(),
        host_needs_claim=cgroup.mount_point() is None and config.host.host_network_containers,
        roots=engines.roots(config.host.engine_roots),
        activators=config.host.activators,
        activator_cgroups=activators.cgroup_ids(config.host.activators),
    )


def _format(config: Config, output: str, ring: Ring, workloads: Workloads, describer: Describer) -> Format:
    if output == "none":
        return lambda taken: ""
    prefixes = tuple(map(nat64.parse, config.translation.nat64_prefixes))
    origin = Origin(host.host_id(), host.boot_id(), ring.id, prefixes)
    if output == "table":
        _write(records.HEADER)
        return lambda taken: records.table(records.live(taken, workloads, origin, describer))
    return lambda taken: records.json_lines(records.live(taken, workloads, origin, describer))


def _drain(config: Config, ring: Ring, text: Format, tick: Callable[[], None], stop: _Stop) -> int:
    """Until `stop`: what is in the ring goes out, and only then its room back to the kernel."""
    written = 0
    collected = time.monotonic()
    last = False
    while not last:
        last = bool(stop)
        if not last:
            ring.wait(config.exporter.drain_ms / 1000)
        tick()  # first, so that what is in the ring goes out under the names that are known now
        while True:
            batch = ring.take()
            if batch.count == 0:
                break
            lines = text(batch)
            try:
                stop.writing = True
                _write(lines)
            except ClosedOutput:
                return written
            finally:
                stop.writing = False
            ring.release(batch.end)
            written += len(batch.records)
        if time.monotonic() - collected > COLLECT_SECONDS:
            _collect(config)
            collected = time.monotonic()
    return written


def _follow(config: Config, way: Spooling, text: Format, tick: Callable[[], None], stop: _Stop) -> int:
    """Until `stop`: the live tap, beside the threads that spool; how many records it showed."""
    written = 0
    collected = time.monotonic()
    while not stop:
        taken = way.live(config.exporter.drain_ms / 1000)
        if taken is not None:
            try:
                stop.writing = True
                _write(text(taken))
            except ClosedOutput:
                return written
            finally:
                stop.writing = False
            written += len(taken.records)
        tick()
        if time.monotonic() - collected > COLLECT_SECONDS:
            _collect(config)
            collected = time.monotonic()
    return written


def _collect(config: Config) -> None:
    """What cannot be collected now is collected another time: the records go on."""
    try:
        garbage.Collector(config, garbage.now()).run()
    except (OSError, FlowtagError) as error:
        structlog.get_logger().warning("collecting garbage", error=str(error))


def _write(text: str) -> None:
    """To standard output, whole; records that could not be written stay in the ring."""
    data = memoryview(text.encode())
    try:
        while data:
            data = data[os.write(sys.stdout.fileno(), data) :]
    except BrokenPipeError:
        raise ClosedOutput from None
    except OSError as error:
        raise FlowtagError(
            f"writing records to standard output: {error.strerror}",
            "what was not written stays in the ring for the next run",
        ) from None
