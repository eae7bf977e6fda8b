# SPDX-License-Identifier: Apache-2.0
"""The OTLP sink against a real gRPC receiver of the official protobufs, and what goes wrong between."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import structlog

from bpf.error import FlowtagError
from exporter.batch import Batch
from exporter.config import Spool as Settings
from exporter.label import Label
from exporter.sinks import delivery, otlp_status
from exporter.sinks.otlp import OtlpReceiver
from exporter.sinks.otlp_config import Otlp
from exporter.sinks.sink import RefusedError
from exporter.sinks.tls import Tls
from exporter.spool.spool import Spool
from tests.rig import tls
from tests.rig.batches import batch
from tests.rig.otlp import Fail, Hang, Partial, Receiver, attributes
from tests.rig.proxy import Proxy
from tests.rig.ring_file import RingFile, RingWriter, records

ROOT = Path(__file__).resolve().parents[2]
Code = grpc.StatusCode


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tls.Made:
    return tls.make(tmp_path_factory.mktemp("authority"))


def logs(endpoint: str, *, timeout_seconds: int = 5, tls: Tls | None = None) -> OtlpReceiver:
    return OtlpReceiver(Otlp(endpoint, ("logs",), timeout_seconds=timeout_seconds, tls=tls or Tls()))


def sequences(receiver: Receiver) -> list[int]:
    return [attributes(record.attributes)["flowtag.sequence"] for record in receiver.log_records()]


def raised(sink: OtlpReceiver, one: Batch) -> str:
    with pytest.raises(FlowtagError) as caught:
        sink.deliver(one)
    return str(caught.value)


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_both_signals_arrive_whole(receiver: Receiver, compression: str) -> None:
    sink = OtlpReceiver(
        Otlp(receiver.endpoint, ("logs", "metrics"), compression=compression, headers={"x-tenant": "a b"})
    )
    sink.deliver(batch(1200))
    assert sequences(receiver) == list(range(1200))
    assert [call.signal for call in receiver.calls] == ["metrics", "logs", "logs", "logs"]
    ends = [point.as_int for point in receiver.points("flowtag.stat.tcp.connections")]
    assert sum(ends) == 1200
    for call in receiver.calls:
        assert call.metadata["x-tenant"] == "a b"
        assert call.metadata["user-agent"].startswith("flowtag/")
    assert sink.counts.requests == 4


def test_compressed_requests_are_a_tenth(receiver: Receiver) -> None:
    sizes = {}
    for compression in ("gzip", "none"):
        with Proxy(("127.0.0.1", receiver.port)) as proxy:
            endpoint = f"http://127.0.0.1:{proxy.port}"
            OtlpReceiver(Otlp(endpoint, ("logs",), compression=compression)).deliver(batch(500))
            sizes[compression] = proxy.to_server
    assert sizes["gzip"] < sizes["none"] / 9


def test_secret_headers_are_read_anew_for_each_batch(receiver: Receiver, tmp_path: Path) -> None:
    file = tmp_path / "headers"
    sink = OtlpReceiver(Otlp(receiver.endpoint, headers_file=str(file)))
    assert "reading headers_file" in raised(sink, batch(1))
    for number in range(2):
        file.write_text(f"# of the vendor\n\nAuthorization: Bearer t0p-{number}\nx-a: b:c\n")
        sink.deliver(batch(1, number))
        assert receiver.calls[-1].metadata["authorization"] == f"Bearer t0p-{number}"
        assert receiver.calls[-1].metadata["x-a"] == "b:c"


@pytest.mark.parametrize("text", ["t0p secret", "t0p secret: x", "authorization: t0p\x01", "grpc-t0p: 1"])
def test_faulty_headers_file_is_told_without_what_is_in_it(
    receiver: Receiver, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "headers"
    file.write_text(text)
    message = raised(OtlpReceiver(Otlp(receiver.endpoint, headers_file=str(file))), batch(1))
    assert f"headers_file {file}, line 1" in message
    assert "t0p" not in message
    assert not receiver.calls


def test_tls_with_the_authority_that_signed_is_believed(made: tls.Made) -> None:
    with Receiver(pair=made.server()) as receiver:
        logs(receiver.endpoint, tls=Tls(ca=str(made.ca))).deliver(batch(3))
        assert sequences(receiver) == [0, 1, 2]
        assert "CERTIFICATE_VERIFY_FAILED" in raised(
            logs(receiver.endpoint, tls=Tls(ca=str(made.other_ca))), batch(3)
        )
        # The system's list, which has no authority of ours.
        assert "CERTIFICATE_VERIFY_FAILED" in raised(logs(receiver.endpoint), batch(3))


@pytest.mark.parametrize("fault", [fault for fault in tls.FAULTS if fault != "good"])
def test_bad_certificate_is_refused_and_the_batch_waits(made: tls.Made, fault: str) -> None:
    with Receiver(pair=made.server(fault)) as receiver:
        sink = logs(receiver.endpoint, tls=Tls(ca=str(made.ca)))
        assert raised(sink, batch(3)).startswith(f"sending logs to {receiver.endpoint}: UNAVAILABLE: ")
        assert not receiver.calls
        port = receiver.port
    with Receiver(port, pair=made.server()) as receiver:
        sink.deliver(batch(3))
        assert sequences(receiver) == [0, 1, 2]


def test_mutual_tls_needs_a_good_certificate_of_ours(made: tls.Made, tmp_path: Path) -> None:
    with Receiver(pair=made.server(), client_ca=made.ca.read_bytes()) as receiver:
        mine = [tmp_path / "mine.pem", tmp_path / "mine.key"]
        named = Tls(ca=str(made.ca), certificate=str(mine[0]), key=str(mine[1]))
        sink = logs(receiver.endpoint, tls=named)
        assert "reading the key" in raised(sink, batch(3))
        for fault in ("expired", "other_ca", "good"):  # as it is rotated: the same sink reads what is there
            for path, source in zip(mine, made.client(fault)[:2], strict=True):
                path.write_bytes(source.read_bytes())
            if fault != "good":
                assert "UNAVAILABLE" in raised(sink, batch(3))
        sink.deliver(batch(3))
        assert "UNAVAILABLE" in raised(logs(receiver.endpoint, tls=Tls(ca=str(made.ca))), batch(3))
        assert sequences(receiver) == [0, 1, 2]


# OTLP specification, "Failures", but for the two that an operator mends.
TABLE = {
    "CANCELLED": True,
    "UNKNOWN": False,
    "INVALID_ARGUMENT": False,
    "DEADLINE_EXCEEDED": True,
    "NOT_FOUND": False,
    "ALREADY_EXISTS": False,
    "PERMISSION_DENIED": True,
    "UNAUTHENTICATED": True,
    "RESOURCE_EXHAUSTED": False,
    "FAILED_PRECONDITION": False,
    "ABORTED": True,
    "OUT_OF_RANGE": True,
    "UNIMPLEMENTED": False,
    "INTERNAL": False,
    "UNAVAILABLE": True,
    "DATA_LOSS": True,
}


def test_status_is_retried_or_refused(receiver: Receiver) -> None:
    assert TABLE.keys() == {code.name for code in Code} - {"OK"}
    for number, (name, again) in enumerate(TABLE.items()):
        sink, one = logs(receiver.endpoint), batch(2, number)
        receiver.answers.append(Fail(Code[name]))
        with pytest.raises(FlowtagError if again else RefusedError, match=f"{name}: on demand"):
            sink.deliver(one)
        if again:
            sink.deliver(one)
            assert receiver.calls[-1].accepted
        assert sink.counts.rejected_log_records == (0 if again else 2)


@pytest.mark.parametrize("code", [Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE])
def test_pause_that_the_receiver_asks_for_is_kept(receiver: Receiver, code: grpc.StatusCode) -> None:
    receiver.answers.append(Fail(code, retry_after=0.4))
    sink, one = logs(receiver.endpoint), batch(2)
    assert code.name in raised(sink, one)
    began = time.monotonic()
    while time.monotonic() < began + 0.3:
        assert "asked for a pause" in raised(sink, one)
        time.sleep(0.02)
    time.sleep(0.15)
    sink.deliver(one)
    assert len(receiver.calls) == 2
    assert sink.counts.throttled == 1


def test_pause_has_an_end_whatever_is_asked_for(receiver: Receiver) -> None:
    receiver.answers.append(Fail(Code.UNAVAILABLE, retry_after=1e9))
    sink, one = logs(receiver.endpoint), batch(2)
    raised(sink, one)
    assert f"{otlp_status.LONGEST_WAIT:.0f} s are left" in raised(sink, one)


def test_partial_success_is_counted_told_and_not_sent_again(receiver: Receiver) -> None:
    receiver.answers.append(Partial(3, "too\nold"))
    sink, one = logs(receiver.endpoint), batch(10)
    with structlog.testing.capture_logs() as told:
        sink.deliver(one)
    assert len(receiver.calls) == 1
    assert sink.counts.rejected_log_records == 3
    (entry,) = told
    assert (entry["event"], entry["accepted"], entry["rejected"], entry["reason"]) == (
        "receiver rejected a part of a batch",
        7,
        3,
        "too old",
    )


def test_batch_of_which_nothing_is_taken_is_refused(receiver: Receiver) -> None:
    receiver.answers.append(Partial(10, "no"))
    sink = logs(receiver.endpoint)
    with pytest.raises(RefusedError, match="took nothing of it: no"):
        sink.deliver(batch(10))


def test_hint_without_rejection_is_a_success(receiver: Receiver) -> None:
    receiver.answers.append(Partial(0, "use the new port"))
    sink = logs(receiver.endpoint)
    with structlog.testing.capture_logs() as told:
        sink.deliver(batch(10))
    assert sink.counts.rejected_log_records == 0
    assert told == []


def test_refused_request_does_not_keep_the_others_back(receiver: Receiver) -> None:
    receiver.answers += [Partial(0), Fail(Code.INVALID_ARGUMENT), Partial(0)]
    sink = logs(receiver.endpoint)
    sink.deliver(batch(1200))
    assert sequences(receiver) == [*range(512), *range(1024, 1200)]
    assert sink.counts.rejected_log_records == 512


def test_retry_goes_on_behind_what_was_acknowledged(receiver: Receiver) -> None:
    sink = OtlpReceiver(Otlp(receiver.endpoint, ("metrics", "logs")))
    receiver.answers += [Partial(0), Partial(0), Fail(Code.UNAVAILABLE), Fail(Code.ABORTED)]
    one = batch(1200)
    for _ in range(2):
        raised(sink, one)
    sink.deliver(one)
    assert sequences(receiver) == list(range(1200))
    assert [call.signal for call in receiver.calls if call.accepted].count("metrics") == 1
    sink.deliver(batch(600, 2000))  # another batch begins at its own beginning
    assert sequences(receiver)[1200:] == list(range(2000, 2600))


def test_answer_that_is_lost_doubles_its_request_only(receiver: Receiver) -> None:
    with Proxy(("127.0.0.1", receiver.port)) as proxy:
        sink, one = logs(f"http://127.0.0.1:{proxy.port}"), batch(1200)
        receiver.answers += [Partial(0), Hang(0.5)]
        cutter = threading.Thread(target=_cut_at_the_second, args=(receiver, proxy))
        cutter.start()
        raised(sink, one)
        cutter.join()
        sink.deliver(one)
    assert sequences(receiver) == [*range(512), *range(512, 1024), *range(512, 1024), *range(1024, 1200)]


def _cut_at_the_second(receiver: Receiver, proxy: Proxy) -> None:
    while len(receiver.calls) < 2:
        time.sleep(0.01)
    proxy.cut()


@pytest.mark.parametrize("fault", ["black_hole", "deaf", "refuse"])
def test_attempt_ends_by_itself_and_the_next_one_works(receiver: Receiver, fault: str) -> None:
    with Proxy(("127.0.0.1", receiver.port)) as proxy:
        sink, one = logs(f"http://127.0.0.1:{proxy.port}", timeout_seconds=1), batch(3)
        getattr(proxy, fault)()
        began = time.monotonic()
        assert ("UNAVAILABLE" if fault == "refuse" else "DEADLINE_EXCEEDED") in raised(sink, one)
        assert time.monotonic() - began < 1.5
        proxy.forward()
        sink.deliver(one)
    assert set(sequences(receiver)) == {0, 1, 2}


def test_receiver_that_hangs_is_left_after_the_timeout(receiver: Receiver) -> None:
    receiver.answers.append(Hang(1.5))
    sink = logs(receiver.endpoint, timeout_seconds=1)
    assert "DEADLINE_EXCEEDED" in raised(sink, batch(3))


def test_request_too_large_for_the_receiver_is_refused() -> None:
    with Receiver(most_bytes=10_000) as receiver:
        sink = logs(receiver.endpoint)
        with pytest.raises(RefusedError, match="RESOURCE_EXHAUSTED"):
            sink.deliver(batch(100))
        assert not receiver.calls


def test_labels_of_the_greatest_size_fit(receiver: Receiver) -> None:
    """4 KiB of labels for each owner is what the exporter keeps; 4 MiB is what receivers take."""
    one = batch(1000)
    large = Label(workload="w", labels={f"k{n}": "x" * 60 for n in range(64)})
    labels = dict.fromkeys(set(one.records["owner"].tolist()), large)
    fat = Batch(one.origin, 1, one.minute, one.records, one.sequence, one.offset, labels, one.peers)
    logs(receiver.endpoint).deliver(fat)
    assert len(sequences(receiver)) == 1000
    assert max(call.size for call in receiver.calls) > 2 << 20


def test_endpoint_by_name_and_by_ipv6_literal_is_reached(receiver: Receiver) -> None:
    logs(f"http://localhost:{receiver.port}").deliver(batch(2))
    assert sequences(receiver) == [0, 1]
    assert Otlp("http://[::1]").authority == "[::1]:4317"
    assert "UNAVAILABLE" in raised(logs("http://[::1]:1"), batch(2))


def test_deliveries_leave_no_threads_and_no_files_open(receiver: Receiver) -> None:
    def held() -> tuple[int, int]:
        return tuple(len(list(Path(f"/proc/self/{what}").iterdir())) for what in ("task", "fd"))  # type: ignore[return-value]

    sink = logs(receiver.endpoint)
    for number in range(5):
        sink.deliver(batch(2, number))
    before = held()
    for number in range(5, 25):
        sink.deliver(batch(2, number))
    time.sleep(0.2)
    after = held()
    assert after[0] <= before[0] + 3, (before, after)
    assert after[1] <= before[1] + 3, (before, after)


def test_receiver_that_is_down_is_delivered_to_once_it_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spool, delivery and sink together: nothing is lost, nothing comes twice, nobody lends a hand."""
    monkeypatch.setattr(delivery, "BACKOFF_SECONDS", (0.05, 0.2))
    monkeypatch.setattr(delivery, "IDLE_SECONDS", 0.05)
    with Receiver() as receiver:
        port = receiver.port
    RingFile.create(tmp_path / "ring", 1 << 21)
    with RingFile(tmp_path / "ring") as ring, RingWriter(tmp_path / "ring") as writer:
        settings = Settings(directory=str(tmp_path / "spool"), min_free_bytes=0)
        spool = Spool(settings, ring, "01234567-89ab-cdef-0123-456789abcdef", ("otlp",))
        for number in range(3):
            writer.write(records(700, 700 * number, owner=1 << 40))
            ring.release(spool.append(ring.take(), 0))
            spool.close_batches(0, 0, lambda owner: Label(workload="web"), everything=True)
        thread = delivery.Delivery("otlp", logs(f"http://127.0.0.1:{port}"), spool, "host", ())
        thread.start()
        try:
            _until(lambda: thread.state.attempts >= 3)
            assert "UNAVAILABLE" in thread.state.error
            with Receiver(port) as receiver:
                _until(lambda: len(receiver.log_records()) == 2100)
                _until(lambda: spool.ledger()[0].waiting == 0)
                assert sequences(receiver) == list(range(2100))
                assert spool.ledger()[0].delivered == 2100
        finally:
            thread.stop()
            thread.join(5)
        assert not thread.is_alive()


