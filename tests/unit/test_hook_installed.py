# SPDX-License-Identifier: Apache-2.0
"""The hook directory: made, renewed without a moment that lacks the stub, and root's alone."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from bpf.error import FlowtagError
from hooks import installed
from hooks.cli import FOLDER

APPLICATION = os.path.dirname(FOLDER)
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the hook directory is root's")


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    return tmp_path / "lib" / "hook"


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """The application directory once more, to change."""
    for package in ("bpf", "hooks", "identity"):
        shutil.copytree(f"{APPLICATION}/{package}", tmp_path / "app" / package)
    return tmp_path / "app"


def names(hook: Path) -> list[str]:
    return sorted(os.listdir(hook))


def test_install_makes_what_the_contract_says(hook: Path) -> None:
    old = os.umask(0o077)
    try:
        changed = installed.install(str(hook), APPLICATION, "/bin/true")
    finally:
        os.umask(old)
    assert changed == [
        str(hook.parent), str(hook), *(str(hook / n) for n in ("flowtag-hook", "flowtag-runc", "app", "runc"))
    ]  # fmt: skip
    assert names(hook) == ["app", "flowtag-hook", "flowtag-runc", "runc"]
    for path in (hook.parent, hook, hook / "flowtag-hook", hook / "flowtag-runc"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
    for name in ("flowtag-hook", "flowtag-runc"):
        assert not (hook / name).is_symlink()
        assert (hook / name).read_bytes() == Path(FOLDER, name).read_bytes()
    assert os.readlink(hook / "app") == APPLICATION
    assert os.readlink(hook / "runc") == "/bin/true"


def test_install_twice_changes_nothing(hook: Path) -> None:
    arguments = (str(hook), APPLICATION, "/bin/true", "/tmp/run")
    installed.install(*arguments)
    before = {name: (hook / name).lstat() for name in names(hook)}
    assert installed.install(*arguments) == []
    assert {name: (hook / name).lstat() for name in names(hook)} == before


def test_install_renews_what_differs(hook: Path, application: Path) -> None:
    installed.install(str(hook), APPLICATION, "/bin/true", "/tmp/run")
    installed.disable(str(hook))
    (hook / "flowtag-hook").chmod(0o700)
    with (application / "hooks" / "flowtag-runc").open("a", encoding="ascii") as file:
        file.write("# newer\n")
    (hook / ("flowtag-runc" + installed.PART)).touch()  # an install that was interrupted
    hook.chmod(0o700)
    changed = installed.install(str(hook), str(application), "/bin/false")
    assert changed == [
        str(hook / n) if n else str(hook) for n in ("", "flowtag-hook", "flowtag-runc", "app", "run", "runc")
    ]
    assert names(hook) == ["app", "disabled", "flowtag-hook", "flowtag-runc", "runc"]
    assert (hook / "flowtag-runc").read_text(encoding="ascii").endswith("# newer\n")
    assert installed.install(str(hook), str(application)) == []  # the runtime stays
    assert os.readlink(hook / "runc") == "/bin/false"


def test_install_is_never_without_the_stub(hook: Path, application: Path) -> None:
    installed.install(str(hook), str(application))
    ended = threading.Event()
    failed: list[str] = []

    def look() -> None:
        while not ended.is_set():
            try:
                if not os.access(hook / "flowtag-hook", os.X_OK):
                    failed.append("not executable")
                if not (hook / "flowtag-hook").read_bytes().endswith(b"end\n"):
                    failed.append("not whole")
                os.stat(hook / "app" / "hooks")
            except OSError as error:
                failed.append(str(error))

    source = application / "hooks" / "flowtag-hook"
    other = hook.parent / "other"
    shutil.copytree(application, other)
    for place in (source, other / "hooks" / "flowtag-hook"):
        place.write_bytes(source.read_bytes() + b"end\n")
    (other / "hooks" / "flowtag-hook").write_bytes(source.read_bytes() * 20)
    installed.install(str(hook), str(application))
    watcher = threading.Thread(target=look)
    watcher.start()
    for turn in range(100):
        assert installed.install(str(hook), str(other if turn % 2 else application)) or turn == 0
    ended.set()
    watcher.join()
    assert failed == []


@pytest.mark.parametrize(
    ("make", "who"),
    [
        (lambda path: path.chmod(0o775), "others may write"),
        (lambda path: path.chmod(0o777), "others may write"),
        (lambda path: os.chown(path, 1234, 0), "belongs to user 1234"),
    ],
    ids=["group", "others", "owner"],
)
@pytest.mark.parametrize("which", [".", "lib", "lib/hook"])
def test_install_refuses_a_directory_that_others_may_write(
    tmp_path: Path, which: str, make: object, who: str
) -> None:
    assert callable(make)
    hook = tmp_path / "lib" / "hook"
    hook.mkdir(parents=True)
    make(tmp_path / which)
    with pytest.raises(FlowtagError, match=who) as caught:
        installed.install(str(hook), APPLICATION)
    assert caught.value.hint
    assert names(hook) == []


def test_install_refuses_what_others_may_write_behind_a_link(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "hook").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("theirs")
    os.chown(theirs, 1234, 1234)
    with pytest.raises(FlowtagError, match=r"theirs: it belongs to user 1234"):
        installed.install(str(tmp_path / "lib" / "hook"), APPLICATION)
    assert names(theirs / "hook") == []
    os.chown(theirs, 0, 0)
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    assert installed.install(str(tmp_path / "sticky" / "hook"), APPLICATION)
    assert installed.install(str(tmp_path / "lib" / "hook"), APPLICATION)


def test_install_refuses_an_application_that_others_may_write(hook: Path, application: Path) -> None:
    os.chown(application / "identity", 1234, 1234)
    with pytest.raises(FlowtagError, match=r"identity: it belongs to user 1234"):
        installed.install(str(hook), str(application))
    shutil.rmtree(application)
    with pytest.raises(FlowtagError, match="No such file"):
        installed.install(str(hook), str(application))
    assert not hook.exists()


@pytest.mark.parametrize("runtime", ["/nowhere", "/etc/os-release", "/", "runc", "wrapper", "link"])
def test_install_refuses_a_runtime_that_is_none(tmp_path: Path, hook: Path, runtime: str) -> None:
    installed.install(str(hook), APPLICATION)
    (tmp_path / "link").symlink_to(hook / "flowtag-runc")
    path = {"wrapper": str(hook / "flowtag-runc"), "link": str(tmp_path / "link")}.get(runtime, runtime)
    with pytest.raises(FlowtagError):
        installed.install(str(hook), APPLICATION, path)
    assert not (hook / "runc").exists()


def test_install_relative(tmp_path: Path) -> None:
    with pytest.raises(FlowtagError, match="not an absolute path"):
        installed.install("hook", APPLICATION)


def test_remove_takes_its_own_only(hook: Path) -> None:
    installed.install(str(hook), APPLICATION, "/bin/true", "/tmp/run")
    installed.disable(str(hook))
    (hook / "somebody's").touch()
    with pytest.raises(FlowtagError, match="not empty"):
        installed.remove(str(hook))
    assert names(hook) == ["somebody's"]
    (hook / "somebody's").unlink()
    assert installed.remove(str(hook)) == [str(hook)]
    assert installed.remove(str(hook)) == []
    assert hook.parent.is_dir()


def test_kill_switch(hook: Path) -> None:
    with pytest.raises(FlowtagError, match="disabling the hook"):
        installed.disable(str(hook))
    assert not installed.disabled(str(hook))
    installed.install(str(hook), APPLICATION)
    assert not installed.disabled(str(hook))
    assert installed.disable(str(hook)) == [str(hook / "disabled")]
    assert installed.disable(str(hook)) == []
    assert installed.disabled(str(hook))
    assert installed.enable(str(hook)) == [str(hook / "disabled")]
    assert installed.enable(str(hook)) == []
    assert not installed.disabled(str(hook))


def test_stub_of_the_hook_directory_runs_for_any_user() -> None:
    """Rootless Podman reads root's hooks.d; what fails there keeps a user's containers from starting."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        installed.install(f"{directory}/hook", APPLICATION)
        done = subprocess.run(
            [f"{directory}/hook/flowtag-hook", "createRuntime"],
            input=b"{}",
            capture_output=True,
            user=65534,
            group=65534,
            extra_groups=[],
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_two_installs_at_once_leave_a_stub_that_runs(tmp_path: Path) -> None:
    """A package's script and an administrator: each file is there, whole and executable, at any time."""
    hook, stubs = tmp_path / "hook", set()
    for name in ("one", "two"):
        for package in ("hooks", "identity", "bpf"):
            (tmp_path / name / package).mkdir(parents=True)
        for file in ("flowtag-hook", "flowtag-runc"):
            path = tmp_path / name / "hooks" / file
            path.write_bytes(Path(APPLICATION, "hooks", file).read_bytes() + f"# {name}\n".encode())
        stubs.add((tmp_path / name / "hooks/flowtag-hook").read_bytes())
    installed.install(str(hook), str(tmp_path / "one"), "/bin/true")
    failures: list[Exception] = []

    def install(first: int) -> None:
        try:
            for turn in range(60):
                installed.install(str(hook), str(tmp_path / ("one", "two")[(first + turn) % 2]))
        except FlowtagError as error:
            failures.append(error)

    threads = [threading.Thread(target=install, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with open(hook / "flowtag-hook", "rb") as stub:
            assert os.fstat(stub.fileno()).st_mode & 0o111 == 0o111
            assert stub.read() in stubs
    assert failures == []
