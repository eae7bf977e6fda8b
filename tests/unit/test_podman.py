# SPDX-License-Identifier: Apache-2.0
"""Podman's storage as names: lists recorded from Podman 4.3.1 and 5.8.6, a database of 5.8's schema."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import podman_labels
from identity.known import MOST, Known
from identity.names import Names
from identity.podman import TRIES, Podman, from_list
from identity.workload import Workload

FIXTURES = Path(__file__).parent / "fixtures/podman"
SCHEMA = """
CREATE TABLE ContainerConfig(
    ID TEXT PRIMARY KEY NOT NULL, Name TEXT UNIQUE NOT NULL, PodID TEXT, JSON TEXT NOT NULL
)
"""


def ids(path: Path) -> dict[str, str]:
    """Container ids by name."""
    return {entry["names"][0]: entry["id"] for entry in json.loads(path.read_text(encoding="utf-8"))}


class Storage:
    """A private storage, and a source over it whose thread has ended: the test looks itself."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lists = directory / "overlay-containers"
        self.lists.mkdir(parents=True)
        self.known = Known()
        self.source = Podman(str(directory / "absent"), self.known)
        self.source.close()
        self.source._thread.join()
        self.source._storage = str(directory)

    def put(self, version: str) -> dict[str, str]:
        """Lists as this version wrote them; ids by name."""
        found: dict[str, str] = {}
        for file in (FIXTURES / version).iterdir():
            shutil.copy(file, self.lists)
            found.update(ids(file))
        return found

    def write(self, entries: object) -> None:
        """A list, replaced as Podman replaces it."""
        new = self.lists / "new"
        new.write_text(entries if isinstance(entries, str) else json.dumps(entries), encoding="utf-8")
        new.rename(self.lists / "containers.json")

    def database(self, rows: dict[str, Any], name: str = "db.sql") -> Path:
        """A state with a container for each key; its value is its labels, or its whole text."""
        path = self.directory / name
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(SCHEMA)
            for one, labels in rows.items():
                text = (
                    labels
                    if isinstance(labels, bytes)
                    else json.dumps({"name": one, "labels": labels}).encode()
                )
                database.execute("INSERT INTO ContainerConfig VALUES (?, ?, NULL, ?)", (one, one, text))
        return path

    def names(self, one: str, runtime: str = "podman") -> Names | None:
        return self.source.names(Workload(runtime=runtime, container_id=one))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


def entry(number: int, name: str = "") -> dict[str, Any]:
    metadata = {"image-name": "localhost/bb:1", "name": "first"}
    return {"id": f"{number:064x}", "names": [name or f"c{number}"], "metadata": json.dumps(metadata)}


def test_lists_of_4_3(storage: Storage) -> None:
    known = storage.put("4.3")
    storage.source.look()
    assert storage.names(known["web"]) == Names("web", image="localhost/bb:1")
    assert storage.names(known["second"]) == Names("second", image="localhost/bb:1"), "it was `first` once"


def test_lists_of_5_8_with_labels(storage: Storage) -> None:
    known = storage.put("5.8")
    storage.database({known["web"]: {"team": "shop", "flowtag.io/x": "y"}, known["vol"]: {"v": "1"}})
    storage.source.look()
    assert storage.names(known["web"]) == Names("web", image="localhost/bb:1", labels={"team": "shop"})
    assert storage.names(known["vol"]) == Names("vol", image="localhost/bb:1", labels={"v": "1"})
    assert storage.names(known["renamed"]) == Names("renamed", image="localhost/bb:1")


def test_rename_keeps_the_labels(storage: Storage) -> None:
    one = entry(1)["id"]
    storage.database({one: {"team": "shop"}})
    for name in ("web", "shop"):
        storage.write([entry(1, name)])
        storage.source.look()
        assert storage.names(one) == Names(name, image="localhost/bb:1", labels={"team": "shop"})


def test_removed_container_is_known_for_a_while(storage: Storage) -> None:
    storage.write([entry(1)])
    storage.source.look()
    storage.write([])
    storage.source.look()
    assert storage.names(entry(1)["id"]) is not None
    assert not storage.known._living


def test_only_podmans_own_are_answered(storage: Storage) -> None:
    storage.write([entry(1)])
    storage.source.look()
    one = entry(1)["id"]
    assert storage.names(one, "") is not None
    assert storage.names(one, "docker") is None
    assert storage.names(one, "crio") is None


def test_containers_of_crio_are_not_podmans() -> None:
    metadata = {"pod-name": "web", "pod-id": "1", "image-name": "i", "metadata-name": "c", "uid": "u"}
    assert from_list({**entry(1), "metadata": json.dumps(metadata)})[0] == ""


