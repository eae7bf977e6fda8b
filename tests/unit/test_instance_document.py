# SPDX-License-Identifier: Apache-2.0
"""AWS's signed document: what is believed of it, and of what it is refused."""

from __future__ import annotations

import base64
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import pkcs7
from hypothesis import given, settings
from hypothesis import strategies as st

from bpf.error import FlowtagError
from identity import ber, instance_document, signed_message
from identity.ber import BerError
from identity.instance import Identity, Refused
from identity.instance_document import Document
from identity.signed_message import NotSigned
from tests.rig.chains import NOW
from tests.rig.imds import FIELDS, Region, document, signing_key

FUZZ = int(os.environ.get("FLOWTAG_FUZZ", "1"))  # docs/ec2.md
NO_ATTRIBUTES = pkcs7.PKCS7Options.NoAttributes
NO_CERTS = pkcs7.PKCS7Options.NoCerts


def identity(region: Region, answer: bytes) -> Identity:
    return instance_document.identity(Document(certificates=str(region.directory)), answer, NOW)


def refused(region: Region, answer: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        identity(region, answer)
    return caught.value


@pytest.mark.parametrize("options", [(), (NO_ATTRIBUTES,), (NO_CERTS,), (NO_ATTRIBUTES, NO_CERTS)])
def test_signed_document_names_the_instance(tmp_path: Path, options: tuple[Any, ...]) -> None:
    region = Region(tmp_path)
    found = identity(region, region.sign(document(), *options))
    assert (found.source, found.state, found.workload) == ("document", "verified", FIELDS["instanceId"])
    assert found.labels == {
        "flowtag.io/instance": "i-1234567890abcdef0",
        "flowtag.io/account": "123456789012",
        "flowtag.io/region": "eu-west-1",
        "flowtag.io/zone": "eu-west-1b",
        "flowtag.io/image": "ami-5fb8c835",
        "flowtag.io/instance_type": "t3.micro",
    }


def test_message_with_indefinite_lengths_is_read(tmp_path: Path) -> None:
    """AWS's signer writes BER: every outer element without a length, the content in pieces."""
    region = Region(tmp_path)
    der = region.message(document(), NO_ATTRIBUTES)
    loose = loosened(der)
    assert loose[:2] == b"\x30\x80"
    assert signed_message.verify(loose, region.certificate) == document()
    assert identity(region, base64.b64encode(loose)).workload == FIELDS["instanceId"]


def loosened(der: bytes) -> bytes:
    """The same message in BER, as far as nothing signed is touched."""

    def loose(element: ber.Element, depth: int) -> bytes:
        if element.tag == ber.OCTETS and depth == 4:  # the content
            half = len(element.content) // 2
            pieces = element.content[:half], element.content[half:]
            body = b"".join(b"\x04\x82" + len(piece).to_bytes(2, "big") + piece for piece in pieces)
            return b"\x24\x80" + body + b"\0\0"
        if not element.tag & ber.CONSTRUCTED or depth > 4:
            return element.raw
        inner = b"".join(loose(child, depth + 1) for child in element.children())
        return bytes([element.tag, 0x80]) + inner + b"\0\0"

    return loose(ber.parse(der), 0)


def test_document_of_another_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = Region(tmp_path / "other", number=1)
    found = refused(Region(tmp_path), stranger.sign(document()))
    assert (found.reason, "the signature is wrong" in str(found)) == ("untrusted", True)


@pytest.mark.parametrize("options", [(), (NO_ATTRIBUTES,)])
def test_changed_document_is_refused(tmp_path: Path, options: tuple[Any, ...]) -> None:
    region = Region(tmp_path)
    message = region.message(document(), *options).replace(b"i-1234567890abcdef0", b"i-1234567890abcdef1")
    assert refused(region, base64.b64encode(message)).reason == "untrusted"


def test_document_of_another_region_needs_that_regions_key(tmp_path: Path) -> None:
    region = Region(tmp_path)
    found = refused(region, region.sign(document(region="us-east-1")))
    assert found.reason == "untrusted"  # by the key that flowtag ships
    assert "us-east-1" in str(found)
    found = refused(region, region.sign(document(region="xx-nowhere-1")))
    assert "there is no certificate" in str(found)


@pytest.mark.parametrize("name", ["../../etc/x", "eu-west-1/..", "", None, 7, "EU-WEST-1"])
def test_region_is_no_path(tmp_path: Path, name: object) -> None:
    region = Region(tmp_path)
    assert refused(region, region.sign(document(region=name))).reason == "malformed"


def test_weak_or_old_signatures_are_refused(tmp_path: Path) -> None:
    weak = Region(tmp_path, bits=1024)
    assert "2048 bits" in str(refused(weak, weak.sign(document())))
    region = Region(tmp_path, days=-1)
    assert refused(region, region.sign(document())).reason == "expired"


def test_digests_but_those_of_sha2_are_refused(tmp_path: Path) -> None:
    region = Region(tmp_path)
    message = region.message(document(), digest=hashes.SHA512())
    assert signed_message.verify(message, region.certificate) == document()
    message = message.replace(ber.oid("2.16.840.1.101.3.4.2.3"), ber.oid("2.16.840.1.101.3.4.2.4"))
    with pytest.raises(NotSigned, match="digest is none of"):
        signed_message.verify(message, region.certificate)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", document(instanceId=None), document(instanceId="x" * 300), b"\xff"]
)
def test_signed_nonsense_is_refused(tmp_path: Path, content: bytes) -> None:
    region = Region(tmp_path)
    assert refused(region, region.sign(content)).reason == "malformed"


