# SPDX-License-Identifier: Apache-2.0
"""Names, images and, from Podman 4.8 on, labels of Podman's containers: its storage, read-only.

Podman has no daemon to ask. It replaces its lists whole, so a thread looks once a second whether they
are others, and reads those that are. It takes none of Podman's locks and never runs it.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import structlog

from identity import strict_json
from identity.docker_names import identifier, table, text
from identity.known import MOST, Known
from identity.labels import tenant
from identity.names import Names
from identity.workload import ROOM, Workload, fit

STORAGE = "/var/lib/containers/storage"
RUNTIMES = ("podman", "")
"""Whose containers may be Podman's; none where a container was found by a cgroup that does not tell."""
# Containers that are to be removed at their end (--rm) have a list of their own since 4.4.
LISTS = ("containers.json", "volatile-containers.json")
DATABASES = ("db.sql", "libpod/db.sql")
LIST_LIMIT = 4 << 20
SECONDS = 1.0
ABSENT_SECONDS = 10.0
TRIES = 10
"""Looks for a container's labels: its row is written after its entry in the list."""

Stamp = tuple[int, int, int]


def from_list(entry: object) -> tuple[str, Names]:
    """Id and names of an entry of containers.json; an empty id for what is not Podman's.

    `names` follows `podman rename`, the name in the metadata does not.
    """
    values = table(entry)
    try:
        metadata = table(strict_json.decode(text(values.get("metadata")).encode("utf-8", "replace"), 1 << 16))
    except ValueError:
        metadata = {}
    called = values.get("names")
    if "pod-name" in metadata:  # CRI-O's, which uses the same storage
        return "", Names()
    names = Names(
        container=fit(text(called[0]) if isinstance(called, list) and called else "", ROOM["container"]),
        image=fit(text(metadata.get("image-name")), ROOM["image"]),
    )
    return identifier(values.get("id")), names


class Podman:
    """A source of names (identity/names.py)."""

    name = "podman"

    def __init__(self, storage: str = STORAGE, known: Known | None = None) -> None:
        self._storage = storage
        self._known = Known() if known is None else known
        self._lists: dict[str, tuple[Stamp, dict[str, Names]]] = {}
        self._labelled: set[str] = set()
        self._wanted: dict[str, int] = {}
        self._told = ""
        self.working: bool | None = None
        self._log = structlog.get_logger().bind(source=self.name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="names-podman", daemon=True)
        self._thread.start()

    def names(self, workload: Workload) -> Names | None:
        """What is known of a container; one that is not known yet will be in a second, if it is Podman's."""
        if workload.runtime not in RUNTIMES:
            return None
        return self._known.get(workload.container_id)

    def close(self) -> None:
        """Stop; nobody waits for the thread."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            there = False
            try:
                there = os.path.isdir(self._storage)
                if there:
                    self.look()
                self._told = ""
                self.working = True if there else None
            except Exception as error:  # or names would end for good, and nobody would know why
                self.working = False
                if repr(error) != self._told:
                    self._told = repr(error)
                    self._log.error("no news of names from Podman", error=self._told)
            self._stop.wait(SECONDS if there else ABSENT_SECONDS)

    def look(self) -> None:
        """Read the lists that are others than before, and the labels that are still to be found."""
        changed = self._read_lists()
        if not changed and not self._wanted:
            return
        listed = {one: names for _, part in self._lists.values() for one, names in part.items()}
        if changed:
            self._labelled = {one for one in self._labelled & listed.keys() if self._known.get(one)}
            new = (one for one in listed if one not in self._labelled)
            self._wanted = {one: self._wanted.get(one, TRIES) for one in new}
        labels = self._read_labels()
        for one, names in listed.items():
            old = self._known.get(one)
            kept = labels.get(one, {} if old is None else old.labels)
            self._known.put(one, replace(names, labels=kept))
        self._known.end_others(listed)

    def _read_lists(self) -> bool:
        """Whether any list was another than before. A damaged one counts as what it was."""
        changed = False
        paths = [
            f"{self._storage}/{directory}/{name}"
            for directory in sorted(os.listdir(self._storage))
            if directory.endswith("-containers")
            for name in LISTS
        ]
        for path in self._lists.keys() - set(paths):
            del self._lists[path]
            changed = True
        for path in paths:
            old = self._lists.get(path)
            try:
                with open(path, "rb") as file:
                    status = os.fstat(file.fileno())
                    stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
                    if old is not None and old[0] == stamp:
                        continue
                    part = self._parse(path, file.read(LIST_LIMIT + 1), old)
            except FileNotFoundError:
                changed |= self._lists.pop(path, None) is not None
                continue
            self._lists[path] = stamp, part
            changed = True
        return changed

    def _parse(self, path: str, data: bytes, old: tuple[Stamp, dict[str, Names]] | None) -> dict[str, Names]:
        try:
            entries = strict_json.decode(data, LIST_LIMIT)
        except ValueError as error:
            self._log.warning("a list of Podman's containers is damaged", path=path, error=str(error))
            return {} if old is None else old[1]
        # The newest are last.
        found = map(from_list, entries[-MOST:] if isinstance(entries, list) else [])
        return {container_id: names for container_id, names in found if container_id}

    def _read_labels(self) -> dict[str, dict[str, str]]:
        """Labels that were still wanted. They never change, so each is looked for until it is found."""
        databases = [path for name in DATABASES if os.path.exists(path := f"{self._storage}/{name}")]
        if not self._wanted or not databases:  # BoltDB, before 4.8: not to be read beside a writer
            self._wanted = {}
            return {}
        from identity import podman_labels  # SQLite is for hosts with Podman

        found: dict[str, object] = {}
        for path in databases:
            found.update(podman_labels.read(path, self._wanted))
        self._labelled |= found.keys()
        self._wanted = {
            one: tries - 1 for one, tries in self._wanted.items() if one not in found and tries > 1
        }
        return {one: tenant(labels) for one, labels in found.items()}
