# SPDX-License-Identifier: Apache-2.0
"""Who this host is: what the first source in the configured order says that can say anything.

The sources: the instance's certificate, the cloud's signed document, the configuration, the host's name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bpf import abi
from bpf.error import FlowtagError

SOURCES = ("certificate", "document", "static", "hostname")
VERIFIED, UNVERIFIED, STALE = abi.STATES[1:]

# Why a source could not say who the host is; metrics count by these.
MISSING = "missing"
UNREADABLE = "unreadable"
UNREACHABLE = "unreachable"
MALFORMED = "malformed"
NOT_YET_VALID = "not_yet_valid"
EXPIRED = "expired"
UNTRUSTED = "untrusted"
UNSUITABLE = "unsuitable"
KEY_MISMATCH = "key_mismatch"
NO_RULE = "no_rule"
REASONS = (
    MISSING,
    UNREADABLE,
    UNREACHABLE,
    MALFORMED,
    NOT_YET_VALID,
    EXPIRED,
    UNTRUSTED,
    UNSUITABLE,
    KEY_MISMATCH,
    NO_RULE,
)
LABEL_PREFIX = "flowtag.io/"
LABELS_MAX = 64


class Refused(FlowtagError):
    """A source that says nothing usable: `reason` is one of REASONS."""

    def __init__(self, reason: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the host is, by one source.

    key tells one certificate or document from the next: another key is another incarnation. not_after is
    in seconds since 1970, None where nothing expires. labels: the operator's, and under flowtag.io/ what
    the source knows itself.
    """

    source: str
    state: str
    workload: str
    app: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    not_after: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one look at the sources gave.

    identity: of the first source that spoke, None if none did. refused: why those before it did not.
    """

    identity: Identity | None
    refused: Mapping[str, Refused] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Static:
    """[identity.static] who the host is, by configuration. workload empty: this source says nothing."""

    workload: str = ""
    app: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_labels("identity.static.labels", self.labels)


Reader = Callable[[], Identity]
"""One source's look: raises Refused where it has nothing to say."""


def look(order: tuple[str, ...], readers: Mapping[str, Reader]) -> Outcome:
    """Ask the sources in this order, until one speaks."""
    refused: dict[str, Refused] = {}
    for name in order:
        try:
            return Outcome(readers[name](), refused)
        except Refused as error:
            refused[name] = error
    return Outcome(None, refused)


def static(settings: Static) -> Identity:
    """The configuration's identity."""
    if not settings.workload:
        raise Refused(MISSING, "identity.static.workload is not set")
    key = repr((settings.workload, settings.app, sorted(settings.labels.items())))
    return Identity("static", UNVERIFIED, settings.workload, settings.app, settings.labels, key)


def hostname() -> Identity:
    """The host's name."""
    name = os.uname().nodename
    return Identity("hostname", UNVERIFIED, name, key=name)


def check_labels(path: str, labels: Mapping[str, str]) -> None:
    """FlowtagError if the operator's labels are too many, too long, or take a source's names."""
    if len(labels) > LABELS_MAX:
        raise FlowtagError(f"{path} has {len(labels)} labels", f"use {LABELS_MAX} at most")
    for key in labels:
        if not 0 < len(key) <= 128 or not key.isprintable() or key.startswith(LABEL_PREFIX):
            raise FlowtagError(
                f"{path} has the key {key!r}", f"use 1 to 128 characters, not beginning with {LABEL_PREFIX}"
            )
