# SPDX-License-Identifier: Apache-2.0
"""The host's identity from its certificate: what is read from it, and for what reason it is refused."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from bpf.error import FlowtagError
from identity import certificate, instance_file
from identity.certificate import Certificate
from identity.certificate_rules import Rule
from identity.instance import REASONS, Identity, Refused
from tests.rig import chains
from tests.rig.chain_faults import URI
from tests.rig.chains import NOW, Made, good

DAY = 86_400
FUZZ = int(os.environ.get("FLOWTAG_FUZZ", "1"))  # docs/ec2.md


def private(key: Any) -> bytes:
    made: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made


def identity(made: Made, *, key: bytes | None = None, trust: bool = True, **settings: Any) -> Identity:
    now = settings.pop("now", NOW)
    anchors = made.trust_pem if trust else None
    return certificate.identity(Certificate(**settings), made.chain_pem, key, anchors, now)


def reason(made: Made, **how: Any) -> str:
    with pytest.raises(Refused) as caught:
        identity(made, **how)
    return caught.value.reason


def test_verified_certificate_names_the_host() -> None:
    found = identity(good().make())
    assert (found.source, found.state) == ("certificate", "verified")
    assert found.workload == "spiffe://example.org/ns/shop/sa/web"
    assert found.labels == {"flowtag.io/certificate": found.key}
    assert found.not_after == NOW + 30 * DAY


def test_without_a_trust_bundle_nothing_is_verified() -> None:
    assert identity(good().make(), trust=False).state == "unverified"


def test_another_certificate_has_another_key() -> None:
    assert identity(good().make()).key != identity(good().make()).key


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        ({"end": NOW - 61}, "expired"),
        ({"begin": NOW + 61}, "not_yet_valid"),
        ({"ca": True}, "untrusted"),
        ({"broken": True}, "untrusted"),
        ({"unknown": True}, "untrusted"),
        ({"names": (URI("spiffe://a/b"), URI("spiffe://a/c"))}, "unsuitable"),
        ({"names": (), "cn": ""}, "no_rule"),
    ],
)
def test_bad_certificate_is_refused_for_its_reason(leaf: dict[str, Any], expected: str) -> None:
    assert reason(good(**leaf).make()) == expected


@pytest.mark.parametrize("leaf", [{"end": NOW - 59}, {"begin": NOW + 59}])
def test_clock_that_is_a_little_wrong_is_allowed_for(leaf: dict[str, Any]) -> None:
    assert identity(good(**leaf).make()).state == "verified"
    assert reason(good(**leaf).make(), skew_seconds=0) in ("expired", "not_yet_valid")


def test_private_key_must_match() -> None:
    made = good().make()
    assert identity(made, key=private(chains.key("p256", 10))).state == "verified"
    assert reason(made, key=private(chains.key("p256", 11))) == "key_mismatch"
    assert reason(made, key=b"nonsense") == "malformed"


def test_chain_cut_while_it_is_written_is_refused() -> None:
    made = good(2).make()
    whole = made.chain_pem
    for size in range(0, len(whole) - 1, 7):
        with pytest.raises(Refused) as caught:
            certificate.identity(Certificate(), whole[:size], None, made.trust_pem, NOW)
        assert caught.value.reason in ("malformed", "untrusted")


def test_signature_with_unused_bits_is_refused() -> None:
    """The library takes it, OpenSSL does not: the same certificate must not have two encodings."""
    refused = 0
    for _ in range(8):
        made = good().make()
        for index in range(len(made.chain)):
            size = len(x509.load_der_x509_certificate(made.chain[index]).signature)
            for unused in range(1, 8):
                der = bytearray(made.chain[index])
                der[-size - 1] = unused
                chain = [*made.chain]
                chain[index] = bytes(der)
                refused += reason(Made(chain, made.trust)) == "untrusted"  # else no bits are free
    assert refused


def test_refusal_says_which_fields_there_are() -> None:
    rules = (Rule("uri", "spiffe://other/(?P<name>.+)", "{name}"),)
    with pytest.raises(Refused, match=r"no rule matches.*spiffe://other.*cn = 'web'.*uri = 'spiffe://exam"):
        identity(good().make(), rules=rules)


def test_extension_by_number_is_a_field() -> None:
    rules = (Rule("oid:1.3.6.1.4.1.99999.7", ".+", "app-{value}"),)
    assert identity(good(unknown=False).make(), rules=rules).workload == "app-web"


@pytest.mark.parametrize(
    ("der", "text"),
    [
        (b"\x0c\x03abc", "abc"),
        (b"\x13\x81\x03abc", "abc"),
        (b"\x1e\x04\0a\0b", "ab"),
        (b"\x0c\x04abc", ""),
        (b"\x0c", ""),
        (b"", ""),
        (b"\x04\x03abc", ""),
        (b"\x0c\x82\x00\x03abc", ""),
        (b"\x0c\x81", ""),
    ],
)
def test_strings_of_extensions(der: bytes, text: str) -> None:
    assert certificate._string(der) == text


# Files.


def write(directory: Path, made: Made, *names: str) -> None:
    for name, data in zip(names, (made.chain_pem, made.trust_pem), strict=False):
        (directory / name).write_bytes(data)
        (directory / name).chmod(0o644)


def test_spiffe_directory_is_read_whole(tmp_path: Path) -> None:
    write(tmp_path, good().make(), "svid.pem", "bundle.pem")
    (tmp_path / "svid_key.pem").write_bytes(private(chains.key("p256", 10)))
    assert certificate.read(Certificate(path=str(tmp_path)), NOW).state == "verified"
    (tmp_path / "svid_key.pem").write_bytes(private(chains.key("p256", 11)))
    with pytest.raises(Refused, match=r"svid\.pem: the private key belongs to another"):
        certificate.read(Certificate(path=str(tmp_path)), NOW)


def test_file_that_is_missing_is_a_reason_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        certificate.read(Certificate(path=str(tmp_path / "client.crt")), NOW)
    assert caught.value.reason == "missing"


@pytest.mark.parametrize("mode", [0o666, 0o602])
def test_certificate_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    write(tmp_path, good().make(), "client.crt")
    (tmp_path / "client.crt").chmod(mode)
    with pytest.raises(Refused, match="others may write it"):
        certificate.read(Certificate(path=str(tmp_path / "client.crt")), NOW)


def test_trust_bundle_must_not_be_its_groups_either(tmp_path: Path) -> None:
    write(tmp_path, good().make(), "client.crt", "ca.pem")
    settings = Certificate(path=str(tmp_path / "client.crt"), trust=str(tmp_path / "ca.pem"))
    assert certificate.read(settings, NOW).state == "verified"
    (tmp_path / "ca.pem").chmod(0o664)
    with pytest.raises(Refused, match="others may write it"):
        certificate.read(settings, NOW)


def test_fifo_and_directory_and_giant_are_no_files(tmp_path: Path) -> None:
    fifo, giant = tmp_path / "fifo", tmp_path / "giant"
    os.mkfifo(fifo, 0o600)
    giant.write_bytes(bytes(instance_file.SIZE_MAX + 1))
    for path in (fifo, giant, tmp_path):
        with pytest.raises(Refused) as caught:
            instance_file.read(str(path), "it")
        assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(
    "wrong", [{"path": "client.crt"}, {"trust": "ca.pem"}, {"skew_seconds": 3601}, {"path": ""}]
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(FlowtagError, match=r"identity\.certificate\."):
        Certificate(**wrong)


# Anything may stand in a file.

PEM = good(2).make()


@settings(max_examples=200 * FUZZ, deadline=None)
@given(st.binary(max_size=400))
def test_bytes_are_refused_and_never_crash(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        certificate.identity(Certificate(), data, data, PEM.trust_pem, NOW)
    assert caught.value.reason in REASONS


@settings(max_examples=600 * FUZZ, deadline=None)
@given(st.data())
def test_mutated_certificates_never_crash_and_are_never_verified(data: st.DataObject) -> None:
    """One to four bytes of the leaf or a link are other ones: nothing of it is what was signed."""
    index = data.draw(st.integers(0, len(PEM.chain) - 1))
    der = bytearray(PEM.chain[index])
    changes = data.draw(
        st.lists(st.tuples(st.integers(0, len(der) - 1), st.integers(1, 255)), min_size=1, max_size=4)
    )
    for at, change in changes:
        der[at] ^= change
    if bytes(der) == PEM.chain[index]:
        return
    chain = list(PEM.chain)
    chain[index] = bytes(der)
    for anchors in (PEM.trust_pem, None):
        with suppress(Refused):
            found = certificate.identity(Certificate(), Made(chain, []).chain_pem, None, anchors, NOW)
            assert found.state == "unverified"
