# SPDX-License-Identifier: Apache-2.0
"""Kafka and ClickHouse encodings of a whole batch: `python -m tests.bench.sink_kafka`.

Prints records a second of one core's time, bytes a record, and what imports and a delivery to a mock
cluster add to RssAnon.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.rig.batches import OWNER, batch


def _rss() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def _workloads(count: int, workloads: int = 300) -> object:
    """A batch of so many records and workloads."""
    import numpy as np

    from exporter.label import Label

    made = batch(count)
    rng = np.random.default_rng(1)
    made.records["owner"] = OWNER + rng.integers(0, workloads, count).astype(np.uint64)
    made.records["bytes_sent"] = rng.integers(0, 1 << 20, count)
    made.records["local_port"] = rng.integers(32768, 61000, count)
    made.records["cookie"] = np.arange(count)
    labels = made.labels
    assert isinstance(labels, dict)
    for number in range(workloads):
        labels[OWNER + number] = Label(
            workload=f"shop/web-{number}/nginx",
            workload_kind="container",
            namespace="shop",
            pod=f"web-{number}",
            container="nginx",
            container_id=f"{number:064x}",
            labels={"app": "web", "pod-template-hash": f"{number:08x}"},
        )
    return made


def main() -> None:
    from exporter.batch import Batch

    one = _workloads(32_768)
    assert isinstance(one, Batch)
    found: dict[str, float] = {"rss_anon_mib_before": _rss()}
    import exporter.sinks.clickhouse
    from exporter.sinks import arrow_stream
    from exporter.sinks.config import Kafka as Config

    assert exporter.sinks.clickhouse.REFUSED
    found["rss_anon_mib_clickhouse_imported"] = _rss()
    from exporter.sinks import kafka

    found["rss_anon_mib_kafka_imported"] = _rss()
    arrow_stream.encode(one.part(slice(0, 100)))
    began = time.process_time()
    data = arrow_stream.encode(one)
    found["arrow_per_second"] = len(one.records) / (time.process_time() - began)
    found["arrow_bytes_per_record"] = len(data) / len(one.records)
    found["rss_anon_mib_arrow"] = _rss()
    del data
    from tests.rig.kafka import Kafka

    with Kafka(brokers=1) as cluster:
        for form in ("json", "arrow"):
            made = kafka.KafkaTopic(Config(cluster.brokers, form, format=form, transport="tcp"))
            passed = cluster.proxies[0].to_server
            cpu, wall = time.process_time(), time.monotonic()
            made.deliver(one)
            found[f"kafka_{form}_per_second_of_cpu"] = len(one.records) / (time.process_time() - cpu)
            found[f"kafka_{form}_per_second"] = len(one.records) / (time.monotonic() - wall)
            found[f"kafka_{form}_bytes_per_record"] = (cluster.proxies[0].to_server - passed) / len(
                one.records
            )
            found[f"rss_anon_mib_kafka_{form}"] = _rss()
            made.close()
    print(json.dumps({name: round(value, 1) for name, value in found.items()}, indent=1))


if __name__ == "__main__":
    main()
