# SPDX-License-Identifier: Apache-2.0
"""Writing somebody else's file: what is kept, what is refused, what is left behind."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from bpf.error import FlowtagError
from hooks import edit
from hooks.runtime import Change


def accept(change: Change, temporary: str) -> None:
    """An engine that likes everything."""


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_apply_keeps_mode_attributes_and_backup(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_bytes(b"old\n")
    file.chmod(0o640)
    os.setxattr(file, "user.label", b"kept")
    edit.apply(Change(str(file), b"old\n", b"new\n"), accept)
    assert file.read_bytes() == b"new\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert os.getxattr(file, "user.label") == b"kept"
    assert names(tmp_path) == ["daemon.json", "daemon.json.flowtag-backup"]
    edit.apply(Change(str(file), b"new\n", b"newer\n"), accept)
    assert (tmp_path / "daemon.json.flowtag-backup").read_bytes() == b"old\n"


def test_apply_makes_file_and_directories_without_backup(tmp_path: Path) -> None:
    file = tmp_path / "a/b/hook.json"
    edit.apply(Change(str(file), None, b"{}", mode=0o600), accept)
    assert names(file.parent) == ["hook.json"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o755


def test_apply_removes_file(tmp_path: Path) -> None:
    file = tmp_path / "hook.json"
    file.write_bytes(b"ours")
    edit.apply(Change(str(file), b"ours", None), accept, backup=False)
    assert names(tmp_path) == []


def test_apply_shows_the_engine_a_file_that_it_does_not_read(tmp_path: Path) -> None:
    seen: list[str] = []

    def judge(change: Change, temporary: str) -> None:
        seen.append(temporary)
        assert Path(temporary).read_bytes() == b"new"
        assert not os.path.exists(change.path)

    edit.apply(Change(str(tmp_path / "x.json"), None, b"new"), judge)
    assert [os.path.dirname(path) for path in seen] == [str(tmp_path)]
    assert not seen[0].endswith((".json", ".toml", ".conf"))


def test_apply_refused_by_the_engine_leaves_all_as_it_was(tmp_path: Path) -> None:
    def refuse(change: Change, temporary: str) -> None:
        raise FlowtagError("no")

    file = tmp_path / "x.json"
    file.write_bytes(b"old")
    with pytest.raises(FlowtagError, match="no"):
        edit.apply(Change(str(file), b"old", b"new"), refuse)
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["x.json"]


@pytest.mark.parametrize("there", [b"theirs", None])
def test_apply_file_that_changed_since_it_was_read(tmp_path: Path, there: bytes | None) -> None:
    file = tmp_path / "x.json"
    if there is not None:
        file.write_bytes(there)
    with pytest.raises(FlowtagError, match="changed it meanwhile"):
        edit.apply(Change(str(file), b"old", b"new"), accept)
    assert (file.read_bytes() if file.exists() else None) == there


def test_apply_file_that_changes_while_the_engine_judges(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(b"old")
    with pytest.raises(FlowtagError, match="changed it meanwhile"):
        edit.apply(Change(str(file), b"old", b"new"), lambda *_: (file.write_bytes(b"theirs"), None)[1])
    assert file.read_bytes() == b"theirs"


def test_apply_through_a_link_edits_its_target(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/daemon.json").write_bytes(b"old")
    link = tmp_path / "daemon.json"
    link.symlink_to("real/daemon.json")
    edit.apply(Change(str(link), b"old", b"new"), accept)
    assert link.is_symlink()
    assert (tmp_path / "real/daemon.json").read_bytes() == b"new"


@pytest.mark.parametrize("which", ["x.json", "."])
def test_apply_what_others_can_write_is_refused(tmp_path: Path, which: str) -> None:
    directory = tmp_path / "etc"
    directory.mkdir()
    (directory / "x.json").write_bytes(b"old")
    (directory / which).chmod(0o777)
    with pytest.raises(FlowtagError, match="others than root can change") as caught:
        edit.apply(Change(str(directory / "x.json"), b"old", b"new"), accept)
    assert "chmod" in caught.value.hint
    assert (directory / "x.json").read_bytes() == b"old"


def test_apply_link(tmp_path: Path) -> None:
    link = tmp_path / "runc"
    edit.apply(Change(str(link), None, b"/hook/flowtag-runc", link=True), accept)
    assert os.readlink(link) == "/hook/flowtag-runc"
    assert edit.read(str(link), link=True) == b"/hook/flowtag-runc"
    edit.apply(Change(str(link), b"/hook/flowtag-runc", None, link=True), accept)
    assert names(tmp_path) == []
    link.write_bytes(b"a program")
    with pytest.raises(FlowtagError, match="not a link"):
        edit.apply(Change(str(link), None, b"/hook/flowtag-runc", link=True), accept)


def test_apply_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    file = tmp_path / "x.json"
    file.write_bytes(b"old")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(FlowtagError, match="No space left"):
        edit.apply(Change(str(file), b"old", b"new"), accept)
    monkeypatch.undo()
    assert names(tmp_path) == ["x.json"]


def test_apply_waits_for_another_flowtag(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(b"old")
    with edit.locked(str(tmp_path)):
        change = Change(str(file), b"old", b"new")
        other = threading.Thread(target=edit.apply, args=(change, accept))
        other.start()
        other.join(0.2)
        assert file.read_bytes() == b"old"
    other.join(10)
    assert file.read_bytes() == b"new"


def test_apply_without_backup_gives_the_old_file_back(tmp_path: Path) -> None:
    file, backup = tmp_path / "x.json", tmp_path / "x.json.flowtag-backup"
    file.write_bytes(b"new")
    backup.write_bytes(b"old")
    edit.apply(Change(str(file), b"new", b"other"), accept, backup=False)
    assert backup.read_bytes() == b"old"
    edit.apply(Change(str(file), b"other", b"old"), accept, backup=False)
    assert names(tmp_path) == ["x.json"]
    assert file.read_bytes() == b"old"


def test_diff() -> None:
    said = edit.diff(
        [Change("/f", b"a\nb", b"a\nc\n"), Change("/l", None, b"/t", link=True), Change("/s", b"", b"")]
    )
    assert said == ("--- /f\n+++ /f\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n+/l -> /t\n")
    assert edit.diff([Change("/f", None, b"a\n")]).startswith("--- /dev/null\n+++ /f\n")
    assert edit.diff([Change("/f", b"a\n", None)]).startswith("--- /f\n+++ /dev/null\n")
