# SPDX-License-Identifier: Apache-2.0
"""The ClickHouse sink against ClickHouse's engine, in the table that docs/sinks/clickhouse.md shows."""

from __future__ import annotations

import ipaddress
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from urllib3.exceptions import HTTPError

from bpf.error import FlowtagError
from exporter import records
from exporter.batch import Batch
from exporter.sinks.clickhouse import ClickHouseTable
from exporter.sinks.config import ClickHouse as Config
from exporter.sinks.sink import RefusedError
from exporter.sinks.tls import Tls
from tests.rig import tls
from tests.rig.batches import batch
from tests.rig.clickhouse import PASSWORD, USER, ClickHouse
from tests.rig.proxy import Proxy

PAGE = (Path(__file__).resolve().parents[2] / "docs/sinks/clickhouse.md").read_text(encoding="utf-8")
TABLE = "".join(
    re.findall(r"^    (.*\n)", PAGE[PAGE.index("    CREATE TABLE") :].split("\n\n")[0] + "\n", re.M)
)
AGAIN = (OSError, HTTPError, FlowtagError)  # what Delivery takes for `later`


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    with ClickHouse(tmp_path_factory.mktemp("clickhouse")) as made:
        yield made


@pytest.fixture
def table(server: ClickHouse) -> Iterator[ClickHouse]:
    server.execute("DROP TABLE IF EXISTS flows SYNC")
    # The batches' minute is a year ago, and would be over at once.
    server.execute(TABLE.replace("INTERVAL 30 DAY", "INTERVAL 50 YEAR"))
    server.inserts.clear()
    yield server
    server.say()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n", encoding="ascii")
    return path


def sink(url: str, secret: Path, **keys: Any) -> ClickHouseTable:
    keys = {"username": USER, "timeout_seconds": 10, **keys}
    return ClickHouseTable(Config(url, password_file=str(secret), **keys))


def count(server: ClickHouse) -> int:
    return int(server.execute("SELECT count() FROM flows"))


def test_every_field_is_what_the_json_line_says(table: ClickHouse, secret: Path) -> None:
    sent = batch(300)
    sink(table.url, secret).deliver(sent)
    names = list(json.loads(records.json_lines(sent.part(slice(0, 1)))))
    rows = table.rows("SELECT * FROM flows ORDER BY sequence")
    assert list(rows[0]) == names
    found = [_as_json(row) for row in rows]
    assert found == [json.loads(line) for line in records.json_lines(sent).split("\n")[:-1]]
    (seen,) = table.inserts
    assert seen.parameters["insert_deduplication_token"] == seen.parameters["query_id"] == sent.key
    assert seen.headers["Content-Length"] == str(seen.size)


def _as_json(row: dict[str, Any]) -> dict[str, Any]:
    for name in ("cgroup_id", "netns"):
        row[name] = str(row[name])
    for name in ("local_address", "peer_address"):
        address = ipaddress.IPv6Address(row[name])
        row[name] = str(address.ipv4_mapped or address)
    return row


def test_large_batch_that_comes_again_is_there_once(table: ClickHouse, secret: Path) -> None:
    """Of several record batches, whose dictionaries differ; and over midnight, so in two partitions."""
    sent = batch(20_000)
    sent.offset[10_000:] += 8 * 3600 * 10**9
    made = sink(table.url, secret)
    for _ in range(2):
        made.deliver(sent)
    assert count(table) == 20_000
    parts = "SELECT uniqExact(partition) FROM system.parts WHERE table = 'flows' AND active"
    assert int(table.execute(parts)) == 2
    expected = int(sum(sent.records["bytes_sent"].tolist()) % 2**64)
    assert int(table.execute("SELECT sum(bytes_sent) FROM flows")) == expected
    made.deliver(batch(10, 20_000))
    assert count(table) == 20_010


def test_doubles_that_no_window_holds_are_found_by_a_query(table: ClickHouse, secret: Path) -> None:
    table.execute("ALTER TABLE flows MODIFY SETTING non_replicated_deduplication_window = 0")
    for _ in range(2):
        sink(table.url, secret).deliver(batch(50))
    assert count(table) == 100
    assert int(table.execute("SELECT uniqExact(boot_id, ring, sequence) FROM flows")) == 50
    assert "LIMIT 1 BY boot_id, ring, sequence" in PAGE
    once = "SELECT count() FROM (SELECT * FROM flows LIMIT 1 BY boot_id, ring, sequence)"
    assert int(table.execute(once)) == 50


def test_lost_answer_and_cut_request_leave_the_batch_there_once(table: ClickHouse, secret: Path) -> None:
    with Proxy(table.address) as proxy:
        made = sink(f"http://127.0.0.1:{proxy.port}", secret)
        proxy.cut_after(to_server=5000)
        with pytest.raises(AGAIN):
            made.deliver(batch(1000))
        assert count(table) == 0
        proxy.cut_after(to_client=0)
        with pytest.raises(AGAIN):
            made.deliver(batch(1000))
        assert count(table) == 1000  # it is there, and we do not know
        proxy.delay(0.05)
        made.deliver(batch(1000))
        assert count(table) == 1000
        assert len(table.inserts) == 2


