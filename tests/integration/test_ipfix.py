# SPDX-License-Identifier: Apache-2.0
"""The IPFIX sink against nfcapd, nfacctd, tshark and ipfixDump, and against collectors that misbehave."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from exporter.batch import Batch
from exporter.sinks.config import Ipfix
from exporter.sinks.ipfix import IpfixCollector
from exporter.sinks.tls import Tls
from tests.integration.conftest import until
from tests.rig import batches, tls
from tests.rig.ipfix import Message, Reader

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/sinks/ipfix.md"
FLOWS = range(256, 260)


def needs(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"unsupported here: no {program}")


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def small(count: int, number: int = 0) -> Batch:
    """Counters that collectors can add up, and times that are now."""
    one = batches.batch(count, number)
    one.records["bytes_sent"], one.records["bytes_received"] = 1000, 70
    one.records["segments_sent"], one.records["segments_received"] = 5, 2
    one.records["flags"] = 0
    one.records["role"] = 1
    one.records["local_port"] = 1024 + np.arange(number, number + count)
    one.records["peer_port"] = 443
    one.offset[:] = time.time_ns() - one.records["time_end"].astype(np.int64)
    return one


@contextlib.contextmanager
def running(command: list[str], log: Path, stop: signal.Signals) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(stop)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def opened(
    port: int, transport: str = "tcp", host: str = "127.0.0.1", **values: object
) -> Iterator[IpfixCollector]:
    values = {"timeout_seconds": 10, **values}
    sink = IpfixCollector(Ipfix(host, port, transport, **values))  # type: ignore[arg-type]
    try:
        yield sink
    finally:
        sink.close()


def bound(port: int) -> bool:
    """Whether somebody's UDP socket has the port."""
    return f":{port:04X} " in Path("/proc/self/net/udp").read_text(encoding="ascii")


@contextlib.contextmanager
def nfcapd(directory: Path) -> Iterator[tuple[int, Callable[[], str]]]:
    """Its port, and what stops it and gives its log."""
    needs("nfcapd")
    port, flows, log = free_port(socket.SOCK_DGRAM), directory / "flows", directory / "nfcapd.log"
    flows.mkdir()
    command = ["nfcapd", "-b", "127.0.0.1", "-p", str(port), "-w", str(flows), "-t", "3600"]
    with running(command, log, signal.SIGTERM) as process:
        until(lambda: bound(port))

        def end() -> str:
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            process.wait(10)
            return log.read_text(errors="replace")

        yield port, end


def totals(log: str) -> tuple[int, int]:
    """Flows and sequence errors by nfcapd's own count."""
    found = re.findall(r"Flows: (\d+),.*Sequence Errors: (\d+), Bad Packets: 0", log)
    return sum(int(flows) for flows, _ in found), sum(int(errors) for _, errors in found)


