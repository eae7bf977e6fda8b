# SPDX-License-Identifier: Apache-2.0
"""Certificate chains made to order: a plan of specs, the leaf's last, and the files that come of it.

    good(2, cn="web").make()              # two links between root and leaf; no fault
    plan = good(1)
    plan.leaf.end = NOW - 1               # change what you like
    plan.make().chain_pem

Keys are made once and used again. tests/rig/chain_faults.py has what can be wrong.
"""

from __future__ import annotations

import base64
import datetime
import functools
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

NOW = 1_790_000_000
_DAY = 86_400
_UNKNOWN = ObjectIdentifier("1.3.6.1.4.1.99999.7")
# sha256WithRSAEncryption and its predecessors are told apart by the last byte.
_RSA_SHA256 = bytes.fromhex("06092a864886f70d01010b")
_OLD: dict[str, tuple[bytes, hashes.HashAlgorithm]] = {
    "sha1": (b"\x05", hashes.SHA1()),  # noqa: S303 - it must be refused
    "md5": (b"\x04", hashes.MD5()),  # noqa: S303 - it must be refused
}
Key = Any
USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(slots=True)
class Made:
    """The files of one chain: leaf first in `chain`, anchors in `trust`."""

    chain: list[bytes]
    trust: list[bytes]
    faults: tuple[str, ...] = ()

    @property
    def chain_pem(self) -> bytes:
        return b"".join(map(pem, self.chain))

    @property
    def trust_pem(self) -> bytes:
        return b"".join(map(pem, self.trust))


@dataclass(slots=True)
class Spec:
    """One certificate to make. level 0 is the root, the last is the leaf."""

    cn: str
    key: Key
    ca: bool | None
    begin: int = NOW - 30 * _DAY
    end: int = NOW + 30 * _DAY
    pathlen: int | None = None
    usage: tuple[str, ...] | None = None
    purposes: tuple[ObjectIdentifier, ...] | None = None
    names: tuple[x509.GeneralName, ...] = ()
    constraints: tuple[x509.GeneralName, ...] = ()
    excluded: tuple[x509.GeneralName, ...] = ()
    constraints_critical: bool = True
    unknown: bool | None = None
    issuer_cn: str = ""
    signer: Key = None
    digest: str = "sha256"
    broken: bool = False
    key_ids: bool = False
    wrong_key_id: bool = False


def pem(der: bytes) -> bytes:
    text = base64.encodebytes(der).replace(b"\n", b"")
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


@functools.cache
def key(kind: str, number: int = 0) -> Key:
    """The key `number` of a kind: p256, p384, p521, rsa2048, rsa1024, ed25519."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind[3:]))
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    curves: dict[str, ec.EllipticCurve] = {
        "p256": ec.SECP256R1(),
        "p384": ec.SECP384R1(),
        "p521": ec.SECP521R1(),
        "k256": ec.SECP256K1(),
    }
    return ec.generate_private_key(curves[kind])


def build(spec: Spec, issuer: Spec) -> bytes:
    """The certificate in DER."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject(spec.cn))
        .issuer_name(subject(spec.issuer_cn or issuer.cn))
        .public_key(spec.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(spec.begin))
        .not_valid_after(_time(spec.end))
    )
    for extension, critical in _extensions(spec, issuer):
        builder = builder.add_extension(extension, critical)
    signer = spec.signer or issuer.key
    if spec.digest != "sha256":
        return _by_old_digest(builder, spec.digest)
    made = builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    der = made.public_bytes(Encoding.DER)
    return der[:-3] + bytes([der[-3] ^ 0x55]) + der[-2:] if spec.broken else der


def subject(cn: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "flowtag tests")]
        + ([x509.NameAttribute(NameOID.COMMON_NAME, cn)] if cn else [])
    )


