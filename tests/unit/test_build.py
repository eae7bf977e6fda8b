# SPDX-License-Identifier: Apache-2.0
"""The build of the kernel programs: the same bytes anywhere, when needed, and clear when it fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bpf import build
from bpf.error import FlowtagError


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the C sources, in a directory whose name has a space."""
    directory = tmp_path / "an other place"
    directory.mkdir()
    for path in build.DIRECTORY.glob("*.[ch]"):
        shutil.copy2(path, directory)
    return directory


def test_build_gives_the_same_bytes_in_another_directory(tmp_path: Path, sources: Path) -> None:
    here, there = tmp_path / "here.o", tmp_path / "there.o"
    build.build(here)
    build.build(there, sources / "flow.bpf.c")
    assert here.read_bytes() == there.read_bytes()
    assert str(build.DIRECTORY).encode() not in here.read_bytes()


def test_is_stale_when_a_header_is_newer(tmp_path: Path, sources: Path) -> None:
    target = tmp_path / "flow.bpf.o"
    assert build.is_stale(target, sources)
    target.touch()
    assert not build.is_stale(target, sources)
    later = target.stat().st_mtime_ns + 1_000_000_000
    os.utime(sources / "flowtag.h", ns=(later, later))
    assert build.is_stale(target, sources)


def test_build_of_a_broken_source_says_where_and_leaves_no_object(tmp_path: Path, sources: Path) -> None:
    source = sources / "flow.bpf.c"
    source.write_text("int broken(void) { return nothing; }\n", encoding="ascii")
    target = tmp_path / "flow.bpf.o"
    with pytest.raises(FlowtagError, match=r"flow\.bpf\.c:1:.*nothing"):
        build.build(target, source)
    assert not list(tmp_path.glob("*.o*"))
    assert not list(tmp_path.glob(".*.o*"))


def test_build_without_clang_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FlowtagError, match="no clang") as raised:
        build.build(tmp_path / "flow.bpf.o")
    assert "apt install clang" in raised.value.hint
