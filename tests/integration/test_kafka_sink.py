# SPDX-License-Identifier: Apache-2.0
"""The Kafka sink against librdkafka's mock cluster behind proxies: tests/rig/kafka.py says what that lacks.

What arrived is compared with what was sent, byte by byte; what came twice must be the same under one key.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bpf.error import FlowtagError
from exporter import record_table, records
from exporter.batch import Batch
from exporter.sinks.config import Kafka as Config
from exporter.sinks.kafka import KafkaTopic
from exporter.sinks.sink import RefusedError
from exporter.sinks.tls import Tls
from tests.rig import tls
from tests.rig.batches import batch
from tests.rig.kafka import PRODUCE, Kafka, Received

UNKNOWN_TOPIC = 3  # Kafka's error codes
SECONDS = 3  # the least that may be configured


@pytest.fixture(scope="module")
def cluster() -> Iterator[Kafka]:
    with Kafka(brokers=3) as made:
        yield made


@pytest.fixture
def kafka(cluster: Kafka) -> Iterator[Kafka]:
    yield cluster
    cluster.clear_errors(PRODUCE)
    for proxy in cluster.proxies:
        proxy.forward()


@pytest.fixture
def topic(request: pytest.FixtureRequest, kafka: Kafka) -> str:
    name: str = request.node.name
    kafka.create(name, 4)
    return name


def sink(kafka: Kafka, topic: str, **keys: Any) -> KafkaTopic:
    keys = {"transport": "tcp", "timeout_seconds": SECONDS, **keys}
    return KafkaTopic(Config(kafka.brokers, topic, **keys))


def lines(*batches: Batch) -> list[bytes]:
    return [line for one in batches for line in records.json_lines(one).encode().split(b"\n")[:-1]]


def threads() -> list[str]:
    """librdkafka's, of this process; it calls them rdk:..."""
    names = []
    for number in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it ends meanwhile
            names.append(Path(f"/proc/self/task/{number}/comm").read_text(encoding="ascii"))
    return [name for name in names if name.startswith("rdk:")]


def of_batches(found: list[Received]) -> dict[str, list[bytes]]:
    by_key: dict[str, list[bytes]] = {}
    for message in found:
        by_key.setdefault(message.headers["flowtag-batch"], []).append(message.value)
    return by_key


def test_json_lines_arrive_in_order_in_one_partition(kafka: Kafka, topic: str) -> None:
    made = sink(kafka, topic)
    sent = [batch(700), batch(300, 700)]
    for one in sent:
        made.deliver(one)
    found = kafka.read(topic, 1000)
    assert [message.value for message in found] == lines(*sent)
    assert {message.partition for message in found} == {found[0].partition}
    assert {message.key.decode() for message in found} == {sent[0].origin.host_id}
    assert of_batches(found).keys() == {one.key for one in sent}
    assert found[0].headers["flowtag-schema"] == "1"
    assert threads()
    made.close()
    made.close()
    assert not threads()


def test_arrow_streams_hold_the_table(kafka: Kafka, topic: str) -> None:
    made, sent = sink(kafka, topic, format="arrow", message_max_bytes=1 << 16), batch(3000)
    made.deliver(sent)
    made.close()
    found = kafka.read(topic, 2)
    assert [message.headers["flowtag-part"] for message in found] == [str(n) for n in range(len(found))]
    assert max(len(message.value) for message in found) < 1 << 16
    tables = [pa.ipc.open_stream(message.value).read_all() for message in found]
    assert pa.concat_tables([_plain(table) for table in tables]).equals(_plain(record_table.table(sent)))


