# SPDX-License-Identifier: Apache-2.0
"""The files of live/ and pending/."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import cgroup, incarnation
from identity.incarnation import Incarnation
from identity.workload import Workload

U64 = st.integers(0, 2**64 - 1)
NUMBERS = dict.fromkeys(("pid", "start_time", "cgroup", "cgroup_parent", "netns"), U64)


def made() -> Incarnation:
    workload = Workload(id=2**64 - 1, start=5, container="wéb", runtime="runc")
    return Incarnation(workload, pid=1, start_time=2, cgroup=3, cgroup_directory="/c\udcff", netns=4)


def everything(found: Incarnation) -> tuple[object, ...]:
    return tuple(getattr(found, name) for name in Incarnation.__slots__)


@given(
    st.builds(Workload, id=U64, start=U64, end=U64, pod=st.text(), image=st.text()),
    st.fixed_dictionaries(NUMBERS),
    st.text(max_size=100),
)
def test_encode_round_trips(workload: Workload, numbers: dict[str, Any], text: str) -> None:
    one = Incarnation(workload, **numbers, cgroup_directory=text, reason=text)
    assert everything(Incarnation.decode(one.encode())) == everything(one)


def test_encode_longest_is_readable() -> None:
    names = dict.fromkeys(("container_id", "container", "pod", "image", "host"), "😀" * 999)
    one = Incarnation(Workload(**names), cgroup_directory="/" + "\udcff" * 4095, reason="a" * 99)
    assert everything(Incarnation.decode(one.encode())) == everything(one)


@given(st.binary(max_size=300))
def test_decode_any_bytes(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Incarnation.decode(data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"version": 1', '"version": 2'),
        ('"pid": 1', '"pid": "1"'),
        ('"pid": 1', '"pid": true'),
        ('"pid": 1', '"pid": -1'),
        ('"pid": 1', '"workload": "1"'),
        ('"pid": 1', '"colour": "red"'),
        ('"netns": 4', f'"netns": {2**64}'),
    ],
)
def test_decode_damaged(old: str, new: str) -> None:
    text = made().encode().decode()
    assert old in text
    with pytest.raises(ValueError, match=r".+"):
        Incarnation.decode(text.replace(old, new).encode())


def test_write_makes_private_files(tmp_path: Path) -> None:
    path = tmp_path / "run" / "live" / "a.json"
    incarnation.write(str(path), made())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700
    found = incarnation.read(str(path))
    assert found is not None
    assert everything(found) == everything(made())
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "live" / "a.json").mkdir(parents=True)  # a directory there: the rename fails
    with pytest.raises(OSError, match=r".+"):
        incarnation.write(str(tmp_path / "live" / "a.json"), made())
    assert [p.name for p in (tmp_path / "live").iterdir()] == ["a.json"]


def test_read_missing_symlink_and_huge(tmp_path: Path) -> None:
    assert incarnation.read(str(tmp_path / "none")) is None
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(OSError, match=r".+"):
        incarnation.read(str(tmp_path / "link"))
    (tmp_path / "huge").write_bytes(b" " * 10_000_000)
    with pytest.raises(ValueError, match="more than"):
        incarnation.read(str(tmp_path / "huge"))


def test_every_passes_over_damaged_ones(tmp_path: Path) -> None:
    assert list(incarnation.every(str(tmp_path / "none"))) == []
    incarnation.write(str(tmp_path / "a.json"), made())
    (tmp_path / "b.json").write_bytes(b"{")
    (tmp_path / ".c.json.77").write_bytes(b"")
    assert [name for name, _ in incarnation.every(str(tmp_path))] == ["a.json"]


def test_file_name_tells_bundle_and_id_apart() -> None:
    names = {incarnation.file_name(*pair) for pair in (("/a", "b"), ("/a/b", ""), ("/b", "a"))}
    assert len(names) == 3
    assert incarnation.file_name("/a", "b") == incarnation.file_name("/a", "b")
    assert "/" not in incarnation.file_name("/a\udcff", "../../etc")


def test_lives_only_with_the_same_start_time() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        started = cgroup.start_time(process.pid)
        assert started is not None
        assert Incarnation(Workload(), pid=process.pid, start_time=started).lives()
        assert not Incarnation(Workload(), pid=process.pid, start_time=started + 1).lives()
        process.kill()
    assert not Incarnation(Workload(), pid=process.pid, start_time=started).lives()


def test_lives_populated_cgroup_of_the_same_id() -> None:
    mount = cgroup.mount_point()
    if mount is None or os.geteuid() != 0:
        pytest.skip("needs root and cgroup v2")
    path = Path(f"{mount}/flowtag-unit-lives-{os.getpid()}")
    path.mkdir()
    number = cgroup.id_of(str(path))
    claimed = Incarnation(Workload(), cgroup=number, cgroup_directory=str(path))
    another = Incarnation(Workload(), cgroup=number + 1, cgroup_directory=str(path))
    try:
        assert not claimed.lives()
        with subprocess.Popen(["sleep", "60"]) as process:
            (path / "cgroup.procs").write_text(str(process.pid), encoding="ascii")
            assert claimed.lives()
            assert not another.lives()
            process.kill()
    finally:
        path.rmdir()
    assert not claimed.lives()
