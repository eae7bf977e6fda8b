# SPDX-License-Identifier: Apache-2.0
"""The metadata service: a token first, and every answer bounded in size and time."""

from __future__ import annotations

import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from identity import imds, instance_document
from identity.instance import Refused
from identity.instance_document import Document
from tests.rig.chains import NOW
from tests.rig.imds import FIELDS, RSA2048, Answer, MetadataService, Region, document


def refusal(answers: dict[str, Answer], *, token: Answer | None = None, seconds: float = 5) -> str:
    with MetadataService(answers, token=token) as service:
        with pytest.raises(Refused) as caught, imds.Session(service.url, seconds) as session:
            session.get(RSA2048)
        assert caught.value.reason == "unreachable"
        assert service.url in str(caught.value)
        return str(caught.value)


@pytest.mark.parametrize("ipv6", [False, True])
def test_document_comes_for_a_token(tmp_path: Path, ipv6: bool) -> None:
    region = Region(tmp_path)
    with MetadataService({RSA2048: region.sign(document())}, ipv6=ipv6) as service:
        found = instance_document.read(Document(service.url, str(tmp_path)), NOW)
    assert found.workload == FIELDS["instanceId"]
    assert service.requests == [("PUT", "/latest/api/token"), ("GET", f"/latest/{RSA2048}")]


def test_proxies_of_the_environment_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    test_document_comes_for_a_token(tmp_path, ipv6=False)


def test_nobody_there() -> None:
    with MetadataService({}) as service:
        pass
    with pytest.raises(Refused, match="refused"), imds.Session(service.url, 1):
        pass


def test_service_without_version_two_is_not_asked_by_version_one() -> None:
    def forbidden(handler: BaseHTTPRequestHandler) -> None:
        handler.send_error(403)

    assert "PUT /latest/api/token answered 403" in refusal({RSA2048: b"x"}, token=forbidden)


def test_token_that_would_break_a_header_is_refused() -> None:
    assert "its token is none" in refusal({}, token=b"a\r\nHost: b")


def test_redirect_is_not_followed() -> None:
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "http://127.0.0.1:1/")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    assert "answered 302" in refusal({RSA2048: redirect})


def test_answer_without_end_is_cut() -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(1 << 14))
        except OSError:
            pass

    assert "more than" in refusal({RSA2048: endless})


def test_large_answer_is_refused() -> None:
    assert "larger than" in refusal({RSA2048: bytes(imds.ANSWER_MAX + 1)})


def test_slow_answer_ends_at_the_deadline() -> None:
    def slow(handler: BaseHTTPRequestHandler) -> None:
        try:
            for _ in range(100):
                handler.wfile.write(b"H")
                time.sleep(0.05)
        except OSError:
            pass

    began = time.monotonic()
    assert "no answer in time" in refusal({RSA2048: slow}, seconds=0.3)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1", b"\0\0\0\0", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"]
)
def test_nonsense_is_refused(said: bytes) -> None:
    def nonsense(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(said)

    with MetadataService({RSA2048: nonsense}) as service, imds.Session(service.url, 5) as session:
        try:
            assert session.get(RSA2048) == b""
        except Refused as error:
            found = error.reason
        else:
            found = "unreachable"
    assert found == "unreachable"
