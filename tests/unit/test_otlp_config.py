# SPDX-License-Identifier: Apache-2.0
"""[sinks.NAME] of type otlp: what is taken, what is refused, and that its page says so."""

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
from exporter.sinks.otlp_config import Otlp
from exporter.sinks.otlp_metrics import METRICS
from exporter.sinks.tls import Tls

PAGE = (Path(__file__).resolve().parents[2] / "docs/sinks/otlp.md").read_text(encoding="utf-8")


def config(text: str) -> Config:
    read: Config = _value(Config, tomllib.loads(text), "")
    return read


def test_example_of_the_page_is_a_configuration_and_comes_back_from_the_dump() -> None:
    example = PAGE.partition("    [sinks.otel]")[2].partition("\n`/etc")[0]
    read = config("[sinks.otel]" + example.replace("\n    ", "\n"))
    sink = read.sinks["otel"]
    assert isinstance(sink, Otlp)
    assert sink.signals == ("metrics", "logs")
    assert sink.tls == Tls("/etc/flowtag/ca.pem", "/etc/flowtag/client.pem", "/etc/flowtag/client.key")
    assert config(dump(read)) == read


def test_page_names_every_key_and_metric() -> None:
    keys = PAGE.partition("## Every key")[2].partition("\n## ")[0]
    for entry in dataclasses.fields(Otlp):
        assert re.search(rf"^\| {entry.name}\b", keys, re.MULTILINE), entry.name
    for name in METRICS:
        assert f"| {name} |" in PAGE


@pytest.mark.parametrize(
    ("endpoint", "authority"),
    [
        ("http://localhost", "localhost:4317"),
        ("https://a.example.com:443/", "a.example.com:443"),
        ("http://[2001:db8::1]:1", "[2001:db8::1]:1"),
    ],
)
def test_endpoint_is_taken(endpoint: str, authority: str) -> None:
    sink = Otlp(endpoint)
    assert (sink.authority, sink.secure) == (authority, endpoint.startswith("https"))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        *(
            ({"endpoint": endpoint}, "endpoint is")
            for endpoint in (
                "",
                "localhost:4317",
                "ftp://a",
                "http://",
                "http://a/v1/logs",
                "http://u:p@a",
                "http://a:0",
                "http://a:99999",
                "http://a b",
                "http://[::1",
                "http://a?x=1",
            )
        ),
        ({"signals": ()}, "signals is"),
        ({"signals": ("traces",)}, "signals is"),
        ({"signals": ("logs", "logs")}, "signals is"),
        ({"peers": "port"}, "peers is"),
        ({"max_edges": 0}, "max_edges is 0"),
        ({"compression": "zstd"}, "compression is"),
        ({"timeout_seconds": 0}, "timeout_seconds is 0"),
        ({"headers": {"X-A": "b"}}, "headers has 'X-A'"),
        ({"headers": {"a-bin": "b"}}, "headers has 'a-bin'"),
        ({"headers": {"a": "b\n"}}, "headers has 'a'"),
        ({"headers": {"authorization": "t0p"}}, "headers has authorization"),
        ({"headers_file": "x"}, "headers_file is"),
        ({"endpoint": "http://a", "headers_file": "/x"}, "in clear"),
        ({"endpoint": "http://a", "tls": Tls(ca="/x")}, "tls is set"),
    ],
)
def test_mistake_is_told(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(FlowtagError, match=says) as caught:
        Otlp(**{"endpoint": "https://a", **keys})
    assert "t0p" not in str(caught.value)
