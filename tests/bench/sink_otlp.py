# SPDX-License-Identifier: Apache-2.0
"""What the OTLP sink costs on one core: records/s and bytes a record of its logs and of its metrics.

    python -m tests.bench.sink_otlp

A batch of 32,768 records of 300 workloads with 8 edges each; requests are made and thrown away.
Then the same batch goes to a receiver in a process of its own, by gRPC with gzip; RssAnon is that of this
process, after the imports alone and at its highest.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np

from exporter.batch import Batch
from exporter.label import Label
from identity import address
from tests.rig import batches, ring_file

RECORDS = 1 << 15
SERVER = (
    "import sys\nfrom tests.rig.otlp import Receiver\n"
    "with Receiver() as receiver:\n    print(receiver.endpoint, flush=True)\n    sys.stdin.read()\n"
)


def rss_anon() -> float:
    """MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def realistic(count: int = RECORDS, workloads: int = 300) -> Batch:
    """Names and numbers of the sizes that a host of pods has."""
    rng = np.random.default_rng(7)
    rows = ring_file.records(count)
    owners = rng.integers(1, workloads + 1, count, dtype=np.uint64)
    beside = (owners + rng.integers(1, 4, count, dtype=np.uint64)) % workloads + 1
    peers = np.where(rng.random(count) < 0.5, beside, 0).astype(np.uint64)
    rows["owner"], rows["generation"] = owners, 1
    rows["time_open"] = rows["time_start"] = np.sort(rng.integers(0, 60 * 10**9, count))
    rows["time_end"] = rows["time_open"] + rng.integers(0, 10**9, count, dtype=np.uint64)
    choice = np.array([np.void(address.from_text(f"10.0.{n}.17")) for n in range(30)], "V16")
    rows["local_address"], rows["peer_address"] = rng.choice(choice, count), rng.choice(choice, count)
    rows["role"] = rng.integers(1, 3, count)
    ports, ephemeral = 8000 + owners % 40, rng.integers(32768, 60999, count)
    rows["local_port"] = np.where(rows["role"] == 2, ports, ephemeral)
    rows["peer_port"] = np.where(rows["role"] == 2, ephemeral, ports)
    rows["end_reason"], rows["rule"] = 1, 1
    for name, most in (
        ("bytes_sent", 1 << 16),
        ("bytes_received", 1 << 20),
        ("rtt_us", 9000),
        ("pid", 1 << 20),
    ):
        rows[name] = rng.integers(1, most, count)
    rows["comm"] = np.array([b"nginx"], "S16").view("V16")[0]
    labels = {
        n: Label(
            f"shop/web-{n}-7d9f8b6c5-x2x{n}/nginx",
            "container",
            "web",
            "shop",
            f"web-{n}-7d9f8b6c5-x2x{n}",
            "nginx",
            f"{n:064x}",
            "registry.example.com/shop/web:1.27.1",
            "containerd",
            "hook",
            "verified",
            {"app": "web", "pod-template-hash": "7d9f8b6c5", "app.kubernetes.io/version": "1.27.1"},
        )
        for n in range(1, workloads + 1)
    }
    sequence, offset = np.arange(count, dtype=np.uint64), np.full(count, batches.OFFSET, np.int64)
    return Batch(batches.ORIGIN, 1, batches.MINUTE, rows, sequence, offset, labels, peers)


class _Highest(threading.Thread):
    """RssAnon, looked at every 5 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.value = 0.0

    def run(self) -> None:
        while True:
            self.value = max(self.value, rss_anon())
            time.sleep(0.005)


def main() -> None:
    batch = realistic()
    before = rss_anon()
    from exporter.sinks import otlp_edges, otlp_logs, otlp_metrics
    from exporter.sinks.otlp import LIMIT, OtlpReceiver
    from exporter.sinks.otlp_config import Otlp

    print(f"imports: {rss_anon() - before:.1f} MiB of RssAnon, on {before:.1f} with a batch")
    begin = time.process_time()
    made = [request for request, _, _ in otlp_logs.requests(batch, 0, LIMIT)]
    seconds = time.process_time() - begin
    size, packed = sum(map(len, made)), sum(len(zlib.compress(one)) for one in made)
    print(
        f"logs: {RECORDS / seconds:,.0f} records/s, {size / RECORDS:.0f} bytes a record,"
        f" {packed / RECORDS:.0f} with gzip, {len(made)} requests of up to {max(map(len, made)):,}"
    )
    del made
    for limit in (2000, 4000):
        begin = time.process_time()
        sums = otlp_edges.sums(batch, "workload", True, limit)
        summed = time.process_time() - begin
        requests = list(otlp_metrics.requests(batch, sums, 0, LIMIT))
        seconds = time.process_time() - begin
        print(
            f"metrics, max_edges {limit}: {RECORDS / seconds:,.0f} records/s ({summed * 1e3:.0f} ms of"
            f" {seconds * 1e3:.0f} to sum up), {len(sums.edges)} edges, {sums.overflow} overflowed,"
            f" {sum(p for _, _, p in requests)} points, {sum(len(r) for r, _, _ in requests) / RECORDS:.0f}"
            " bytes a record"
        )
    del sums, requests
    highest = _Highest()
    highest.start()
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        endpoint = server.stdout.readline().strip()
        for signals in (("metrics",), ("logs",)):
            began, cpu = time.monotonic(), time.process_time()
            OtlpReceiver(Otlp(endpoint, signals=signals)).deliver(batch)
            seconds, cpu = time.monotonic() - began, time.process_time() - cpu
            print(
                f"{signals[0]} delivered: {seconds:.2f} s, {cpu:.2f} s of CPU,"
                f" {RECORDS / seconds:,.0f} records/s"
            )
        server.stdin.close()
    print(f"RssAnon at its highest: {highest.value:.1f} MiB")


if __name__ == "__main__":
    main()
