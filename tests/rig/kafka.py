# SPDX-License-Identifier: Apache-2.0
"""librdkafka's mock cluster in a process of its own, each of its brokers behind a proxy.

    with Kafka(brokers=3) as kafka:
        Config(brokers=kafka.brokers, ...)         # of the proxies; the cluster advertises no others
        kafka.create("flows", partitions=4)        # topics are also made by themselves
        for proxy in kafka.proxies: proxy.cut()    # tests/rig/proxy.py
        kafka.errors(PRODUCE, 29, 29)              # the next requests of that kind fail so
        kafka.read("flows", count)                 # messages in the order of partition and offset

It answers as a cluster does, but keeps messages in memory (5 MB a partition), and does not look at the
sequence numbers of idempotent producers: what a producer sends again after a lost answer is there twice,
where a real broker throws the second away. `python -m tests.rig.kafka N` is what runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import ssl
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import confluent_kafka

from tests.rig.proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
PRODUCE, METADATA, INIT_PRODUCER_ID = 0, 3, 22


class Received(NamedTuple):
    """One message."""

    partition: int
    key: bytes
    value: bytes
    headers: dict[str, str]


class Kafka:
    """Owns the process and the proxies."""

    def __init__(self, brokers: int = 3, tls: ssl.SSLContext | None = None) -> None:
        self._count = brokers
        self._tls = tls
        self.proxies: list[Proxy] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            command = [sys.executable, "-m", "tests.rig.kafka", str(self._count)]
            self._process = stack.enter_context(
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            assert self._process.stdin
            stack.callback(self._process.stdin.close)
            self._ports = self._answer()
            for number, port in enumerate(self._ports, 1):
                proxy = stack.enter_context(Proxy(("127.0.0.1", port), tls=self._tls))
                self.proxies.append(proxy)
                self.call("advertise", number, proxy.port)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def brokers(self) -> tuple[str, ...]:
        return tuple(f"127.0.0.1:{proxy.port}" for proxy in self.proxies)

    def call(self, *command: object) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def create(self, topic: str, partitions: int) -> None:
        self.call("create", topic, partitions)

    def topic_error(self, topic: str, code: int) -> None:
        """Of the topic's metadata, until it is 0 again."""
        self.call("topic_error", topic, code)

    def errors(self, request: int, *codes: int) -> None:
        self.call("errors", request, *codes)

    def clear_errors(self, request: int) -> None:
        self.call("clear", request)

    def read(self, topic: str, least: int = 0, seconds: float = 20) -> list[Received]:
        """All that is there, in each partition's order; at least so many, or it fails."""
        settings: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.brokers),
            "group.id": "none",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
        if self._tls:  # the proxies' certificates may be bad ones: that is the sink's affair
            settings |= {"security.protocol": "ssl", "enable.ssl.certificate.verification": False}
        consumer = confluent_kafka.Consumer(settings)
        found: list[Received] = []
        try:
            deadline = time.monotonic() + seconds
            numbers = list(consumer.list_topics(topic, timeout=seconds).topics[topic].partitions)
            consumer.assign([confluent_kafka.TopicPartition(topic, number, 0) for number in numbers])
            ended: set[int] = set()
            while len(ended) < len(numbers) or len(found) < least:
                assert time.monotonic() < deadline, (len(found), least)
                for message in consumer.consume(1000, timeout=0.2):
                    partition = message.partition()
                    assert partition is not None
                    error = message.error()
                    if error is None:
                        headers = {name: _text(value) for name, value in _pairs(message.headers())}
                        key, value = message.key(), message.value()
                        assert key is not None
                        assert value is not None
                        found.append(Received(partition, key, value, headers))
                    elif error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
                        ended.add(partition)
            for number in numbers:
                first, _ = consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, number))
                assert first == 0, "more than the mock cluster keeps"
        finally:
            consumer.close()
        return sorted(found, key=lambda message: message.partition)


def _pairs(headers: Any) -> list[tuple[str, bytes]]:
    return list(headers or [])


def _text(value: bytes) -> str:
    return value.decode()


def _library() -> ctypes.CDLL:
    """The librdkafka that the Python package brings along."""
    libraries = Path(confluent_kafka.__file__).parent.with_name("confluent_kafka.libs")
    (path,) = libraries.glob("librdkafka-*.so*")
    library = ctypes.CDLL(str(path))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
    for name, result, arguments in (
        ("new", pointer, (number, pointer, text, ctypes.c_size_t)),
        ("mock_cluster_new", pointer, (pointer, number)),
        ("mock_cluster_bootstraps", text, (pointer,)),
        ("mock_broker_set_host_port", None, (pointer, number, text, number)),
        ("mock_topic_create", number, (pointer, text, number, number)),
        ("mock_topic_set_error", None, (pointer, text, number)),
        (
            "mock_push_request_errors_array",
            None,
            (pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(number)),
        ),
        ("mock_clear_request_errors", None, (pointer, ctypes.c_int16)),
    ):
        function = getattr(library, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def main() -> None:
    library = _library()
    client = library.rd_kafka_new(0, None, None, 0)
    cluster = library.rd_kafka_mock_cluster_new(client, int(sys.argv[1]))
    bootstraps = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()
    print(json.dumps([int(one.rpartition(":")[2]) for one in bootstraps.split(",")]), flush=True)
    for line in sys.stdin:
        match json.loads(line):
            case ["advertise", broker, port]:
                library.rd_kafka_mock_broker_set_host_port(cluster, broker, b"127.0.0.1", port)
            case ["create", topic, partitions]:
                replicas = min(3, int(sys.argv[1]))
                library.rd_kafka_mock_topic_create(cluster, topic.encode(), partitions, replicas)
            case ["topic_error", topic, code]:
                library.rd_kafka_mock_topic_set_error(cluster, topic.encode(), code)
            case ["errors", request, *codes]:
                array = (ctypes.c_int32 * len(codes))(*codes)
                library.rd_kafka_mock_push_request_errors_array(cluster, request, len(codes), array)
            case ["clear", request]:
                library.rd_kafka_mock_clear_request_errors(cluster, request)
        print("null", flush=True)
    # The end of the process ends the cluster: to take it down in order takes seconds.
    sys.stdout.flush()


if __name__ == "__main__":
    main()
