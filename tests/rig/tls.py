# SPDX-License-Identifier: Apache-2.0
"""A test authority and what it signed: certificates for a server and a client, good ones and bad ones.

    made = tls.make(tmp_path)
    server_context(made.server(), client_ca=made.ca)      # mutual TLS
    Tls(ca=str(made.ca), certificate=str(made.client().certificate), key=str(made.client().key))
    made.server("expired")

Servers are called localhost, 127.0.0.1 and ::1. Keys are P-256, in PKCS #8; every file is 0600.
"""

from __future__ import annotations

import datetime
import functools
import ipaddress
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FAULTS = ("good", "wrong_name", "expired", "early", "self_signed", "other_ca")
USES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
_DAY = datetime.timedelta(days=1)
_SIGNS = ("key_cert_sign", "crl_sign")
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    *_SIGNS,
    "encipher_only",
    "decipher_only",
)


class Pair(NamedTuple):
    """Files: a certificate (without the authority's) and its key, and both in one."""

    certificate: Path
    key: Path
    both: Path


@dataclass(frozen=True, slots=True)
class Made:
    """What make() left in a directory. other_ca is a stranger, whom nobody should believe."""

    directory: Path
    ca: Path
    other_ca: Path

    def server(self, fault: str = "good") -> Pair:
        return self._pair("server", fault)

    def client(self, fault: str = "good") -> Pair:
        return self._pair("client", fault)

    def _pair(self, use: str, fault: str) -> Pair:
        assert fault in FAULTS, fault
        stem = self.directory / f"{use}-{fault}"
        return Pair(stem.with_suffix(".pem"), stem.with_suffix(".key"), stem.with_suffix(".both"))


class _Authority(NamedTuple):
    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def make(directory: Path) -> Made:
    """All of them, below `directory`."""
    directory = directory / "tls"
    directory.mkdir(mode=0o700)
    authority, stranger = _authority("authority"), _authority("stranger")
    made = Made(directory, directory / "ca.pem", directory / "other-ca.pem")
    _write(made.ca, authority.certificate.public_bytes(Encoding.PEM))
    _write(made.other_ca, stranger.certificate.public_bytes(Encoding.PEM))
    for use in USES:
        for fault in FAULTS:
            issuer = {"self_signed": None, "other_ca": stranger}.get(fault, authority)
            key, certificate = _leaf(use, fault, issuer)
            pair = getattr(made, use)(fault)
            pem = certificate.public_bytes(Encoding.PEM)
            secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            for path, content in zip(pair, (pem, secret, pem + secret), strict=True):
                _write(path, content)
    return made


def server_context(pair: Pair, client_ca: Path | None = None) -> ssl.SSLContext:
    """For a server in Python; client_ca: mutual TLS, with clients that it signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"flowtag test {text}")])


@functools.cache
def _key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in names for name in _USAGES})


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, begin: datetime.datetime, end: datetime.datetime
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder(subject_name=subject, public_key=public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _authority(name: str) -> _Authority:
    now = datetime.datetime.now(datetime.UTC)
    key, subject = _key(name), _name(name)
    builder = (
        _builder(subject, key, now - 30 * _DAY, now + 30 * _DAY)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(*_SIGNS), critical=True)
    )
    return _Authority(subject, key, builder.sign(key, hashes.SHA256()))


def _leaf(
    use: str, fault: str, issuer: _Authority | None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    now = datetime.datetime.now(datetime.UTC)
    days = {"expired": (-20, -1), "early": (1, 20)}.get(fault, (-1, 20))
    key, subject = _key(f"{use} {fault}"), _name(f"{use} {fault}")
    names: list[x509.GeneralName] = [x509.DNSName("elsewhere.example.org")]
    if fault != "wrong_name":
        names = [x509.DNSName("localhost")]
        names += [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1")]
    signer = issuer.key if issuer else key
    builder = (
        _builder(subject, key, now + days[0] * _DAY, now + days[1] * _DAY)
        .issuer_name(issuer.name if issuer else subject)
        # Python 3.13 checks by RFC 5280 to the letter: both key identifiers, and usages.
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([USES[use]]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return key, builder.sign(signer, hashes.SHA256())
