# SPDX-License-Identifier: Apache-2.0
"""Labels of Podman's containers, out of the SQLite state of Podman 4.8 and later, without a lock.

Podman keeps labels there and nowhere else: neither in the storage's containers.json nor in a bundle's
config.json. It works in one transaction at a time with a rollback journal (libpod/sqlite_state.go), so
nobody writes while there is no journal, and the header counts transactions. A read that a transaction
may have touched is thrown away: labels come a second later rather than wrong, and Podman never waits.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from urllib.parse import quote

from identity import strict_json

LIMIT = 2 << 20
"""Bytes of one container's configuration; of a longer one no label is taken."""
# Podman stores the text as a BLOB, which SQLite 3.45 and later may take for its binary JSON.
_QUERY = """
SELECT CASE WHEN json_valid(text) THEN json_extract(text, '$.labels') END
FROM (SELECT CAST(JSON AS TEXT) AS text FROM ContainerConfig WHERE ID = ? AND length(JSON) <= ?)
"""


def read(path: str, container_ids: Iterable[str]) -> dict[str, object]:
    """The labels by container id, of those that have a row; nothing if Podman is at work; never raises.

    A value is a JSON document of whatever shape; None where the container has no labels.
    """
    try:
        before = _state(path)
        if before is None:
            return {}
        # immutable: no lock is taken, no journal rolled back, no page looked for anywhere else.
        uri = f"file:{quote(path)}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            found = {one: _labels(database, one) for one in container_ids}
        if _state(path) != before:
            return {}
    except (OSError, sqlite3.Error):
        return {}
    return {one: rows[0] for one, rows in found.items() if rows}


def _labels(database: sqlite3.Connection, container_id: str) -> list[object]:
    """The labels, as a list of one; an empty list where there is no row."""
    row = database.execute(_QUERY, (container_id, LIMIT)).fetchone()
    if row is None:
        return []
    try:
        return [strict_json.decode(row[0].encode(), LIMIT) if isinstance(row[0], str) else None]
    except ValueError:
        return [None]


def _state(path: str) -> tuple[int, int, int, bytes] | None:
    """What changes with every transaction; None while one is under way."""
    if os.path.exists(f"{path}-journal") or os.path.exists(f"{path}-wal"):
        return None
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        # The file change counter: sqlite.org/fileformat2.html, 1.3.7.
        return status.st_ino, status.st_mtime_ns, status.st_size, os.pread(file.fileno(), 4, 24)