def _time(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _extensions(spec: Spec, issuer: Spec) -> Iterable[tuple[x509.ExtensionType, bool]]:
    if spec.ca is not None:
        yield x509.BasicConstraints(spec.ca, spec.pathlen if spec.ca else None), True
    if spec.usage is not None:
        yield x509.KeyUsage(**{name: name in spec.usage for name in USAGES}), True
    if spec.purposes is not None:
        yield x509.ExtendedKeyUsage(spec.purposes), False
    if spec.names:
        yield x509.SubjectAlternativeName(spec.names), not spec.cn
    if spec.constraints or spec.excluded:
        yield (
            x509.NameConstraints(list(spec.constraints) or None, list(spec.excluded) or None),
            spec.constraints_critical,
        )
    if spec.unknown is not None:
        yield x509.UnrecognizedExtension(_UNKNOWN, b"\x0c\x03web"), spec.unknown
    if spec.key_ids:
        yield x509.SubjectKeyIdentifier.from_public_key(spec.key.public_key()), False
        other = key("p256", 99) if spec.wrong_key_id else issuer.key
        yield x509.AuthorityKeyIdentifier.from_issuer_public_key(other.public_key()), False


def _by_old_digest(builder: x509.CertificateBuilder, digest: str) -> bytes:
    """Signed by an RSA key of our own with a digest that the library refuses to sign with."""
    signer = key("rsa2048", 9)
    tbs = builder.sign(signer, hashes.SHA256()).tbs_certificate_bytes
    last, algorithm = _OLD[digest]
    old = _RSA_SHA256[:-1] + last
    tbs = tbs.replace(_RSA_SHA256, old)
    signature = signer.sign(tbs, padding.PKCS1v15(), algorithm)
    return _der(0x30, tbs + _der(0x30, old + b"\x05\x00") + _der(0x03, b"\0" + signature))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


@dataclass(slots=True)
class Plan:
    """A chain before it is made; faults change it."""

    specs: list[Spec]
    random: random.Random
    faults: list[str] = field(default_factory=list)
    trust_root: bool = True
    trust_links: bool = False
    shuffle: bool = False
    missing: int = 0
    extra: list[bytes] = field(default_factory=list)
    extra_trust: list[bytes] = field(default_factory=list)
    with_root: bool = False
    mutations: int = 0

    @property
    def leaf(self) -> Spec:
        return self.specs[-1]

    def any(self) -> tuple[str, Spec]:
        index = self.random.randrange(len(self.specs))
        return self.place(index), self.specs[index]

    def authority(self) -> tuple[str, Spec]:
        index = self.random.randrange(len(self.specs) - 1)
        return self.place(index), self.specs[index]

    def place(self, index: int) -> str:
        return "root" if index == 0 else "leaf" if index == len(self.specs) - 1 else "link"

    def make(self) -> Made:
        ders = [build(spec, self.specs[max(0, i - 1)]) for i, spec in enumerate(self.specs)]
        for _ in range(self.mutations):
            index = self.random.randrange(len(ders))
            changed = bytearray(ders[index])
            at = self.random.choice((self.random.randrange(len(changed)), -self.random.randrange(1, 90)))
            changed[at] ^= self.random.choice((1, 2, 4, 8, 16, 32, 64, 128, self.random.randrange(1, 256)))
            ders[index] = bytes(changed)
        links = ders[-2:0:-1]
        if self.missing and links:
            links.pop(self.random.randrange(len(links)))
        trust = ([ders[0]] if self.trust_root else []) + (links if self.trust_links else [])
        rest = links + self.extra + ([ders[0]] if self.with_root else [])
        if self.shuffle:
            self.random.shuffle(rest)
        trust = trust + self.extra_trust or [build(*[Spec("nobody", key("p256", 90), True)] * 2)]
        return Made([ders[-1], *rest], trust, tuple(self.faults))


AUTHORITY_USAGE = ("key_cert_sign", "crl_sign")
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SPIFFE = x509.UniformResourceIdentifier("spiffe://example.org/ns/shop/sa/web")


def good(links: int = 1, number: int = 0, **leaf: Any) -> Plan:
    """A plan without fault; `leaf` are fields of its last certificate."""
    chance = random.Random(number)  # noqa: S311 - to be the same every time
    specs = [Spec("root", key("p256", 0), True, usage=AUTHORITY_USAGE)]
    specs += [
        Spec(f"link {index}", key("p256", 1 + index), True, usage=AUTHORITY_USAGE) for index in range(links)
    ]
    last = Spec("web", key("p256", 10), False, usage=("digital_signature",), purposes=(CLIENT,))
    last.names = (SPIFFE,)
    for name, value in leaf.items():
        setattr(last, name, value)
    return Plan([*specs, last], chance)