@pytest.mark.parametrize("fault", ["black_hole", "deaf", "refuse"])
def test_gone_server_ends_the_attempt_in_time(table: ClickHouse, secret: Path, fault: str) -> None:
    with Proxy(table.address) as proxy:
        made = sink(f"http://127.0.0.1:{proxy.port}", secret, timeout_seconds=1)
        getattr(proxy, fault)()
        began = time.monotonic()
        with pytest.raises(AGAIN):
            made.deliver(batch(10))
        assert time.monotonic() - began < 3
        proxy.forward()
    sink(table.url, secret).deliver(batch(10))
    assert count(table) == 10


def test_answer_that_drips_is_cut_when_the_time_is_over(table: ClickHouse, secret: Path) -> None:
    """Each byte is in time; the whole is not."""
    table.say(status=503, text="x", headers={"Content-Length": "100"})
    with Proxy(table.address) as proxy:
        made = sink(f"http://127.0.0.1:{proxy.port}", secret, timeout_seconds=1)
        proxy.delay(0.6)
        began = time.monotonic()
        with pytest.raises(FlowtagError, match="over 1 s"):
            made.deliver(batch(10))
        assert 0.9 < time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"status": 503, "text": "overloaded"}, "HTTP 503: overloaded"),
        ({"status": 429}, "HTTP 429: no reason"),
        ({"status": 301, "headers": {"Location": "http://127.0.0.1:1/"}}, "HTTP 301"),
        ({"status": 200, "text": "<html>log in", "execute": False}, "HTTP 200: <html>log in"),
        ({"status": 200, "headers": {"X-ClickHouse-Exception-Code": "241"}}, "HTTP 200: 241"),
        ({"status": 200, "text": "Code: 252. DB::Exception: Too many parts", "execute": True}, "Too many"),
        ({"status": 200, "headers": {"Content-Length": "50"}, "execute": True}, "IncompleteRead"),
    ],
)
def test_all_but_a_clean_200_is_tried_again(
    table: ClickHouse, secret: Path, said: dict[str, Any], expected: str
) -> None:
    table.say(**said)
    made = sink(table.url, secret)
    with pytest.raises(AGAIN) as failed:
        made.deliver(batch(5))
    assert expected in repr(failed.value)
    assert PASSWORD not in repr(failed.value)
    table.say()
    made.deliver(batch(5))
    assert count(table) == 5


def test_what_an_operator_mends_is_tried_again(table: ClickHouse, secret: Path, tmp_path: Path) -> None:
    table.execute("RENAME TABLE flows TO away")
    made = sink(table.url, secret)
    with pytest.raises(FlowtagError, match=r"HTTP 404: Code: 60\."):
        made.deliver(batch(5))
    table.execute("RENAME TABLE away TO flows")
    table.execute("ALTER TABLE flows DROP COLUMN comm")
    with pytest.raises(FlowtagError, match=r"Code: 16\..*comm"):
        made.deliver(batch(5))
    table.execute("ALTER TABLE flows ADD COLUMN comm LowCardinality(Nullable(String))")
    secret.write_text("wrong", encoding="ascii")
    with pytest.raises(FlowtagError, match=r"HTTP 403: Code: 516\."):
        made.deliver(batch(5))
    secret.unlink()
    with pytest.raises(FileNotFoundError):
        made.deliver(batch(5))
    secret.write_text(PASSWORD, encoding="ascii")
    table.execute("ALTER TABLE flows ADD COLUMN seen DateTime DEFAULT now()")
    made.deliver(batch(5))
    assert count(table) == 5


def test_constraint_of_the_table_refuses_the_batch(table: ClickHouse, secret: Path) -> None:
    """The answer is a mock: chdb inserts nothing then, as the server does, but does not say so."""
    table.say(status=500, text="Code: 469. DB::Exception", headers={"X-ClickHouse-Exception-Code": "469"})
    made = sink(table.url, secret)
    with pytest.raises(RefusedError, match=r"Code: 469\."):
        made.deliver(batch(5, 7))
    table.say()
    made.deliver(batch(5, 0))
    assert count(table) == 5


def _attempt(made: tls.Made, url: str, secret: Path, ca: Path, mine: str | None) -> Batch:
    pair = made.client(mine) if mine else None
    keys = Tls(str(ca), str(pair.certificate), str(pair.key)) if pair else Tls(str(ca))
    sent = batch(5)
    sink(url, secret, tls=keys).deliver(sent)
    return sent


def test_tls_believes_good_certificates_only(table: ClickHouse, secret: Path, tmp_path: Path) -> None:
    made = tls.make(tmp_path)
    for fault, mine, ca, expected in (
        ("good", "other_ca", made.ca, "unknown ca|reset|without response|EOF occurred"),
        ("good", None, made.ca, "certificate required|reset|without response|EOF occurred"),
        ("good", "good", made.other_ca, "CERTIFICATE_VERIFY_FAILED"),
        ("wrong_name", "good", made.ca, "IP address mismatch"),
        ("expired", "good", made.ca, "certificate has expired"),
        ("self_signed", "good", made.ca, "self.signed"),
    ):
        context = tls.server_context(made.server(fault), client_ca=made.ca)
        with (
            Proxy(table.address, tls=context) as proxy,
            pytest.raises(AGAIN, match=f"(?i){expected}"),
        ):
            _attempt(made, f"https://127.0.0.1:{proxy.port}", secret, ca, mine)
    assert count(table) == 0
    with Proxy(table.address, tls=tls.server_context(made.server(), client_ca=made.ca)) as proxy:
        _attempt(made, f"https://127.0.0.1:{proxy.port}", secret, made.ca, "good")
    assert count(table) == 5
