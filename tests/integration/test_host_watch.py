# SPDX-License-Identifier: Apache-2.0
"""Changes of the certificate are noticed when they happen: written, renamed, or by a link that is swapped."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bpf import inotify
from exporter.config import Identity as Settings
from exporter.host_sources import Sources
from exporter.host_watch import Watcher, leading_to
from identity.certificate import Certificate
from identity.instance import Identity, Outcome
from tests.rig.chains import good

SECONDS = 10
NEVER = 3600
"""By the clock nothing would be noticed while a test waits."""


def certificate(cn: str) -> bytes:
    now = int(time.time())
    return good(cn=cn, names=(), begin=now - 60, end=now + 3600).make().chain_pem


def replace(path: Path, content: bytes) -> None:
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.chmod(0o644)
    new.rename(path)


def settings(path: Path, poll: int = NEVER) -> Settings:
    return Settings(poll_seconds=poll, certificate=Certificate(path=str(path)))


class Looking:
    """A watcher, and what it said last."""

    def __init__(self, config: Settings) -> None:
        self._watcher = Watcher(config, Sources(config))
        self._last: Outcome | None = None

    def __enter__(self) -> Looking:
        self._watcher.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._watcher.__exit__(None, None, None)

    def identity(self) -> Identity:
        self._last = self._watcher.take() or self._last
        return self._last.identity if self._last and self._last.identity else Identity("", "", "")

    def await_name(self, name: str) -> None:
        until(lambda: self.identity().workload == name)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "certificates").mkdir()
    return tmp_path / "certificates"


def test_file_that_comes_changes_and_goes(place: Path) -> None:
    path = place / "client.crt"
    with Looking(settings(path)) as looking:
        looking.await_name(os.uname().nodename)
        path.write_bytes(certificate("first"))
        looking.await_name("first")
        replace(path, certificate("second"))
        looking.await_name("second")
        path.write_bytes(path.read_bytes()[:100])
        looking.await_name(os.uname().nodename)
        path.write_bytes(certificate("third"))
        looking.await_name("third")
        path.unlink()
        looking.await_name(os.uname().nodename)


def test_directory_that_comes_later(place: Path) -> None:
    """At boot not even the directory may be there."""
    path = place / "deep" / "deeper" / "client.crt"
    with Looking(settings(path)) as looking:
        looking.await_name(os.uname().nodename)
        path.parent.mkdir(parents=True)
        path.write_bytes(certificate("late"))
        looking.await_name("late")


def test_link_swapped_as_kubernetes_does(place: Path) -> None:
    for number in (1, 2):
        (place / f"..{number}").mkdir()
        (place / f"..{number}" / "client.crt").write_bytes(certificate(f"volume-{number}"))
    (place / "..data").symlink_to("..1")
    (place / "client.crt").symlink_to("..data/client.crt")
    with Looking(settings(place / "client.crt")) as looking:
        looking.await_name("volume-1")
        (place / "..data_tmp").symlink_to("..2")
        (place / "..data_tmp").rename(place / "..data")
        looking.await_name("volume-2")


def test_directory_behind_a_link_that_is_swapped(place: Path) -> None:
    for number in (1, 2):
        (place / f"v{number}").mkdir()
        (place / f"v{number}" / "client.crt").write_bytes(certificate(f"version-{number}"))
    (place / "current").symlink_to("v1")
    with Looking(settings(place / "current" / "client.crt")) as looking:
        looking.await_name("version-1")
        (place / "new").symlink_to("v2")
        (place / "new").rename(place / "current")
        looking.await_name("version-2")


def test_without_inotify_the_clock_tells(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(24, "Too many open files", "inotify_init1")

    monkeypatch.setattr(inotify, "init", refuse)
    path = place / "client.crt"
    with Looking(settings(path, poll=1)) as looking:
        looking.await_name(os.uname().nodename)
        path.write_bytes(certificate("polled"))
        looking.await_name("polled")


def test_thread_and_descriptors_end_with_it(place: Path) -> None:
    before, files = threading.active_count(), set(os.listdir("/proc/self/fd"))
    with Looking(settings(place / "client.crt")):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert set(os.listdir("/proc/self/fd")) <= files


def test_fault_in_a_look_is_survived(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "client.crt"
    config = settings(path, poll=1)
    sources = Sources(config)
    faults = iter([True])
    real = sources.look

    class Faulty(Sources):
        def look(self, *, ask: bool = True) -> Outcome:
            if next(faults, False):
                raise ZeroDivisionError
            return real(ask=ask)

    watcher = Watcher(config, Faulty(config))
    with watcher:
        until(lambda: watcher.take() is not None)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("a/file", ["a"]),
        ("a/none/deeper/file", ["a"]),
        ("link/file", [".", "a"]),
        ("a/back/a/file", ["a", "a"]),
        ("loop/file", ["."] * 41),
    ],
)
def test_directories_that_lead_to_a_file(tmp_path: Path, path: str, wanted: list[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    (tmp_path / "a" / "back").symlink_to("..")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "loop").symlink_to("loop")
    assert leading_to(str(tmp_path / path))[: len(wanted)] == [str(tmp_path / name) for name in wanted]