def test_nfcapd_gets_every_flow(tmp_path: Path) -> None:
    with nfcapd(tmp_path) as (port, end):
        with opened(port, "udp", messages_per_second=2000) as sink:
            sink.deliver(small(1000))
            sink.deliver(small(1000, 1000))
        assert totals(end()) == (2000, 0)
    (file,) = (tmp_path / "flows").iterdir()
    shown = subprocess.run(
        ["nfdump", "-q", "-r", str(file), "-o", "fmt:%pr %sp %dp %ipkt %ibyt %opkt %obyt"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [line.split() for line in shown.splitlines() if line.strip()]
    assert sorted(int(line[1]) for line in lines) == list(range(1024, 3024))
    assert {tuple(line[:1] + line[2:]) for line in lines} == {NFDUMP_SHOWS}


NFDUMP_SHOWS = ("TCP", "443", "5", "1000", "2", "70")


def test_nfcapd_sees_a_lost_datagram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was lost is made by not sending it: the loopback does not lose one on demand."""
    with nfcapd(tmp_path) as (port, end):
        with opened(port, "udp", messages_per_second=2000) as sink:
            sink.deliver(small(500))
            assert sink._session is not None
            transport = sink._session.transport
            send, number, lost = transport.send, itertools.count(), []

            def lossy(messages: memoryview, deadline: float) -> None:
                if next(number) == 5:
                    lost.append(bytes(messages))
                else:
                    send(messages, deadline)

            monkeypatch.setattr(transport, "send", lossy)
            sink.deliver(small(500, 500))
        flows, errors = totals(end())
    assert len(lost) == 1
    assert flows < 1000
    assert errors == 1


def test_tshark_finds_no_fault(tmp_path: Path) -> None:
    """Of what a UDP collector was sent: made into a capture here, without a tap on the host."""
    needs("tshark")
    with socket.socket(type=socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(0.3)
        with opened(listener.getsockname()[1], "udp", messages_per_second=2000) as sink:
            sink.deliver(batches.batch(400))
        got = []
        with contextlib.suppress(TimeoutError):
            while True:
                got.append(listener.recv(65535))
    capture = tmp_path / "flows.pcap"
    capture.write_bytes(pcap(got))
    shown = subprocess.run(
        ["tshark", "-r", str(capture), "-d", "udp.port==4739,cflow", "-V", "-O", "cflow"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "Malformed" not in shown
    assert "Expert Info (Error" not in shown
    assert "Expected" not in shown.replace("[Expected Sequence Number", "")
    assert len(re.findall(r"^ +Flow \d+( \[.*\])?$", shown, re.MULTILINE)) == sum(
        len(message.records) for message in Reader().datagrams(got)
    )
    assert "flowtagWorkload" in shown


def pcap(datagrams: list[bytes]) -> bytes:
    """As raw IPv4 (LINKTYPE_RAW) from port 40000 to 4739."""
    made = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)]
    for number, octets in enumerate(datagrams):
        size = len(octets) + 28
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size, number, 0, 64, 17, 0, b"\x7f\0\0\1", b"\x7f\0\0\1")
        udp = struct.pack(">HHHH", 40000, 4739, size - 20, 0)
        made.append(struct.pack("<IIII", number, 0, size, size) + ip + udp + octets)
    return b"".join(made)


class Collector:
    """A server on loopback that reads as long as it is told to. streams: what each connection brought."""

    def __init__(self, port: int = 0, context: ssl.SSLContext | None = None, reads: bool = True) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.streams: list[bytearray] = []
        self.whole = 0
        self._context, self._reads = context, reads
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
                self._connections.append(connection)
            got = bytearray()
            self.streams.append(got)
            while self._reads and (octets := connection.recv(1 << 16)):
                got += octets
            if self._reads:
                self.whole += 1
                connection.close()

    def messages(self, stream: int = 0) -> list[Message]:
        return Reader().stream(bytes(self.streams[stream]))


def flows(messages: list[Message]) -> int:
    return sum(record.template in FLOWS for message in messages for record in message.records)


def test_ipfixdump_reads_the_tcp_stream(tmp_path: Path) -> None:
    needs("ipfixDump")
    with Collector() as collector:
        with opened(collector.port, descriptions="same") as sink:
            sink.deliver(batches.batch(500))
            sink.deliver(batches.batch(500, 500))
        until(lambda: collector.whole == 1)
        assert flows(collector.messages()) == 1000
        (tmp_path / "flows.ipfix").write_bytes(collector.streams[0])
        count = sum(len(message.records) for message in collector.messages())
    shown = subprocess.run(
        ["ipfixDump", "--in", str(tmp_path / "flows.ipfix"), "--rfc5610"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stderr == ""
    assert len(re.findall(r"^--- (?:options )?data record", shown.stdout, re.MULTILINE)) == count
    assert "flowtagWorkload" in shown.stdout
    # Its numbers are in the right order of octets only if it had the types before the templates.
    assert "shop/web-0/nginx" in shown.stdout
    assert f"flowtagWorkloadId : {batches.OTHER}" in shown.stdout


def test_new_connection_gets_the_templates_again() -> None:
    with Collector() as first:
        port = first.port
        sink = IpfixCollector(Ipfix("127.0.0.1", port, timeout_seconds=5))
        sink.deliver(batches.batch(200))
        until(lambda: flows(first.messages()) == 200)
    with pytest.raises(OSError, match=r"refused|closed|reset"):
        sink.deliver(batches.batch(200, 200))
    with Collector(port) as second:
        sink.deliver(batches.batch(200, 200))
        sink.close()
        until(lambda: second.whole == 1)
        messages = second.messages()
        assert sum(message.described for message in messages) == 8
        assert flows(messages) == 200


def test_collector_that_reads_nothing_ends_in_time() -> None:
    """Its kernel takes what fits into its buffer, so it is a batch that does not fit."""
    with Collector(reads=False) as collector, opened(collector.port, timeout_seconds=2) as sink:
        began = time.monotonic()

        def deliver() -> None:
            for number in range(100):
                sink.deliver(batches.batch(2000, number))
                assert sink._session is not None
                assert sink._session.transport._unacknowledged() == 0  # type: ignore[attr-defined]

        with pytest.raises(TimeoutError):
            deliver()
        assert time.monotonic() - began < 12
        assert sink._session is None


def test_connection_that_ends_after_a_moment_is_no_delivery() -> None:
    """As by a proxy that finds no collector behind it: it takes the connection first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(1 << 16)
            time.sleep(0.3)
            connection.close()

        server = threading.Thread(target=hang_up)
        server.start()
        with opened(listener.getsockname()[1]) as sink, pytest.raises(ConnectionResetError):
            sink.deliver(batches.batch(10))
        server.join()


def test_black_hole_ends_in_time() -> None:
    """A listener whose queue is full drops every SYN."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        with opened(listener.getsockname()[1], timeout_seconds=1) as sink:
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                sink.deliver(batches.batch(10))
            assert 0.9 < time.monotonic() - began < 3


def test_nobody_there_is_an_error() -> None:
    for kind, transport in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
        with opened(free_port(kind), transport) as sink, pytest.raises(ConnectionRefusedError):
            sink.deliver(batches.batch(100))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tls.Made:
    return tls.make(tmp_path_factory.mktemp("ipfix"))


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_collector_gets_every_flow(made: tls.Made, mutual: bool) -> None:
    client = made.client()
    ours = Tls(str(made.ca), str(client.certificate), str(client.key)) if mutual else Tls(str(made.ca))
    context = tls.server_context(made.server(), made.ca if mutual else None)
    with Collector(context=context) as collector:
        with opened(collector.port, "tls", "localhost", tls=ours) as sink:
            sink.deliver(batches.batch(300))
        until(lambda: collector.whole == 1)
        assert flows(collector.messages()) == 300


@pytest.mark.parametrize("fault", ["wrong_name", "expired", "early", "self_signed", "other_ca"])
def test_bad_server_certificate_gets_nothing(made: tls.Made, fault: str) -> None:
    with (
        Collector(context=tls.server_context(made.server(fault))) as collector,
        opened(collector.port, "tls", "localhost", tls=Tls(str(made.ca))) as sink,
    ):
        with pytest.raises(ssl.SSLCertVerificationError):
            sink.deliver(batches.batch(10))
        assert not any(collector.streams)


@pytest.mark.parametrize("fault", ["none", "expired", "other_ca"])
def test_refused_client_certificate_is_no_delivery(made: tls.Made, fault: str) -> None:
    """TLS 1.3 says so only after the client's handshake."""
    pair = made.client(fault) if fault != "none" else None
    ours = Tls(str(made.ca), str(pair.certificate), str(pair.key)) if pair else Tls(str(made.ca))
    context = tls.server_context(made.server(), made.ca)
    with (
        Collector(context=context) as collector,
        opened(collector.port, "tls", "localhost", tls=ours) as sink,
    ):
        with pytest.raises(OSError, match=r"(?i)alert|reset|closed|pipe|EOF"):
            sink.deliver(batches.batch(10))
        assert not any(collector.streams)


def example(first: str) -> str:
    """The indented block of the page that begins so."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = [block.group().replace("\n    ", "\n")[1:] for block in re.finditer(r"(?:\n    .*)+", text)]
    return next(block for block in blocks if block.startswith(first)) + "\n"


def test_nfacctd_gets_every_flow_with_its_workload(tmp_path: Path) -> None:
    """By the page's configuration, with other paths and another port."""
    needs("nfacctd")
    port = free_port(socket.SOCK_DGRAM)
    primitives, out = tmp_path / "flowtag.lst", tmp_path / "flows.json"
    primitives.write_text(example("name="), encoding="utf-8")
    text = example("nfacctd_ip")
    for old, new in (
        ("0.0.0.0", "127.0.0.1"),
        ("9995", str(port)),
        ("/etc/pmacct/flowtag.lst", str(primitives)),
        ("/var/log/pmacct/flows.json", str(out)),
        ("print_refresh_time: 60", "print_refresh_time: 1"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "nfacctd.conf").write_text(text, encoding="utf-8")
    command = ["nfacctd", "-f", str(tmp_path / "nfacctd.conf")]
    one = small(1000)
    log = tmp_path / "log"
    with running(command, log, signal.SIGINT):
        # Bound is too early: what comes before its plugin works fills the socket's buffer, and more is lost.
        until(lambda: bound(port) and "setting object handlers" in log.read_text(errors="replace"))
        with opened(port, "udp", messages_per_second=300) as sink:
            sink.deliver(one)
        until(lambda: out.exists() and len(out.read_text(encoding="utf-8").splitlines()) >= 1000, 8)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert sorted(row["port_src"] for row in rows) == list(range(1024, 2024))
    assert sum(row["bytes"] for row in rows) == 1000 * 1000
    assert sum(row["packets"] for row in rows) == 5 * 1000
    names = {row["port_src"]: row["workload"] for row in rows}
    known = {batches.OWNER: "shop/web-0/nginx", batches.OTHER: "vm"}
    ports = one.records["local_port"].tolist()
    assert names == {p: known.get(o, "") for p, o in zip(ports, one.records["owner"].tolist(), strict=True)}
