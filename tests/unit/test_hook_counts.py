# SPDX-License-Identifier: Apache-2.0
"""Counts of hook runs that are read on: over a rename, a line that is half written, a file cut by hand."""

from __future__ import annotations

from pathlib import Path

from exporter.hook_counts import HookCounts
from hooks import run_line
from identity import hook_runs


def test_writer_and_reader_mean_the_same_file() -> None:
    assert run_line.FILE == hook_runs.FILE


def test_counts_go_on_over_a_rename(tmp_path: Path) -> None:
    file = tmp_path / hook_runs.FILE
    counts = HookCounts(str(tmp_path))
    counts.read()
    assert not counts.runs
    file.write_text("createRuntime claimed 9000\ncreateRuntime failed 137\nposts", encoding="ascii")
    counts.read()
    counts.read()
    assert (counts.runs["createRuntime", "claimed"], counts.failures["killed"]) == (1, 1)
    with file.open("a", encoding="ascii") as more:
        more.write("top ended 5\nnonsense\n")
    file.rename(f"{file}.old")
    file.write_text("createRuntime failed 139\n", encoding="ascii")
    counts.read()
    assert (counts.runs["poststop", "ended"], counts.failures["other"]) == (1, 1)
    assert sum(counts.runs.values()) == 4
    file.write_text("", encoding="ascii")
    counts.read()
    with file.open("a", encoding="ascii") as more:
        more.write("createRuntime claimed 1\n")
    counts.read()
    assert counts.runs["createRuntime", "claimed"] == 2
