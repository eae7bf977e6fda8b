# SPDX-License-Identifier: Apache-2.0
"""What a look at the sources means for the host's current incarnation, and what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from bpf import abi
from bpf.syscall import Map
from exporter import host
from exporter.config import Identity as Settings
from exporter.host import KEEP, SUCCEED, TAKE_ON, Incarnation
from exporter.host_sources import waited_for
from identity.instance import MISSING, Identity, Outcome, Refused
from identity.workload import Workload

ORDER = ("certificate", "document", "static", "hostname")
CERTIFICATE = Identity("certificate", "verified", "shop/web", "web", {"a": "b"}, "f1", 1e9)
DOCUMENT = Identity("document", "verified", "i-1", key="i-1")
NAME = Identity("hostname", "unverified", "vm", key="vm")
MISSED = Refused(MISSING, "no such file")


class Entries:
    """A map in memory."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def update(self, key: bytes, value: bytes) -> None:
        self.values[key] = value


@pytest.fixture
def entries() -> Map:
    return cast(Map, Entries())


def incarnation(identity: Identity, **values: bool) -> Incarnation:
    return Incarnation(77_777, 5, identity, **values)


@pytest.mark.parametrize(
    ("current", "found", "wanted"),
    [
        (None, NAME, SUCCEED),
        (None, None, KEEP),
        (incarnation(CERTIFICATE), None, KEEP),
        (incarnation(CERTIFICATE), CERTIFICATE, KEEP),
        # Another certificate of the same name is another incarnation.
        (
            incarnation(CERTIFICATE),
            Identity("certificate", "verified", "shop/web", "web", {"a": "b"}, "f2"),
            SUCCEED,
        ),
        # The same one under other rules too.
        (
            incarnation(CERTIFICATE),
            Identity("certificate", "verified", "other", "web", {"a": "b"}, "f1"),
            SUCCEED,
        ),
        # What a lesser source says never replaces the last good identity.
        (incarnation(CERTIFICATE), NAME, KEEP),
        (incarnation(CERTIFICATE), DOCUMENT, KEEP),
        (incarnation(CERTIFICATE, stale=True), DOCUMENT, KEEP),
        # What was waited for takes the provisional one over, else it follows it.
        (incarnation(NAME, provisional=True), CERTIFICATE, TAKE_ON),
        (incarnation(DOCUMENT, provisional=True), CERTIFICATE, TAKE_ON),
        (incarnation(NAME), CERTIFICATE, SUCCEED),
        (incarnation(NAME, provisional=True), Identity("hostname", "unverified", "new", key="new"), SUCCEED),
    ],
)
def test_decision(current: Incarnation | None, found: Identity | None, wanted: str) -> None:
    assert host.decide(current, Outcome(found), ORDER) == wanted


def test_source_that_is_configured_no_more_is_left() -> None:
    assert host.decide(incarnation(CERTIFICATE), Outcome(NAME), ("hostname",)) == SUCCEED


def test_static_identity_that_is_not_set_is_not_waited_for() -> None:
    assert not waited_for(Settings(), Outcome(NAME, {"static": MISSED}))
    assert waited_for(Settings(), Outcome(NAME, {"static": MISSED, "certificate": MISSED}))


def test_incarnation_is_found_again(entries: Map, tmp_path: Path) -> None:
    current = incarnation(CERTIFICATE, provisional=True, stale=True)
    assert host.load(entries, str(tmp_path)) is None
    host.store(current, entries, str(tmp_path))
    assert host.load(entries, str(tmp_path)) == current
    stored = Workload.unpack(entries.get(abi.ID.pack(current.id)) or b"")
    assert (stored.name, stored.app, stored.start, stored.end) == ("shop/web", "web", 5, 0)
    assert (abi.SOURCES[stored.source], abi.STATES[stored.state]) == ("certificate", "stale")


@pytest.mark.parametrize("name", ["a\x01b", "x" * 300, "\u00fc" * 200])
def test_name_that_the_map_has_no_room_for_is_found_again(entries: Map, tmp_path: Path, name: str) -> None:
    current = incarnation(Identity("certificate", "verified", name, key="f1"))
    host.store(current, entries, str(tmp_path))
    assert host.load(entries, str(tmp_path)) == current


@pytest.mark.parametrize(
    "content", [None, "", "{}", "[]", '{"id": 1}', '{"id": 4, "start": 1, "identity": {}}']
)
def test_without_its_file_the_maps_tell(entries: Map, tmp_path: Path, content: str | None) -> None:
    host.store(incarnation(CERTIFICATE), entries, str(tmp_path))
    path = tmp_path / host.FILE
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="ascii")
    found = host.load(entries, str(tmp_path))
    assert found is not None
    assert (found.id, found.identity.workload, found.identity.source) == (77_777, "shop/web", "certificate")


def test_file_of_another_incarnation_is_not_believed(entries: Map, tmp_path: Path) -> None:
    host.store(incarnation(CERTIFICATE), cast(Map, Entries()), str(tmp_path))
    host.store(Incarnation(88_888, 6, NAME), entries, str(tmp_path / "elsewhere"))
    found = host.load(entries, str(tmp_path))
    assert found is not None
    assert (found.id, found.identity.workload) == (88_888, "vm")


def test_file_that_cannot_be_written_is_no_fault(entries: Map, tmp_path: Path) -> None:
    host.store(incarnation(CERTIFICATE), entries, str(tmp_path / "nowhere"))
    assert host.load(entries, str(tmp_path / "nowhere")) is not None
