# SPDX-License-Identifier: Apache-2.0
"""A sink that is down for hours, by a back-off that only counts: real spool, Delivery thread and sink."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from exporter.config import Spool as Settings
from exporter.label import Label
from exporter.sinks.clickhouse import ClickHouseTable
from exporter.sinks.config import ClickHouse as Config
from exporter.sinks.delivery import Delivery
from exporter.spool.spool import Spool
from tests.integration.test_clickhouse_sink import TABLE
from tests.rig.clickhouse import PASSWORD, USER, ClickHouse
from tests.rig.proxy import Proxy
from tests.rig.ring_file import RingFile, RingWriter, records

BOOT = "01234567-89ab-cdef-0123-456789abcdef"


class _Event(threading.Event):
    """Waits a ten-thousandth of what it is asked for, and counts that."""

    waited = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.waited += timeout or 0
        return super().wait((timeout or 0) / 10_000)


def test_down_for_hours_the_oldest_is_dropped_and_the_rest_comes_in_order(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD, encoding="ascii")
    RingFile.create(tmp_path / "ring", 1 << 21)
    with (
        ClickHouse(tmp_path / "clickhouse") as server,
        Proxy(server.address) as proxy,
        RingFile(tmp_path / "ring") as ring,
        RingWriter(tmp_path / "ring") as writer,
    ):
        # These records are of 1970, and would be over at once.
        server.execute(re.sub(r"\n *TTL .*", "", TABLE))
        config = Config(f"http://127.0.0.1:{proxy.port}", username=USER, password_file=str(secret))
        spool = Spool(Settings(directory=str(tmp_path / "spool"), min_free_bytes=0), ring, BOOT, ["ch"])
        proxy.refuse()
        thread = Delivery("ch", ClickHouseTable(config), spool, "host", ())
        event = _Event()
        vars_of: Any = thread
        vars_of._stop_now = event
        thread.start()
        for number in range(20):
            writer.write(records(10, number * 10, owner=1 << 40))
            ring.release(spool.append(ring.take(), 0))
            spool.close_batches(0, 0, lambda owner: Label(workload="web"), everything=True)
        _until(lambda: event.waited > 3 * 3600)
        for _ in range(5):
            assert spool.drop_oldest("max_bytes")
        proxy.forward()
        _until(lambda: spool.ledger()[0].delivered == 150)
        event.set()
        thread.join(10)
        (row,) = spool.ledger()
        assert (row.dropped["max_bytes"], row.waiting, row.unaccounted) == (50, 0, 0)
        assert int(server.execute("SELECT count() FROM flows")) == 150
        assert int(server.execute("SELECT min(sequence) FROM flows")) == 50
        keys = [int(seen.parameters["query_id"].rpartition("_")[2]) for seen in server.inserts]
        assert keys == sorted(keys)
        assert len(set(keys)) == 15


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("not in 60 s")
        time.sleep(0.02)
