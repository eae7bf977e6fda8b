# SPDX-License-Identifier: Apache-2.0
"""A thread that looks at the sources of the host's identity: when a file changes, and by the clock."""

from __future__ import annotations

import os
import select
import stat
import threading
from collections.abc import Iterable
from types import TracebackType

import structlog

from bpf import inotify
from exporter.config import Identity as Settings
from exporter.host_sources import Sources
from identity import certificate
from identity.instance import Outcome

SETTLE = 0.05
"""Seconds after a change before the files are read: writers change several."""
LINKS_MAX = 40


class Watcher:
    """The thread, from the beginning of a `with` to its end. take() gives the newest outcome once."""

    def __init__(self, settings: Settings, sources: Sources) -> None:
        self._settings = settings
        self._sources = sources
        self._lock = threading.Lock()
        self._newest: Outcome | None = None
        self._stopping, self._stop = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="host identity", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The thread ends at once, or when the metadata service has answered or not."""
        os.close(self._stop)
        self._thread.join(self._settings.document.seconds + 1)

    def take(self) -> Outcome | None:
        """What was found since the last call; None if there was no look."""
        with self._lock:
            newest, self._newest = self._newest, None
            return newest

    def _run(self) -> None:
        with _Directories() as directories:
            while True:
                directories.watch(_paths(self._settings))
                try:
                    outcome = self._sources.look()
                except Exception as error:  # the host keeps its identity, and the next look may go well
                    structlog.get_logger().error("looking who this host is", error=repr(error))
                else:
                    with self._lock:
                        self._newest = outcome
                if directories.wait(self._settings.poll_seconds, self._stopping):
                    os.close(self._stopping)
                    return


def _paths(settings: Settings) -> list[str]:
    if "certificate" not in settings.order:
        return []
    files = certificate.files(settings.certificate)
    return [path for path in (files.chain, files.key, files.trust) if path]


class _Directories:
    """The directories whose changes are told; none where the kernel gives no inotify instance."""

    def __init__(self) -> None:
        self._watched: dict[str, int] = {}
        try:
            self._fd = inotify.init()
        except OSError as error:
            self._fd = -1
            structlog.get_logger().warning("watching the certificate by the clock only", error=str(error))

    def __enter__(self) -> _Directories:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def watch(self, paths: Iterable[str]) -> None:
        """Watch what these paths lead through now, and nothing else."""
        if self._fd < 0:
            return
        wanted: dict[str, int] = {}
        for directory in {found for path in paths for found in leading_to(path)}:
            try:
                wanted[directory] = inotify.add(self._fd, directory)
            except OSError:  # it has just gone: the next look is by the clock
                continue
        for number in set(self._watched.values()) - set(wanted.values()):
            try:
                inotify.remove(self._fd, number)
            except OSError:  # its directory has gone
                continue
        self._watched = wanted

    def wait(self, seconds: float, stopping: int) -> bool:
        """Until something changes, or so long; True when the other end of `stopping` is closed."""
        watched = [stopping] + ([self._fd] if self._fd >= 0 else [])
        ready, _, _ = select.select(watched, (), (), seconds)
        if stopping in ready:
            return True
        if ready:
            ready, _, _ = select.select([stopping], (), (), SETTLE)
            self._drain()
        return bool(stopping in ready)

    def _drain(self) -> None:
        try:
            while os.read(self._fd, 1 << 16):
                pass
        except BlockingIOError:
            pass


def leading_to(path: str) -> list[str]:
    """The directories in which a change may make `path` another file: those of the file and of every link
    on the way, or the last one that is there.
    """
    found: list[str] = []
    links = 0
    here, rest = "/", [part for part in path.split("/") if part not in ("", ".")]
    while rest:
        part = rest.pop(0)
        if part == "..":
            here = os.path.dirname(here)
            continue
        step = os.path.join(here, part)
        try:
            mode = os.lstat(step).st_mode
        except OSError:
            found.append(here)
            break
        if stat.S_ISLNK(mode):
            found.append(here)
            links += 1
            try:
                target = os.readlink(step)
            except OSError:
                break
            if links > LINKS_MAX:
                break
            rest = [part for part in target.split("/") if part not in ("", ".")] + rest
            here = "/" if target.startswith("/") else here
        elif rest:
            here = step
        else:
            found.append(here)
    return found
