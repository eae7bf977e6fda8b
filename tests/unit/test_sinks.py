# SPDX-License-Identifier: Apache-2.0
"""JSON lines and Parquet files: the same records, whole or not at all, and once where that can be."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from pyarrow import parquet

from exporter import record_table, records
from exporter.sinks.config import Json, Parquet
from exporter.sinks.json_lines import JsonFile
from exporter.sinks.parquet import ParquetDirectory
from tests.rig.batches import OWNER, batch


def as_json(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the Arrow table as the JSON lines have it."""
    for name in ("cgroup_id", "netns"):
        row[name] = str(row[name])
    for name in ("time_open", "time_start", "time_end"):
        if row[name] is not None:
            row[name] = np.datetime_as_string(np.datetime64(row[name].value, "ns")) + "Z"
    row["labels"] = dict(row["labels"])
    return row


def test_table_says_what_the_json_lines_say() -> None:
    one = batch(200)
    lines = [json.loads(line) for line in records.json_lines(one).split("\n")[:-1]]
    table = record_table.table(one)
    pandas_free = [dict(zip(table.column_names, row, strict=True)) for row in zip(*_rows(table), strict=True)]
    assert [as_json(row) for row in pandas_free] == lines
    assert table.column_names == list(lines[0])


def _rows(table: Any) -> list[list[Any]]:
    columns = []
    for name in table.column_names:
        if name.startswith("time_"):
            values = table[name].combine_chunks()
            columns.append([_Time(v.value) if v.is_valid else None for v in values])
        else:
            columns.append(table[name].to_pylist())
    return columns


@dataclasses.dataclass
class _Time:
    value: int


def test_table_without_records() -> None:
    assert record_table.table(batch(0)).num_rows == 0


def test_parquet_is_read_by_duckdb_with_its_partitions(tmp_path: Path) -> None:
    sink = ParquetDirectory(Parquet(str(tmp_path / "flows")))
    sink.deliver(batch(300))
    sink.deliver(batch(200, 300))
    query = (
        "SELECT count(*), min(sequence), max(sequence), any_value(date)::VARCHAR, any_value(hour)::INT,"
        " count(*) FILTER (labels['a'] IS NOT NULL), count(*) FILTER (workload = 'shop/web-0/nginx'),"
        " min(time_end)::VARCHAR, sum(bytes_sent) FROM read_parquet(?, hive_partitioning = true)"
    )
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        found = db.execute(query, [f"{tmp_path}/flows/**/*.parquet"]).fetchone()
    assert found
    both = [batch(300), batch(200, 300)]
    assert found[:5] == (500, 0, 499, "2025-11-24", 16)
    assert found[5] == found[6] == sum(int((b.records["owner"] == OWNER).sum()) for b in both)
    assert found[7].startswith("2025-11-24 16:00:01.111111")
    assert found[8] == sum(int(n) for b in both for n in b.records["bytes_sent"].tolist())


def test_parquet_delivered_again_replaces_itself(tmp_path: Path) -> None:
    sink = ParquetDirectory(Parquet(str(tmp_path)))
    sink.deliver(batch(10))
    sink.deliver(batch(10))
    (path,) = tmp_path.rglob("*.parquet")
    assert parquet.read_metadata(path).num_rows == 10
    assert path.parent == tmp_path / "date=2025-11-24/hour=16"


def test_parquet_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        ParquetDirectory(Parquet(str(tmp_path))).deliver(batch(10))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def lines(path: Path) -> list[int]:
    return [json.loads(line)["sequence"] for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_json_file_rotates_and_keeps_some(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    sink = JsonFile(Json(str(path), rotate_bytes=1 << 16, keep=2))
    for number in range(4):
        sink.deliver(batch(100, 100 * number))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flows.json.1", "flows.json.2"]
    assert lines(tmp_path / "flows.json.1") == list(range(300, 400))
    assert lines(tmp_path / "flows.json.2") == list(range(200, 300))
    assert (tmp_path / "flows.json.1").stat().st_mode & 0o777 == 0o600


def test_json_file_that_fails_takes_its_lines_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "flows.json"
    sink = JsonFile(Json(str(path)))
    sink.deliver(batch(5))

    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="space"):
            sink.deliver(batch(5, 5))
    assert lines(path) == [0, 1, 2, 3, 4]
    sink.deliver(batch(5, 5))
    assert lines(path) == list(range(10))


def test_json_file_torn_by_a_crash_is_cut_to_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    JsonFile(Json(str(path))).deliver(batch(3))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"kind":"clo' + "x" * 100_000)
    JsonFile(Json(str(path))).deliver(batch(2, 3))
    assert lines(path) == [0, 1, 2, 3, 4]


def test_json_file_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    sink = JsonFile(Json(str(path)))
    sink.deliver(batch(1))
    path.rename(tmp_path / "moved")
    sink.deliver(batch(1, 1))
    assert lines(path) == [1]
