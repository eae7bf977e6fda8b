# SPDX-License-Identifier: Apache-2.0
"""EC2 mode in one run: the host by its certificate, containers by the hook, rotation and every failure."""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bpf import abi
from bpf.syscall import Map
from exporter.host_history import LEAD_NS
from identity.workload import Workload
from tests.rig.bundle import HOST
from tests.rig.container import Runc
from tests.rig.exporter import Exporter, Record, flowtag
from tests.rig.host_certificate import HostCertificate
from tests.rig.imds import FIELDS, RSA2048, MetadataService, Region, document
from tests.truth.tap import _boottimes

CLIENT = """
import socket, sys
for line in sys.stdin:
    port, count = map(int, line.split())
    for _ in range(count):
        peer = socket.create_connection(("127.0.0.1", port))
        peer.recv(1)
        peer.close()
    print("done", flush=True)
"""


class Place:
    """An exporter whose host has a certificate, and a listener of the host itself."""

    def __init__(self, exporter: Exporter, certificate: HostCertificate, port: int) -> None:
        self.exporter, self.certificate, self.port = exporter, certificate, port
        self._marks = 0

    def mark(self, count: int = 1) -> None:
        """Flows of the host: refused ones from an address of loopback that tells them from all others."""
        for _ in range(count):
            with socket.socket() as one:
                one.bind((self.address, 0))
                assert one.connect_ex(("127.0.0.1", 9)) == errno.ECONNREFUSED

    @property
    def address(self) -> str:
        return f"127.9.{self.port % 250}.{self._marks + 1}"

    def next_address(self) -> None:
        self._marks += 1

    def record(self) -> Record:
        """Of a flow of the host that opens now."""
        self.next_address()
        address = self.address
        self.mark()
        return self.exporter.await_record(lambda record: record["local_address"] == address)

    def await_name(self, wanted: str, seconds: float = 10) -> Record:
        """A record of the host as soon as it is called so."""
        end = time.monotonic() + seconds
        while (record := self.record())["workload"] != wanted:
            assert time.monotonic() < end, f"{json.dumps(record, indent=1)}\n{self.exporter.log}"
            time.sleep(0.05)
        return record


@pytest.fixture
def runc(tmp_path: Path) -> Iterator[Runc]:
    with Runc(tmp_path / "runc") as runc:
        yield runc


