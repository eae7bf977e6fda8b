# SPDX-License-Identifier: Apache-2.0
"""Batches to IPFIX messages: `python -m tests.bench.sink_ipfix`.

Prints records a second of one core's time and bytes a record, for a batch of 32,768 records of 300
workloads, and what the sink's modules and one batch add to RssAnon.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from exporter.batch import Batch
from exporter.label import Label
from identity import address
from tests.rig import batches

RECORDS, WORKLOADS, ROUNDS = 32_768, 300, 9


def _rss() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def made_up(peers: int) -> Batch:
    """Half of the flows are between two workloads of this host, of which each talks to so many others and
    has two process names; a tenth is IPv6, as much adopted.
    """
    chance = np.random.default_rng(1)
    made = batches.batch(RECORDS)
    owners = np.sort(chance.integers(1 << 17, 1 << 63, WORKLOADS).astype(np.uint64))
    kinds = ("web", "checkout-worker", "postgres-primary", "redis", "search-indexer", "mail")
    labels = {
        owner: Label(
            workload=f"team-{n % 17}/{kinds[n % 6]}-{n * 7919 % 65536:x}-{n:05d}/{kinds[n % 6]}",
            workload_kind="container",
            container_id=f"{owner:064x}",
            labels={"app.kubernetes.io/name": kinds[n % 6]},
        )
        for n, owner in enumerate(owners.tolist())
    }
    rows = made.records.copy()
    who = chance.zipf(1.3, RECORDS) % WORKLOADS
    rows["owner"] = owners[who]
    rows["flags"] = np.where(chance.random(RECORDS) < 0.1, 1, 4)
    rows["role"] = chance.integers(1, 3, RECORDS)
    rows["pid"] = chance.integers(1, 1 << 22, RECORDS)
    names = [b"nginx", b"postgres", b"python3", b"java", b"redis-server", b"http-listener-1"]
    comm = (who + chance.integers(0, 2, RECORDS)) % len(names)
    rows["comm"] = np.array(names, "S16").view("V16")[comm]
    six = chance.random(RECORDS) < 0.1
    for name in ("local_address", "peer_address"):
        hosts = chance.integers(0, 1 << 32, RECORDS).astype(">u4").tobytes()
        mapped = [address.MAPPED + hosts[i : i + 4] for i in range(0, len(hosts), 4)]
        four = np.frombuffer(b"".join(mapped), "V16")
        rows[name] = np.where(six, np.void(address.from_text("2001:db8::1")), four)
    others = owners[(who * 31 + chance.integers(0, peers, RECORDS)) % WORKLOADS]
    known = np.where(chance.random(RECORDS) < 0.5, others, 0).astype(np.uint64)
    return Batch(made.origin, 0, made.minute, rows, made.sequence, made.offset, labels, known)


def main() -> None:
    batch, scattered = made_up(8), made_up(WORKLOADS)
    found = {"rss_anon_mib_before": _rss()}
    from exporter.sinks import ipfix, ipfix_flows

    found["rss_anon_mib_imported"] = _rss()
    for name, of, room in (
        ("stream", batch, ipfix.STREAM_MESSAGE),
        ("datagrams", batch, ipfix.DATAGRAM_MESSAGE),
        ("scattered", scattered, ipfix.STREAM_MESSAGE),
    ):
        best, size, messages = 0.0, 0, 0
        for _ in range(ROUNDS):
            began = time.process_time()
            sizes = [(run.data.size, len(run.data)) for run in ipfix_flows.runs(of, room)]
            best = max(best, RECORDS / (time.process_time() - began))
            size, messages = (sum(part) for part in zip(*sizes, strict=True))
        found[f"{name}_records_per_second"] = best
        found[f"{name}_bytes_per_record"] = size / RECORDS
        found[f"{name}_messages"] = messages
    found["rss_anon_mib_batch"] = _rss()
    print(json.dumps({name: round(value, 1) for name, value in found.items()}, indent=1))


if __name__ == "__main__":
    main()
