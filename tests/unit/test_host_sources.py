# SPDX-License-Identifier: Apache-2.0
"""The sources in their order, and how often the metadata service is asked."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from bpf.error import FlowtagError
from exporter import host_sources
from exporter.config import Identity as Settings
from exporter.host_sources import Sources
from identity.certificate import Certificate
from identity.instance import Static
from identity.instance_document import Document
from tests.rig.imds import FIELDS, RSA2048, MetadataService, Region, document

ALL = ("certificate", "document", "static", "hostname")


def settings(directory: Path, url: str, **values: Any) -> Settings:
    return Settings(
        certificate=Certificate(path=str(directory / "client.crt")),
        document=Document(url, str(directory), 1),
        **{"order": ALL, **values},
    )


def test_document_speaks_where_there_is_no_certificate(tmp_path: Path) -> None:
    region = Region(tmp_path, days=10_000)
    with MetadataService({RSA2048: region.sign(document())}) as service:
        sources = Sources(settings(tmp_path, service.url))
        assert sources.look(ask=False).identity != sources.look().identity
        outcome = sources.look()
    assert outcome.identity is not None
    assert (outcome.identity.source, outcome.identity.workload) == ("document", FIELDS["instanceId"])
    assert list(outcome.refused) == ["certificate"]
    assert len(service.requests) == 2  # a token, the document: once for both looks


def test_service_that_is_away_is_not_asked_at_every_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Region(tmp_path)
    with MetadataService({}) as service:
        sources = Sources(settings(tmp_path, service.url))
        for _ in range(3):
            assert "answered 404" in str(sources.look().refused["document"])
        assert len(service.requests) == 2
        later = time.monotonic() + host_sources.DOCUMENT_AGAIN + 1
        monkeypatch.setattr(time, "monotonic", lambda: later)
        sources.look()
        assert len(service.requests) == 4


def test_static_identity_goes_before_the_name(tmp_path: Path) -> None:
    order = ("static", "hostname")
    chosen = Sources(settings(tmp_path, "http://127.0.0.1:1", order=order, static=Static("edge-7", "edge")))
    found = chosen.look().identity
    assert found is not None
    assert (found.source, found.state, found.workload, found.app) == (
        "static",
        "unverified",
        "edge-7",
        "edge",
    )
    found = Sources(settings(tmp_path, "http://127.0.0.1:1", order=order)).look().identity
    assert found is not None
    assert (found.source, found.state, found.workload) == ("hostname", "unverified", os.uname().nodename)


@pytest.mark.parametrize(
    "order",
    [(), ("certificate",), ("hostname", "static"), ("x", "hostname"), ("static", "static", "hostname")],
)
def test_order_names_each_source_once_and_ends_with_the_host(order: tuple[str, ...]) -> None:
    with pytest.raises(FlowtagError, match=r"identity\.order"):
        Settings(order=order)