@pytest.mark.parametrize(
    "text", ["", "[", '{"id"', "[]x", "\x00", '[{"id":"\ud83d'.encode("utf-8", "replace").decode()]
)
def test_damaged_list_counts_as_what_it_was(storage: Storage, text: str) -> None:
    storage.write([entry(1)])
    storage.source.look()
    storage.write(text)
    storage.source.look()
    assert storage.known._living.keys() == {entry(1)["id"]}
    storage.write([entry(2)])
    storage.source.look()
    assert storage.known._living.keys() == {entry(2)["id"]}


def test_list_is_read_only_when_it_is_another(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write([entry(1)])
    storage.source.look()
    monkeypatch.setattr(storage.source, "_parse", lambda *_: pytest.fail("read again"))
    storage.source.look()


def test_list_without_end_is_bounded(storage: Storage) -> None:
    storage.write([entry(number) for number in range(MOST + 10)])
    storage.source.look()
    assert len(storage.known) == MOST
    assert storage.names(entry(MOST + 9)["id"]) is not None
    assert storage.names(entry(0)["id"]) is None


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(("id", "names", "metadata")), inner),
    )
)
def test_entry_of_any_shape_does_not_raise(value: object) -> None:
    assert isinstance(from_list(value)[0], str)


def test_labels_are_looked_for_until_the_row_is_there(storage: Storage) -> None:
    one = entry(1)["id"]
    path = storage.database({})
    storage.write([entry(1)])
    storage.source.look()
    assert storage.names(one) == Names("c1", image="localhost/bb:1")
    path.unlink()
    storage.database({one: {"a": "b"}})
    storage.source.look()
    found = storage.names(one)
    assert found is not None
    assert found.labels == {"a": "b"}
    assert not storage.source._wanted


def test_labels_are_not_looked_for_without_end(storage: Storage) -> None:
    storage.database({})
    storage.write([entry(1)])
    for _ in range(TRIES):
        assert storage.source._wanted or not storage.known
        storage.source.look()
    assert not storage.source._wanted


def test_no_labels_where_the_state_is_bolt(storage: Storage) -> None:
    storage.put("4.3")
    (storage.directory / "libpod").mkdir()
    (storage.directory / "libpod/bolt_state.db").write_bytes(b"\xed\xda\x0c\xed")
    storage.source.look()
    assert not storage.source._wanted


def test_state_below_libpod_is_read(storage: Storage) -> None:
    (storage.directory / "libpod").mkdir()
    storage.database({entry(1)["id"]: {"a": "b"}}, "libpod/db.sql")
    storage.write([entry(1)])
    storage.source.look()
    found = storage.names(entry(1)["id"])
    assert found is not None
    assert found.labels == {"a": "b"}


def test_labels_are_read_while_podman_holds_its_lock(storage: Storage) -> None:
    path = storage.database({"a": {"k": "v"}})
    with closing(sqlite3.connect(path, isolation_level=None)) as podman:
        podman.execute("BEGIN EXCLUSIVE")
        assert podman_labels.read(str(path), ["a"]) == {"a": {"k": "v"}}
        podman.execute("INSERT INTO ContainerConfig VALUES ('b', 'b', NULL, '{}')")
        assert os.path.exists(f"{path}-journal"), "else this shows nothing"
        assert podman_labels.read(str(path), ["a"]) == {}, "a transaction is under way"
        podman.execute("COMMIT")
    assert podman_labels.read(str(path), ["a", "b", "c"]) == {"a": {"k": "v"}, "b": None}


def test_read_that_a_transaction_touched_is_thrown_away(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = storage.database({"a": {"k": "v"}})
    labels = podman_labels._labels

    def meanwhile(database: sqlite3.Connection, one: str) -> list[object]:
        with closing(sqlite3.connect(path)) as podman, podman:
            podman.execute("UPDATE ContainerConfig SET Name = 'other'")
        return labels(database, one)

    monkeypatch.setattr(podman_labels, "_labels", meanwhile)
    assert podman_labels.read(str(path), ["a"]) == {}


def test_strange_rows_and_files_give_no_labels(storage: Storage) -> None:
    rows = {"long": b'{"labels":{"a":"%s"}}' % (b"x" * podman_labels.LIMIT), "list": [1], "good": {"k": "v"}}
    path = storage.database(rows)
    assert podman_labels.read(str(path), rows) == {"list": [1], "good": {"k": "v"}}
    assert podman_labels.read(str(path) + "x", rows) == {}
    path.write_bytes(b"SQLite format 3\0" + bytes(4080))
    assert podman_labels.read(str(path), rows) == {}


def test_row_that_is_no_json_costs_its_own_labels_only(storage: Storage) -> None:
    path = storage.database({"bad": b"{", "good": {"k": "v"}})
    assert podman_labels.read(str(path), ["good", "bad"]) == {"good": {"k": "v"}, "bad": None}
