# SPDX-License-Identifier: Apache-2.0
"""Pages of sinks: their examples are configurations, and every key has its row."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bpf.error import FlowtagError
from exporter.config import Config
from exporter.config_file import _value, dump
from exporter.sinks import kafka
from exporter.sinks.config import ClickHouse, Json, Kafka, Parquet
from exporter.sinks.tls import Tls

DOCS = Path(__file__).resolve().parents[2] / "docs/sinks"


@pytest.mark.parametrize("kind", [Json, Parquet, Kafka, ClickHouse])
def test_page_has_a_working_example_and_every_key(kind: type[Any]) -> None:
    page = (DOCS / f"{kind.TYPE}.md").read_text(encoding="utf-8")
    block = page[page.index("    [sinks") :].partition("\n| key")[0].replace("\n    ", "\n")
    config = _value(Config, tomllib.loads(block), "")
    (sink,) = config.sinks.values()
    assert isinstance(sink, kind)
    assert dump(config)
    named = set(re.findall(r"`([a-z_.]+)`", "".join(re.findall(r"^\|([^|]*)\|", page, re.MULTILINE))))
    keys = {field.name for field in dataclasses.fields(kind)}
    if "tls" in keys:
        keys = keys - {"tls"} | {f"tls.{field.name}" for field in dataclasses.fields(Tls)}
    assert keys <= named


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (Kafka, {"brokers": ()}),
        (Kafka, {"brokers": ("a",)}),
        (Kafka, {"brokers": ("SSL://a:1",)}),
        (Kafka, {"brokers": ("a:1,b:2",)}),
        (Kafka, {"topic": "a/b"}),
        (Kafka, {"format": "avro"}),
        (Kafka, {"username": "u"}),
        (Kafka, {"password_file": "/p"}),
        (Kafka, {"username": "u\n", "password_file": "/p"}),
        (Kafka, {"transport": "tcp", "tls": Tls(ca="/ca")}),
        (Kafka, {"timeout_seconds": 2}),
        (ClickHouse, {"url": "ftp://a:1"}),
        (ClickHouse, {"url": "https://u:p@a:1"}),
        (ClickHouse, {"url": "https://a:1/?query=x"}),
        (ClickHouse, {"url": "https://a:99999"}),
        (ClickHouse, {"url": "https://a\r\nx:1"}),
        (ClickHouse, {"table": "a`; DROP TABLE b"}),
        (ClickHouse, {"database": "1a"}),
        (ClickHouse, {"username": "u\r\nHost: x"}),
        (ClickHouse, {"url": "http://a:1", "tls": Tls(ca="/ca")}),
    ],
)
def test_bad_value_gets_one_clear_line(kind: type[Any], keys: dict[str, Any]) -> None:
    good = {"brokers": ("a:1",), "topic": "t"} if kind is Kafka else {"url": "https://a:1"}
    kind(**good)
    with pytest.raises(FlowtagError) as found:
        kind(**good | keys)
    assert "\n" not in str(found.value)


def test_kafka_settings_prove_the_password_and_never_leave_tls_out(tmp_path: Path) -> None:
    secret = tmp_path / "p"
    secret.write_text("pass\n", encoding="ascii")
    config = Kafka(("a:1",), "t", username="u", password_file=str(secret), mechanism="plain")
    found = kafka.settings(config)
    expected = ("sasl_ssl", "PLAIN", "u", "pass", True, "https")
    names = ("security.protocol", "sasl.mechanism", "sasl.username", "sasl.password")
    checks = ("enable.ssl.certificate.verification", "ssl.endpoint.identification.algorithm")
    assert tuple(found[name] for name in (*names, *checks)) == expected
    for bad in ("", "two\nlines", "caf\u00e9"):
        secret.write_text(bad, encoding="utf-8")
        with pytest.raises(FlowtagError, match="one line") as failed:
            kafka.settings(config)
        assert "two" not in str(failed.value)