def _plain(table: pa.Table) -> pa.Table:
    """Without dictionaries."""
    fields = [
        pa.field(field.name, pa.string() if pa.types.is_dictionary(field.type) else field.type)
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def test_cuts_and_delays_while_producing_lose_nothing(kafka: Kafka, topic: str) -> None:
    over = threading.Event()
    chance = random.Random(1)  # noqa: S311 - repeats itself

    def cuts() -> int:
        return sum(proxy.cuts for proxy in kafka.proxies)

    def disturb() -> None:
        while cuts() < before + 8 and not over.wait(chance.uniform(0.01, 0.05)):
            proxy = chance.choice(kafka.proxies)
            match chance.randrange(4):
                case 0:
                    proxy.cut()
                case 1:
                    proxy.cut_after(to_server=chance.randrange(1, 40_000))
                case 2:
                    proxy.cut_after(to_client=chance.randrange(0, 100))
                case 3:
                    proxy.delay(chance.choice([0, 0.002, 0.02]))

    made = sink(kafka, topic, compression="none")
    sent: list[Batch] = []
    before = cuts()
    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        while len(sent) < 6 or (cuts() < before + 6 and len(sent) < 15):
            sent.append(batch(200, 200 * len(sent)))
            _until_delivered(made, sent[-1])
    finally:
        over.set()
        disturber.join()
        made.close()
    for proxy in kafka.proxies:
        proxy.forward()
    assert cuts() >= before + 3
    found = kafka.read(topic, len(sent) * 200)
    by_key = of_batches(found)
    for one in sent:
        assert set(by_key[one.key]) == set(lines(one))
    assert sum(len(set(values)) for values in by_key.values()) == len(sent) * 200
    # A double is the same line of the same batch; the first ones are in order.
    assert list(dict.fromkeys(message.value for message in found)) == lines(*sent)


def _until_delivered(made: KafkaTopic, one: Batch, attempts: int = 20) -> int:
    for attempt in range(attempts):
        try:
            made.deliver(one)
        except FlowtagError:
            continue
        return attempt
    raise AssertionError(attempts)


def test_lost_answers_make_doubles_under_the_same_key_only(kafka: Kafka, topic: str) -> None:
    made, one = sink(kafka, topic), batch(100)
    made.deliver(one)
    for proxy in kafka.proxies:
        proxy.cut_after(to_client=0)
    made.deliver(batch(100, 100))  # sent again by librdkafka itself, under the same sequence numbers
    made.close()
    found = kafka.read(topic, 200)
    assert sum(proxy.cuts for proxy in kafka.proxies)
    assert set(Counter((m.headers["flowtag-batch"], m.value) for m in found)) == {
        (one.key, line) for one in (one, batch(100, 100)) for line in lines(one)
    }


def test_gone_cluster_ends_the_attempt_and_recovery_needs_no_hand() -> None:
    def attempt(fault: str) -> None:
        with Kafka(brokers=1) as kafka:
            made, (proxy,) = sink(kafka, "t"), kafka.proxies
            if fault == "black_hole":
                made.deliver(batch(50, 1000))  # there is a connection, which says nothing any more
            getattr(proxy, fault)()
            began = time.monotonic()
            with pytest.raises(FlowtagError, match=r"the Kafka topic t: .*timed out"):
                made.deliver(batch(50))
            assert time.monotonic() - began < SECONDS + 5
            proxy.forward()
            made.deliver(batch(50))
            made.close()
            found = [m.value for m in kafka.read("t", 50) if m.headers["flowtag-batch"] == batch(50).key]
            # What the black hole held comes out of it after all: the same batch once more.
            assert list(dict.fromkeys(found)) == lines(batch(50))
            assert len(found) == 50 or fault == "black_hole"

    together(attempt, ["refuse", "black_hole", "deaf"])
    assert not threads()


def together(attempt: Callable[[Any], None], cases: Iterable[Any]) -> None:
    """At once, since each one waits for a timeout."""
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(attempt, case) for case in cases]:
            done.result()


def test_errors_that_an_operator_mends_are_retried() -> None:
    def attempt(case: tuple[str, str]) -> None:
        where, expected = case
        with Kafka(brokers=1) as kafka:
            if where == "topic":
                kafka.topic_error("t", UNKNOWN_TOPIC)
            else:
                kafka.errors(PRODUCE, int(where))
            made = sink(kafka, "t")
            with pytest.raises(FlowtagError, match=f"(?i){expected}"):
                made.deliver(batch(10))
            kafka.topic_error("t", 0)
            made.deliver(batch(10))
            made.close()
            assert [m.value for m in kafka.read("t", 10)] == lines(batch(10))

    together(attempt, [("topic", "unknown topic|timed out"), ("29", "authorization"), ("10", "too large")])


def test_record_larger_than_a_message_is_refused(kafka: Kafka, topic: str) -> None:
    one = batch(20)
    for label in one.labels.values():
        vars_of = dict(label.labels) | {"large": "x" * 70_000}
        object.__setattr__(label, "labels", vars_of)
    for form in ("json", "arrow"):
        made = sink(kafka, topic, message_max_bytes=1 << 16, format=form)
        if form == "arrow":  # it is compressed inside, and so is no problem
            made.deliver(one)
        else:
            with pytest.raises(RefusedError, match="65536 allowed"):
                made.deliver(one)
        made.close()


def test_tls_believes_good_certificates_only(tmp_path: Path) -> None:
    made = tls.make(tmp_path)

    def attempt(case: tuple[str, str | None, Path, str]) -> None:
        fault, mine, ca, expected = case
        keys = Tls(ca=str(ca))
        if mine:
            pair = made.client(mine)
            keys = Tls(str(ca), str(pair.certificate), str(pair.key))
        context = tls.server_context(made.server(fault), client_ca=made.ca)
        with Kafka(brokers=1, tls=context) as kafka:
            one = sink(kafka, "t", transport="tls", tls=keys)
            try:
                one.deliver(batch(5))
                found = "delivered"
            except FlowtagError as error:
                found = str(error)
            one.close()
            assert re.search(expected, found), (case, found)

    together(
        attempt,
        [
            ("good", "good", made.ca, "^delivered"),
            ("good", "good", made.other_ca, "certificate verify failed"),
            ("wrong_name", "good", made.ca, "certificate verify failed"),
            ("expired", "good", made.ca, "certificate verify failed"),
            ("self_signed", "good", made.ca, "certificate verify failed"),
            ("good", None, made.ca, "Disconnected: "),
            ("good", "other_ca", made.ca, "Disconnected: "),
        ],
    )
    assert not threads()
