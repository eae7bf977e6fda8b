# SPDX-License-Identifier: Apache-2.0
"""What a row of samples says is wrong. No clock, no files: the newest sample is now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from exporter.health.problem import Problem
from exporter.health.sample import Sample

WINDOW = 300.0
"""Seconds of samples that the rules look at, at most."""
BLIND_SECONDS, BLIND_OPENS = 60.0, 20
LOSS_SECONDS = 60.0
UNCLAIMED_FLOWS = 20
HALF = 0.5


def judge(samples: Sequence[Sample], patience: float, beat_seconds: float, boottime: int) -> list[Problem]:
    """Everything that is wrong.

    samples: the oldest first, at least one. patience: seconds that a condition may last which can go by
    itself. beat_seconds: how long the main loop sleeps. boottime: now, ns.
    """
    found = [*_live(samples, patience + beat_seconds), *_ready(samples, patience, boottime)]
    return [*found, *_degraded(samples[-1], patience)]


def _live(samples: Sequence[Sample], patience: float) -> Iterator[Problem]:
    now = samples[-1]
    if now.changed:
        yield Problem("detached", f"pins removed or replaced: {', '.join(now.changed)}")
    then = _since(samples, BLIND_SECONDS)
    if now.host_opens is not None and then.host_opens is not None:
        opens = now.host_opens - then.host_opens
        # The count before the one, after the other: a flow between two readings makes nobody blind.
        if opens >= BLIND_OPENS and now.opened[1] == then.opened[0]:
            yield Problem("blind", f"the kernel opened {opens} TCP connections, and the programs saw none")
    if now.at - now.beat > patience:
        yield Problem("stalled", f"the main loop has not turned for {now.at - now.beat:.0f} s")
    for name in now.dead:
        yield Problem("thread_dead", f"thread {name} has ended by a mistake")


def _ready(samples: Sequence[Sample], patience: float, boottime: int) -> Iterator[Problem]:
    now = samples[-1]
    lost = now.lost - _since(samples, LOSS_SECONDS).lost
    if lost > 0:
        yield Problem("losing", f"{lost} records or flows lost in the last {LOSS_SECONDS:.0f} s")
    if _lasts(samples, patience, lambda s: s.ring > HALF):
        yield Problem("ring_behind", f"the ring is {now.ring:.0%} full")
    if _lasts(samples, patience, lambda s: s.incomplete):
        text = "ft_cgroup is incomplete: host flows that no claim tells are nobody's (degraded)"
        yield Problem("cgroups_incomplete", text)
    missing = (boottime - now.missing_since) / 1e9
    if now.missing_since and missing > patience:
        text = f"a claim is missing for {missing:.0f} s: the host's flows are nobody's (degraded)"
        yield Problem("claim_missing", text)
    then = _since(samples, WINDOW)
    unclaimed = now.unclaimed - then.unclaimed
    if unclaimed >= UNCLAIMED_FLOWS and now.owned == then.owned:
        text = f"each of the last {unclaimed} containers' flows is nobody's (unclaimed_container)"
        yield Problem("containers_unclaimed", text)
    if now.trouble and _lasts(samples, patience, lambda s: bool(s.trouble)):
        yield Problem("spool_unwritable", f"records wait in the ring: {now.trouble}")


def _degraded(now: Sample, patience: float) -> Iterator[Problem]:
    for sink, (since, error) in sorted(now.failing.items()):
        if now.at - since > patience:
            # Not the error's text: a library may put a password into it.
            yield Problem(
                "sink_failing", f"sink {sink} fails for {now.at - since:.0f} s ({error}, see the log)"
            )
    if now.stale:
        yield Problem("identity_stale", "the host's identity is no longer confirmed by its source")


def _since(samples: Sequence[Sample], seconds: float) -> Sample:
    """The oldest sample that is not older than so long before now."""
    begin = samples[-1].at - seconds
    return next(sample for sample in samples if sample.at >= begin)


def _lasts(samples: Sequence[Sample], seconds: float, wrong: Callable[[Sample], bool]) -> bool:
    """Whether it was wrong in each sample of that time, and still is."""
    first = None
    for sample in reversed(samples):
        if not wrong(sample):
            break
        first = sample
    return first is not None and samples[-1].at - first.at >= seconds