@contextmanager
def running(
    tmp_path: Path, pins: Path, runc: Runc, *, certificate: str = "web-1", tables: str = ""
) -> Iterator[Place]:
    own = HostCertificate(tmp_path / "certificate")
    if certificate:
        own.issue(certificate)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Exporter(
            tmp_path / "exporter",
            pins,
            engine_roots=[runc.cgroup_root.strip("/")],
            tables=tables + own.tables,
        ) as exporter,
    ):
        accepting = threading.Thread(target=serve, args=(listener,), daemon=True)
        accepting.start()
        yield Place(exporter, own, listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(5)


def serve(listener: socket.socket) -> None:
    try:
        while True:
            listener.accept()[0].close()
    except OSError:
        return


def hooks(exporter: Exporter) -> Any:
    return json.loads(
        flowtag("register", "--runtime", "runc", "--print", "--run-directory", str(exporter.run_directory))
    )


def incarnations(exporter: Exporter) -> dict[str, Workload]:
    """The host's, by name."""
    with Map.open(str(exporter.pin_directory / "ft_workload")) as workloads:
        found = [Workload.unpack(value) for _, value in workloads.items()]
    return {one.name: one for one in found if abi.WORKLOAD_KINDS[one.kind] == "host"}


def test_certificate_and_containers_and_rotations_in_one_run(
    tmp_path: Path, pin_directory: Path, runc: Runc
) -> None:
    """A storm of host flows and of a container's on the host's network, through two rotations."""
    with running(tmp_path, pin_directory, runc) as place:
        hook = hooks(place.exporter)
        guest = runc.run("guest", CLIENT, netns=HOST, hooks=hook)
        place.await_name("web-1")
        place.next_address()
        stop = threading.Event()
        made = [0]

        def storm() -> None:
            while not stop.is_set():
                place.mark()
                made[0] += 1

        thread = threading.Thread(target=storm)
        thread.start()
        for number in (2, 3):
            guest.say(f"{place.port} 100")
            place.certificate.issue(f"web-{number}")
            place.exporter.await_log(f"workload=web-{number}")
            time.sleep(LEAD_NS / 1e9 + 0.2)
        guest.say(f"{place.port} 100")
        stop.set()
        thread.join()
        address = place.address
        flows = place.exporter.await_records(lambda r: r["local_address"] == address, made[0])

        def by_guest(r: Record) -> bool:
            return bool(r["peer_port"] == place.port and r["role"] == "client")

        containers = place.exporter.await_records(by_guest, 300)
        servers = place.exporter.await_records(lambda r: r["local_port"] == place.port, 300)
        lives = incarnations(place.exporter)
    assert len(flows) == made[0]
    # Each flow is the incarnation's that was in force when it opened, to the nanosecond.
    starts = [lives[f"web-{number}"].start for number in (2, 3)]
    for record, opened in zip(flows, _boottimes([r["time_open"] for r in flows]), strict=True):
        # The wall clock of records may have been slewed by a little since they were written.
        near = any(abs(opened - start) < 2_000_000 for start in starts)
        wanted = f"web-{1 + sum(start <= opened for start in starts)}"
        assert record["workload"] == wanted or near, record
        assert (record["identity_source"], record["identity_state"]) == ("certificate", "verified")
        assert (record["app"], record["labels"]["team"]) == ("web", "web")
    assert {r["workload"] for r in flows} == {"web-1", "web-2", "web-3"}
    assert {r["container_id"] for r in containers} == {"guest"}
    assert {(r["identity_source"], r["attributed_by"]) for r in containers} == {("hook", "cgroup")}
    assert {r["workload"] for r in servers} <= {"web-1", "web-2", "web-3"}
    assert {r["attributed_by"] for r in servers} == {"host"}


def test_certificate_that_comes_late_names_what_has_not_left(
    tmp_path: Path, pin_directory: Path, runc: Runc
) -> None:
    with running(
        tmp_path, pin_directory, runc, certificate="", tables="[exporter]\ndrain_ms = 3000\n"
    ) as place:
        assert place.record()["identity_source"] == "hostname"
        time.sleep(0.3)  # it sleeps again, for three seconds: what is in the ring when it lies down wakes it
        place.next_address()
        place.mark()
        waiting = place.address
        place.certificate.issue("late-1")
        record = place.exporter.await_record(lambda r: r["local_address"] == waiting)
        assert (record["workload"], record["identity_source"]) == ("late-1", "certificate")
        after = place.record()
        assert after["workload"] == "late-1"
        assert len([one for one in incarnations(place.exporter).values() if not one.end]) == 1


def test_flows_before_the_certificate_are_the_hosts_unverified(
    tmp_path: Path, pin_directory: Path, runc: Runc
) -> None:
    with running(tmp_path, pin_directory, runc, certificate="") as place:
        before = place.record()
        assert (before["workload_kind"], before["identity_state"]) == ("host", "unverified")
        assert before["identity_source"] == "hostname"
        place.certificate.issue("late-1")
        place.await_name("late-1")


def test_document_names_the_host_until_its_certificate_comes(
    tmp_path: Path, pin_directory: Path, runc: Runc
) -> None:
    with MetadataService({RSA2048: Region(tmp_path, days=10_000).sign(document())}) as service:
        tables = (
            '[identity]\norder = ["certificate", "document", "hostname"]\n'
            f'[identity.document]\nendpoint = "{service.url}"\ncertificates = "{tmp_path}"\n'
        )
        with running(tmp_path, pin_directory, runc, certificate="", tables=tables) as place:
            record = place.await_name(FIELDS["instanceId"])
            assert (record["identity_source"], record["identity_state"]) == ("document", "verified")
            assert record["labels"]["flowtag.io/account"] == FIELDS["accountId"]
            place.certificate.issue("web-1")
            assert place.await_name("web-1")["identity_source"] == "certificate"
            assert len([one for one in incarnations(place.exporter).values() if not one.end]) == 1
    assert service.requests == [("PUT", "/latest/api/token"), ("GET", f"/latest/{RSA2048}")]


def test_bad_certificate_keeps_the_last_good_identity(
    tmp_path: Path, pin_directory: Path, runc: Runc
) -> None:
    with running(tmp_path, pin_directory, runc, tables="[identity]\nstale_seconds = 1\n") as place:
        place.await_name("web-1")
        bad: list[Callable[[], object]] = [
            lambda: place.certificate.issue("web-2", broken=True),
            lambda: place.certificate.issue("web-2", begin=0, end=1_000_000_000),
            lambda: place.certificate.path.unlink(),
            lambda: place.certificate.path.write_bytes(place.certificate.make("web-2").chain_pem[:300]),
        ]
        reasons = ("untrusted", "expired", "missing", "malformed")
        for spoil, reason in zip(bad, reasons, strict=True):
            spoil()
            place.exporter.await_log(f"reason={reason}")
            record = place.record()
            assert (record["workload"], record["identity_source"]) == ("web-1", "certificate")
            checked = json.loads(checked_json(place.exporter))
            texts = [found["text"] for found in checked["checks"] if found["subject"] == "identity"]
            assert any(f"refused, {reason}" in text for text in texts), texts
        place.exporter.await_log("host identity is stale")
        assert place.record()["identity_state"] == "stale"
        place.certificate.issue("web-2")
        assert place.await_name("web-2")["identity_state"] == "verified"


def checked_json(exporter: Exporter) -> str:
    """`flowtag check --json`, whatever it finds."""
    try:
        return flowtag("check", "--json", config=exporter.config)
    except RuntimeError:
        pytest.fail("flowtag check fails")


def test_same_certificate_is_the_same_host_after_a_restart(
    tmp_path: Path, pin_directory: Path, runc: Runc
) -> None:
    """And one that came while no exporter ran is taken from the restart on."""
    with running(tmp_path, pin_directory, runc) as place:
        place.await_name("web-1")
        before = incarnations(place.exporter)["web-1"].id
        place.exporter.stop()
        place.exporter.start()
        assert place.record()["workload"] == "web-1"
        assert incarnations(place.exporter)["web-1"].id == before
        place.exporter.stop()
        place.certificate.issue("web-2")
        place.mark()  # the programs stay: it is reported by the next exporter
        waiting = place.address
        place.exporter.start()
        place.await_name("web-2")
        (record,) = [r for r in place.exporter.records if r["local_address"] == waiting][-1:]
        assert record["workload"] == "web-1"
