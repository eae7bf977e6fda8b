# SPDX-License-Identifier: Apache-2.0
"""Batches into a Kafka topic, by librdkafka's idempotent producer: docs/sinks/kafka.md.

A batch is delivered when every message of it was acknowledged by all in-sync replicas. Idempotence holds
within one producer: what librdkafka itself sends again is once in the topic. After a failure the
producer goes, with all that is queued in it, and the batch is sent anew by the next one; what had been
acknowledged, or written without our hearing of it, is then there twice, under the same key.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from bpf.error import FlowtagError
from exporter import records
from exporter.batch import Batch
from exporter.sinks import secret
from exporter.sinks.config import Kafka
from exporter.sinks.sink import RefusedError
from exporter.sinks.tls import Tls

SCHEMA_VERSION = "1"
PART = 512  # records that are text in memory at a time
QUEUE_KBYTES = 4096  # in librdkafka at a time; a whole batch is 30 MB as JSON
WAIT_SECONDS = 0.2
PURGE_SECONDS = 5.0
SLACK_SECONDS = 10.0  # what librdkafka may be late with its own timeout; it scans once a second
Header = tuple[str, str | bytes | None]


class KafkaTopic:
    """Owns a producer, from the first batch on."""

    def __init__(self, config: Kafka) -> None:
        self._config = config
        self._producer: Producer | None = None
        self._files: tuple[object, ...] = ()
        self._log = _Log()

    def deliver(self, batch: Batch) -> None:
        """Every message acknowledged, or FlowtagError. Refused: a record too large for a message."""
        tally = _Tally(self._config, self._log)
        try:
            producer = self._open()
            for value, headers in messages(batch, self._config):
                self._queue(producer, tally, batch.origin.host_id, value, headers)
            while tally.acknowledged < tally.queued:
                producer.poll(WAIT_SECONDS)
                tally.check()
        except BaseException:
            self.close()
            raise
        self._log.forget()

    def close(self) -> None:
        """Without the producer, its threads and what it still had."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(PURGE_SECONDS)
            producer.close()

    def _open(self) -> Producer:
        """The producer; a new one where a file with a certificate or a password has changed."""
        files = _stamps(self._config)
        if self._producer is not None and files != self._files:
            self.close()
        if self._producer is None:
            self._files = files
            self._producer = Producer(
                {**settings(self._config), "error_cb": self._log.error}, logger=self._log
            )
        return self._producer

    def _queue(
        self, producer: Producer, tally: _Tally, key: str, value: bytes, headers: list[Header]
    ) -> None:
        """Into librdkafka's bounded queue, as soon as there is room."""
        while True:
            try:
                producer.produce(self._config.topic, value, key, on_delivery=tally.report, headers=headers)
            except BufferError:
                producer.poll(WAIT_SECONDS)
                tally.check()
            except KafkaException as error:
                if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    raise RefusedError(
                        f"a message of {len(value)} bytes, of {self._config.message_max_bytes} allowed"
                    ) from None
                raise
            else:
                tally.queued += 1
                if tally.queued % PART == 0:
                    producer.poll(0)
                    tally.check()
                return


class _Tally:
    """What became of one attempt's messages."""

    def __init__(self, config: Kafka, log: _Log) -> None:
        self.queued = self.acknowledged = 0
        self._config = config
        self._log = log
        self._error = ""
        self._moved = time.monotonic()

    def report(self, error: KafkaError | None, message: Message) -> None:
        self._moved = time.monotonic()
        if error is None:
            self.acknowledged += 1
        elif not self._error:
            self._error = error.str()

    def check(self) -> None:
        late = time.monotonic() - self._moved > self._config.timeout_seconds + SLACK_SECONDS
        if self._error or late:
            cause = self._error or "no acknowledgement"
            if self._log.cause:
                cause += f"; last: {self._log.cause}"
            raise FlowtagError(f"producing to the Kafka topic {self._config.topic}: {cause}")