def test_certificate_of_the_operator_must_be_roots(tmp_path: Path) -> None:
    region = Region(tmp_path)
    (tmp_path / "eu-west-1.pem").chmod(0o666)
    assert "others may write it" in str(refused(region, region.sign(document())))


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "https://169.254.169.254"},
        {"endpoint": "http://metadata.internal"},
        {"endpoint": "http://169.254.169.254/latest"},
        {"endpoint": "http://user@169.254.169.254"},
        {"endpoint": "http://169.254.169.254:port"},
        {"certificates": "certs"},
        {"seconds": 0},
    ],
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(FlowtagError, match=r"identity\.document\."):
        Document(**wrong)


# Anything may be answered.


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Region:
    signing_key()
    return Region(tmp_path_factory.mktemp("region"))


@settings(max_examples=300 * FUZZ, deadline=None)
@given(data=st.binary(max_size=300))
def test_bytes_are_refused_and_never_crash(region: Region, data: bytes) -> None:
    for answer in (data, base64.b64encode(data)):
        with pytest.raises(Refused):
            identity(region, answer)
    with suppress(BerError):
        assert ber.parse(data).raw == data


@settings(max_examples=500 * FUZZ, deadline=None)
@given(data=st.data())
def test_mutated_messages_never_crash_and_say_nothing_new(region: Region, data: st.DataObject) -> None:
    """What is accepted in spite of a change is in what nobody signs: the document is the same."""
    options = data.draw(st.sampled_from([(), (NO_ATTRIBUTES,)]))
    message = MESSAGES.setdefault(options, region.message(document(), *options))
    if data.draw(st.booleans()):
        message = loosened(message)
    changed = bytearray(message)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(("xor", "cut", "drop", "double")))
        if kind == "xor":
            changed[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            changed = changed[: at + 1]
        elif kind == "drop" and len(changed) > 1:
            del changed[at]
        else:
            changed.insert(at, changed[at])
    with suppress(NotSigned):
        assert signed_message.verify(bytes(changed), region.certificate) == document()
    with suppress(Refused):
        assert identity(region, base64.b64encode(changed)).workload == FIELDS["instanceId"]


MESSAGES: dict[Any, bytes] = {}


def test_nested_without_end_is_refused() -> None:
    for data in (b"\x30\x80" * 30_000, b"\x24\x80" * 30_000 + b"\0\0" * 30_000, b"\x30\x84\xff\xff\xff\xff"):
        with pytest.raises(BerError):
            ber.parse(data).octets()
    with pytest.raises(NotSigned, match="larger than"):
        signed_message.content(bytes(1 << 17))
