# SPDX-License-Identifier: Apache-2.0
"""Ring to spool and spool to batch, on a recorded ring: `python -m tests.bench.spool_rate FILE`.

FILE is what tests.bench.record_ring wrote. Prints records a second of one core's time (columns, zstd,
CRC, write, fsync, rename), bytes a record, and what the process holds (RssAnon) with a whole batch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from exporter import records
from exporter.config import Spool as Settings
from exporter.label import Label
from exporter.ring import DTYPE, STRIDE, Columns
from exporter.sinks.config import Json, Parquet
from exporter.sinks.delivery import Delivery
from exporter.sinks.json_lines import JsonFile
from exporter.sinks.parquet import ParquetDirectory
from exporter.spool import columns
from exporter.spool.spool import Spool
from exporter.spool.spooling import TAKE
from tests.rig.ring_file import RingFile, RingWriter

ROUNDS = 7


def _rss() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def _ring_to_spool(directory: Path, rows: Columns) -> float:
    """The best round's records a second of CPU time."""
    best = 0.0
    for number in range(ROUNDS):
        path = directory / f"ring{number}"
        RingFile.create(path, 1 << 25)
        with RingFile(path) as ring, RingWriter(path) as writer:
            settings = Settings(directory=str(directory / f"spool{number}"), min_free_bytes=0)
            spool = Spool(settings, ring, "0" * 32, ["json"])
            written = writer.write(rows)
            began = time.process_time()
            while (taken := ring.look(TAKE)).count:
                ring.release(spool.append(taken, 0))
            del taken
            best = max(best, written / (time.process_time() - began))
    return best


def _deliver(directory: Path, rows: Columns) -> dict[str, float]:
    path = directory / "ring"
    RingFile.create(path, 1 << 25)
    settings = Settings(directory=str(directory / "spool"), min_free_bytes=0)
    found: dict[str, float] = {}
    with RingFile(path) as ring, RingWriter(path) as writer:
        spool = Spool(settings, ring, "0" * 32, ["json"])
        for begin in range(0, len(rows), 1000):  # a second each
            writer.write(rows[begin : begin + 1000])
            ring.release(spool.append(ring.take(), 0))
        spool.close_batches(0, 0, lambda owner: Label(workload=f"w{owner}"), everything=True)
        key_items = spool.next_batch("json", 0)
        assert key_items
        loader = Delivery("json", JsonFile(Json("-")), spool, "host", ())
        began = time.process_time()
        batch = loader.load(*key_items)
        assert batch
        found["load_and_peers_per_second"] = len(batch.records) / (time.process_time() - began)
        found["rss_anon_mib_batch_loaded"] = _rss()
        for name, sink in (
            ("json", JsonFile(Json(str(directory / "flows.json")))),
            ("parquet", ParquetDirectory(Parquet(str(directory / "lake")))),
        ):
            began = time.process_time()
            sink.deliver(batch)
            found[f"{name}_per_second"] = len(batch.records) / (time.process_time() - began)
            found[f"rss_anon_mib_{name}_delivered"] = _rss()
        (parquet,) = (directory / "lake").rglob("*.parquet")
        found["parquet_bytes_per_record"] = parquet.stat().st_size / len(batch.records)
        found["json_bytes_per_record"] = len(records.json_lines(batch.part(slice(0, 1000)))) / 1000
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    rows = np.frombuffer(parser.parse_args().file.read_bytes(), DTYPE)
    sequence = np.arange(len(rows), dtype=np.uint64)
    seconds = [slice(begin, begin + 1000) for begin in range(0, len(rows), 1000)]
    of_seconds = sum(columns.encode(rows[s], sequence[s]).size for s in seconds)
    found: dict[str, float] = {
        "records": len(rows),
        "rss_anon_mib_imported": _rss(),
        "bytes_per_record_minute": columns.encode(rows, sequence).size / len(rows),
        "bytes_per_record_seconds": of_seconds / len(rows),
    }
    with tempfile.TemporaryDirectory() as scratch:
        found.update(_deliver(Path(scratch), rows[:65_000]))
        found["ring_to_spool_per_second"] = _ring_to_spool(Path(scratch), rows[: (1 << 25) // STRIDE - 1])
    print(json.dumps({name: round(value, 1) for name, value in found.items()}, indent=1))


if __name__ == "__main__":
    main()