class _Log:
    """librdkafka's log, in structlog: each facility once until a batch is delivered.

    librdkafka calls from within poll(), in the sink's own thread. It repeats a broker's being away at each
    attempt to connect, twice a second and broker at first; the newest cause goes into the sink's error.
    """

    def __init__(self) -> None:
        self.cause = ""
        self._seen: set[str] = set()

    def log(self, level: int, form: str, *values: object) -> None:
        facility = str(values[0]) if values else ""
        if facility == "FAIL":  # of a broker that hangs up nothing comes to error()
            self.cause = str(values[-1])
        if facility not in self._seen and len(self._seen) < 100:
            self._seen.add(facility)
            structlog.get_logger().info("librdkafka says", level=level, message=form % values)

    def error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # says no cause
            self.cause = error.str()

    def forget(self) -> None:
        self.cause = ""
        self._seen.clear()


def messages(batch: Batch, config: Kafka) -> Iterator[tuple[bytes, list[Header]]]:
    """Value and headers of each message, in order; the same ones each time for the same batch."""
    headers: list[Header] = [
        ("flowtag-batch", batch.key),
        ("flowtag-schema", SCHEMA_VERSION),
        ("flowtag-format", config.format),
    ]
    if config.format == "arrow":
        from exporter.sinks import arrow_stream

        room = config.message_max_bytes - 1024  # key, headers and framing count too
        try:
            for number, data in enumerate(arrow_stream.split(batch, room)):
                yield data, [*headers, ("flowtag-part", str(number))]
        except ValueError as error:
            raise RefusedError(str(error)) from None
        return
    for begin in range(0, len(batch.records), PART):
        for line in records.json_lines(batch.part(slice(begin, begin + PART))).encode().split(b"\n")[:-1]:
            yield line, headers


def settings(config: Kafka) -> dict[str, str | int | bool]:
    """librdkafka's configuration. OSError, FlowtagError if the password cannot be read."""
    third = config.timeout_seconds * 1000 // 3  # a request into a black hole leaves time for others
    found: dict[str, str | int | bool] = {
        "bootstrap.servers": ",".join(config.brokers),
        "client.id": "flowtag",
        "acks": "all",
        "enable.idempotence": True,
        "message.timeout.ms": config.timeout_seconds * 1000,
        "socket.timeout.ms": third,
        "request.timeout.ms": third,
        "socket.connection.setup.timeout.ms": third,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": min(third, 10_000),
        "message.max.bytes": config.message_max_bytes,
        "batch.size": min(config.message_max_bytes, 1_000_000),
        "queue.buffering.max.kbytes": max(QUEUE_KBYTES, math.ceil(config.message_max_bytes / 512)),
        "queue.buffering.max.messages": 1 << 14,
        "compression.type": config.compression if config.format == "json" else "none",
        "partitioner": "murmur2_random",  # as the Java client: one key is one partition for all producers
        "enable.metrics.push": False,
    }
    encrypted = config.transport == "tls"
    if encrypted:
        tls = config.tls
        found |= {
            "enable.ssl.certificate.verification": True,
            "ssl.endpoint.identification.algorithm": "https",
            "ssl.ca.location": tls.ca or "probe",
        }
        if tls.certificate:
            found |= {"ssl.certificate.location": tls.certificate, "ssl.key.location": tls.key}
    if config.username:
        found |= {
            "sasl.mechanism": config.mechanism.upper(),
            "sasl.username": config.username,
            "sasl.password": secret.read(config.password_file),
        }
    sasl = "sasl_" if config.username else ""
    found["security.protocol"] = sasl + ("ssl" if encrypted else "plaintext")
    return found


def _stamps(config: Kafka) -> tuple[object, ...]:
    """What tells whether a file that the producer read is another one now."""
    tls: Tls = config.tls
    found: list[object] = []
    for path in (tls.ca, tls.certificate, tls.key, config.password_file):
        if path:
            with contextlib.suppress(OSError):
                status = os.stat(path)
                found.append((path, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)