def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


STOPPED = """
import subprocess, sys, threading, time
from exporter.sinks.otlp import OtlpReceiver
from exporter.sinks.otlp_config import Otlp
from tests.rig.batches import batch

def run():
    try:
        OtlpReceiver(Otlp(sys.argv[1], ("logs",), timeout_seconds=60)).deliver(batch(3))
    except Exception as error:
        print("failed:", str(error)[:60], flush=True)

thread = threading.Thread(target=run, daemon=True)
thread.start()
thread.join(1)
subprocess.run(["true"], check=True)
print("in flight" if thread.is_alive() else "over", flush=True)
"""


def _process(endpoint: str) -> tuple[subprocess.CompletedProcess[str], float]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, endpoint],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done, time.monotonic() - began


def test_process_ends_at_once_though_a_request_has_no_answer(receiver: Receiver) -> None:
    """As the exporter's stop leaves a thread that is not done in time; it starts processes meanwhile."""
    with Proxy(("127.0.0.1", receiver.port)) as proxy:
        proxy.black_hole()
        done, seconds = _process(f"http://127.0.0.1:{proxy.port}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "in flight\n", "")
    assert seconds < 6


def test_grpc_itself_writes_nothing_to_standard_error(made: tls.Made) -> None:
    with Receiver(pair=made.server("expired")) as receiver:
        done, _ = _process(receiver.endpoint)
    assert done.stderr == ""
    assert done.stdout.startswith("failed: sending logs to https://127.0.0.1:")
