# SPDX-License-Identifier: Apache-2.0
"""The host's identity over time: what is in the maps, in the names and in the metrics after each event."""

from __future__ import annotations

import mmap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from bpf import abi
from bpf.error import FlowtagError
from bpf.syscall import Map
from exporter import check_identity
from exporter.config import Config, Host, Metrics, endpoint
from exporter.config import Identity as Settings
from exporter.host_history import LEAD_NS, HostHistory
from exporter.host_life import HostLife
from exporter.metrics import host
from exporter.metrics.exposition import Exposition
from identity.certificate import Certificate
from identity.certificate_rules import Rule
from identity.workload import Workload
from tests.rig.chains import Made, good
from tests.unit.test_host import Entries

RULES = (Rule("cn", "(?P<app>[a-z]+)-(?P<n>[0-9]+)", "{value}", "{app}", {"team": "{app}"}),)


class Place:
    """A host in memory, its certificate in a directory; tick() is a look and what follows of it."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.path, self.trust = directory / "client.crt", directory / "ca.pem"
        certificate = Certificate(path=str(self.path), trust=str(self.trust), rules=RULES)
        self.config = Config(
            Host(run_directory=str(directory)), identity=Settings(certificate=certificate, **settings)
        )
        self.entries = Entries()
        self.memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.start()

    def start(self) -> None:
        """The exporter begins, or begins again."""
        self.history = HostHistory(self.memory)
        self.life = HostLife(self.config, cast(Map, self.entries), self.history)
        self.life.begin()
        self.life.tick()

    def put(self, cn: str, **leaf: Any) -> Made:
        now = int(time.time())
        made = good(cn=cn, **{"names": (), "begin": now - 60, "end": now + 3600, **leaf})
        for spec in made.specs[:-1]:
            spec.begin, spec.end = now - 3600, now + 7200
        files = made.make()
        self.path.write_bytes(files.chain_pem)
        self.trust.write_bytes(files.trust_pem)
        for path in (self.path, self.trust):
            path.chmod(0o644)
        return files

    def tick(self) -> bool:
        self.life._first = self.life._sources.look()
        return self.life.tick()

    def slot(self) -> Workload:
        return Workload.unpack(self.entries.values[abi.ID.pack(abi.OWNER_HOST_SLOT)])

    def entry(self, number: int) -> Workload:
        return Workload.unpack(self.entries.values[abi.ID.pack(number)])

    def said(self) -> tuple[str, str, str]:
        slot = self.slot()
        return slot.name, abi.SOURCES[slot.source], abi.STATES[slot.state]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_certificate_names_the_host(place: Place) -> None:
    place.put("web-1")
    assert place.tick()
    assert place.said() == ("web-1", "certificate", "verified")
    names = place.life.names.names(place.slot())
    assert names is not None
    assert (names.app, names.labels["team"]) == ("web", "web")
    assert "flowtag.io/certificate" in names.labels


def test_provisional_identity_takes_the_certificates_on(place: Place) -> None:
    """The id stays, so what has not left yet is told under the better name."""
    before = place.slot()
    assert abi.SOURCES[before.source] == "hostname"
    place.put("web-1")
    assert place.tick()
    assert place.slot().id == before.id == place.history.current()
    assert place.entry(before.id) == place.slot()


def test_rotation_begins_another_incarnation_ahead_of_now(place: Place) -> None:
    place.put("web-1")
    place.tick()
    old = place.slot()
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    place.put("web-1")
    assert place.tick()
    new = place.slot()
    assert new.id != old.id
    assert new.name == old.name
    assert before + LEAD_NS <= new.start
    assert place.entry(old.id).end == new.start
    assert place.entry(new.id) == new
    assert place.history.current() == new.id


def test_same_certificate_keeps_its_id_over_a_restart(place: Place) -> None:
    place.put("web-1")
    place.tick()
    old = place.slot()
    place.start()
    assert place.slot() == old
    place.put("web-1")
    place.start()
    assert place.slot().id != old.id


@pytest.mark.parametrize("how", ["cut", "missing", "expired", "tampered", "others"])
def test_last_good_identity_is_kept_and_becomes_stale(tmp_path: Path, how: str) -> None:
    place = Place(tmp_path, stale_seconds=0)
    place.put("web-1")
    place.tick()
    good_one = place.path.read_bytes()
    old = place.slot()
    now = int(time.time())
    reason = {"cut": "malformed", "tampered": "untrusted", "others": "unreadable"}.get(how, how)
    before = place.life.numbers.refused["certificate", reason]
    if how == "cut":
        place.path.write_bytes(good_one[: len(good_one) // 2])
    elif how == "missing":
        place.path.unlink()
    elif how == "expired":
        place.put("web-2", begin=now - 9000, end=now - 3600)
    elif how == "tampered":
        place.put("web-2", broken=True)
    else:
        place.path.chmod(0o666)
    assert place.tick()
    assert place.slot().id == old.id
    assert place.said() == ("web-1", "certificate", "stale")
    assert place.life.numbers.refused["certificate", reason] == before + 1
    place.tick()
    assert place.life.numbers.refused["certificate", reason] == before + 1  # the same, not another
    # It stands over a restart, too.
    place.start()
    assert place.said() == ("web-1", "certificate", "stale")
    # And the same certificate, good again, is the same incarnation.
    place.path.unlink(missing_ok=True)
    place.path.write_bytes(good_one)
    if how not in ("expired", "tampered"):
        assert place.tick()
        assert (place.slot().id, *place.said()) == (old.id, "web-1", "certificate", "verified")


def test_identity_is_not_stale_before_its_time(place: Place) -> None:
    place.put("web-1")
    place.tick()
    place.path.unlink()
    assert not place.tick()
    assert place.said() == ("web-1", "certificate", "verified")


def test_full_map_is_survived(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = place.slot()

    def full(key: bytes, value: bytes) -> None:
        raise OSError(7, "Argument list too long", "ft_workload")

    with monkeypatch.context() as patch:
        patch.setattr(place.entries, "update", full)
        place.put("web-1")
        place.tick()
    assert place.slot() == before
    place.tick()
    assert place.said() == ("web-1", "certificate", "verified")


# What is said elsewhere.


def test_metrics_tell_state_expiry_and_refusals(place: Place) -> None:
    place.put("web-1")
    place.tick()
    place.path.write_bytes(b"nonsense")
    place.tick()
    lines = Exposition([host.host(place.life)]).page("").body.decode().splitlines()
    assert 'flowtag_host_identity_state{source="certificate",state="verified"} 1.0' in lines
    assert 'flowtag_host_identity_refused_total{reason="malformed",source="certificate"} 1.0' in lines
    assert 'flowtag_host_identity_refused_total{reason="expired",source="certificate"} 0.0' in lines
    assert "flowtag_host_identity_changes_total 1.0" in lines
    (expiry,) = (float(line.split()[1]) for line in lines if line.startswith("flowtag_certificate_not"))
    assert time.time() < expiry <= time.time() + 3600


@pytest.mark.parametrize(
    "text", ["localhost:1", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:x", ":9464", "1.2.3.4:99999"]
)
def test_bad_listen_is_refused(text: str) -> None:
    with pytest.raises(FlowtagError, match=r"metrics\.listen"):
        Metrics(text)
    assert endpoint("[::1]:9464") == ("::1", 9464)


def findings(place: Place) -> list[tuple[str, str]]:
    return [(found.state, found.text) for found in check_identity.sources(place.config)]


def test_check_says_what_speaks_and_why_what_is_better_does_not(place: Place) -> None:
    ((state, text), *_) = findings(place)
    assert state == "warn"
    assert "certificate refused, missing" in text
    place.put("web-1", end=int(time.time()) + 200)
    ((state, text), *_) = findings(place)
    assert (state, text.partition(",")[0]) == ("warn", "certificate: web-1")  # whatever renews it is late
    place.put("web-1")
    ((state, text), *_) = findings(place)
    assert state == "ok"
    place.path.write_bytes(b"nonsense")
    assert "malformed" in findings(place)[0][1]


def test_check_has_nothing_to_say_where_nothing_is_configured() -> None:
    found = list(check_identity.sources(Config(Host(pin_directory="/nonexistent"))))
    assert {finding.state for finding in found} == {"ok"}


def test_labels_of_a_flow_that_outlives_many_certificates(place: Place) -> None:
    """A week of hourly ones."""
    place.put("web-1")
    place.tick()
    first = place.slot()
    assert place.life.current
    for number in range(168):
        place.life.names.learn(replace(place.life.current, id=first.id + number + 1))
    names = place.life.names.names(first)
    assert names is not None
    assert names.labels["team"] == "web"


def test_source_that_comes_back_is_told(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    files = place.put("web-1")
    place.tick()
    place.path.unlink()
    place.tick()
    assert "does not confirm it" in capsys.readouterr().out
    place.path.write_bytes(files.chain_pem)
    place.tick()
    assert "confirmed again" in capsys.readouterr().out
    place.tick()
    assert "confirmed again" not in capsys.readouterr().out
