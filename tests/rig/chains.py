# SPDX-License-Identifier: Apache-2.0
"""Certificate chains, good and bad, by number; and both verdicts on them, ours and openssl's.

    made = chain(7)                       # always the same but for its keys and signatures
    made.faults                           # what is unusual in it, by name: ("leaf: expired",)
    ours(made), openssl(made, directory)  # "" for accepted, else what was said
    good()                                # a chain without any fault

    .venv/bin/python -m tests.rig.chains --count 20000 --first 0     # a long comparison

Keys are made once and used again: nearly all time is openssl's.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import functools
import ipaddress
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from identity import certificate
from identity.certificate import Certificate
from identity.instance import Refused

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


def chain(number: int, *, bytes_too: bool = False) -> Made:
    """The chain of this number: none, one or two faults, and harmless variation.

    bytes_too: and one byte or more of its certificates are others.
    """
    chance = random.Random(number)  # noqa: S311 - to be the same every time
    plan = good(chance.choice((0, 1, 1, 2, 3)), number)
    plan.random = chance
    if chance.random() < 0.5:
        for spec in plan.specs:
            spec.key_ids = True
    for variation in chance.sample(VARIATIONS, chance.randrange(4)):
        variation(plan)
    for fault in chance.sample(FAULTS, chance.choice((0, 1, 1, 1, 2))):
        fault(plan)
    if bytes_too:
        plan.mutations = max(1, plan.mutations)
    return plan.make()


Change = Callable[[Plan], None]


def _fault(name: str, **values: Any) -> Change:
    """One certificate anywhere with other fields."""

    def change(plan: Plan) -> None:
        place, spec = plan.any()
        for field_name, value in values.items():
            setattr(spec, field_name, value)
        plan.faults.append(f"{place}: {name}")

    return change


def _of_authority(name: str, **values: Any) -> Change:
    def change(plan: Plan) -> None:
        place, spec = plan.authority()
        for field_name, value in values.items():
            setattr(spec, field_name, value)
        plan.faults.append(f"{place}: {name}")

    return change


def _of_leaf(name: str, **values: Any) -> Change:
    def change(plan: Plan) -> None:
        for field_name, value in values.items():
            setattr(plan.leaf, field_name, value)
        plan.faults.append(f"leaf: {name}")

    return change


def _of_plan(name: str, **values: Any) -> Change:
    def change(plan: Plan) -> None:
        for field_name, value in values.items():
            setattr(plan, field_name, value)
        plan.faults.append(name)

    return change


def _another_key(kind: str) -> Change:
    def change(plan: Plan) -> None:
        place, spec = plan.any()
        spec.key = key(kind)
        plan.faults.append(f"{place}: key {kind}")

    return change


def _old_digest(digest: str) -> Change:
    def change(plan: Plan) -> None:
        index = plan.random.randrange(len(plan.specs))
        plan.specs[max(0, index - 1)].key = key("rsa2048", 9)
        plan.specs[index].digest = digest
        plan.faults.append(f"{plan.place(index)}: signed by {digest}")

    return change


def _cross_signed(valid: bool) -> Change:
    """The first link once more, by another root, which is trusted instead; or not."""

    def change(plan: Plan) -> None:
        other = Spec("other root", key("p256", 80), True, usage=AUTHORITY_USAGE)
        first = plan.specs[min(1, len(plan.specs) - 2)]
        again = Spec(first.cn, first.key, True, usage=AUTHORITY_USAGE)
        again.end = NOW + _DAY if valid else NOW - _DAY
        plan.extra.append(build(again, other))
        plan.extra_trust.append(build(other, other))
        plan.trust_root = plan.random.random() < 0.5
        plan.faults.append(f"cross-signed, {'valid' if valid else 'expired'}, {plan.trust_root=}")

    return change


def _extra(plan: Plan) -> None:
    stranger = Spec("stranger", key("p256", 70), True, usage=AUTHORITY_USAGE)
    plan.extra.append(build(stranger, stranger))
    namesake = Spec(plan.specs[-2].cn, key("p256", 71), True, usage=AUTHORITY_USAGE)
    plan.extra.append(build(namesake, stranger))


def _names(*names: x509.GeneralName) -> Change:
    def change(plan: Plan) -> None:
        plan.leaf.names = names

    return change


def _vary(**values: Any) -> Change:
    def change(plan: Plan) -> None:
        for name, value in values.items():
            setattr(plan, name, value)

    return change


def _leaf_field(**values: Any) -> Change:
    def change(plan: Plan) -> None:
        for name, value in values.items():
            setattr(plan.leaf, name, value)

    return change


DNS = x509.DNSName
URI = x509.UniformResourceIdentifier
NET = x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))
# Harmless; some make a fault elsewhere matter.
VARIATIONS: list[Change] = [
    _vary(shuffle=True),
    _vary(with_root=True),
    _vary(trust_links=True),
    _extra,
    _names(),
    _names(DNS("web.example.org")),
    _names(SPIFFE, DNS("web.example.org")),
    _names(x509.IPAddress(ipaddress.ip_address("10.1.2.3")), DNS("web.example.org")),
    _names(x509.RFC822Name("web@example.org")),
    _leaf_field(usage=None),
    _leaf_field(purposes=None),
    _leaf_field(ca=None),
    _leaf_field(purposes=(CLIENT, ExtendedKeyUsageOID.SERVER_AUTH)),
    _leaf_field(cn="web.example.org"),
    _leaf_field(unknown=False),
]
_OTHER = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "others")]))
_SAME = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "flowtag tests")]))
FAULTS: list[Change] = [
    _fault("expired", end=NOW - 3600),
    _fault("not yet valid", begin=NOW + 3600),
    _fault("tampered", broken=True),
    _fault("wrong issuer", issuer_cn="somebody"),
    _fault("wrong signer", signer=key("p256", 98)),
    _fault("unknown critical extension", unknown=True),
    _fault("wrong key identifier", key_ids=True, wrong_key_id=True),
    _fault("no usage that is needed", usage=("key_agreement",)),
    _fault("other usage", usage=("key_encipherment", "data_encipherment")),
    _fault("for servers", purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)),
    _fault("for any purpose", purposes=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)),
    _of_authority("no CA flag", ca=False),
    _of_authority("no basic constraints", ca=None),
    _of_authority("no basic constraints, no usage", ca=None, usage=None),
    _of_authority("path length 0", pathlen=0),
    _of_authority("path length 1", pathlen=1),
    _of_authority("no usage", usage=None),
    _of_authority("names by DNS, other", constraints=(DNS("example.net"),)),
    _of_authority("names by DNS, same", constraints=(DNS("example.org"),)),
    _of_authority("names by DNS, excluded", excluded=(DNS("web.example.org"),)),
    _of_authority("names by DNS, not critical", constraints=(DNS("x.net"),), constraints_critical=False),
    _of_authority("names by URI, other", constraints=(URI("example.net"),)),
    _of_authority("names by URI, same", constraints=(URI("example.org"),)),
    _of_authority("names by address", constraints=(NET,)),
    _of_authority("names by address, excluded", excluded=(NET,)),
    _of_authority("names by directory, other", constraints=(_OTHER,)),
    _of_authority("names by directory, same", constraints=(_SAME,)),
    _of_authority("names by directory, not critical", constraints=(_OTHER,), constraints_critical=False),
    _of_authority("names by mail", constraints=(x509.RFC822Name("example.net"),)),
    _of_leaf("an authority", ca=True),
    _of_leaf("an authority's usage", usage=("digital_signature", "key_cert_sign")),
    _of_plan("root not trusted", trust_root=False),
    _of_plan("root not trusted, links are", trust_root=False, trust_links=True),
    _of_plan("link missing", missing=1),
    _of_plan("one byte is another", mutations=1),
    _of_plan("some bytes are others", mutations=4),
    _another_key("p384"),
    _another_key("p521"),
    _another_key("k256"),
    _another_key("rsa2048"),
    _another_key("rsa1024"),
    _another_key("ed25519"),
    _old_digest("sha1"),
    _old_digest("md5"),
    _cross_signed(True),
    _cross_signed(False),
]


def ours(made: Made) -> str:
    """Empty if the chain is accepted as verified, else why not."""
    settings = Certificate(skew_seconds=0)
    try:
        found = certificate.identity(settings, made.chain_pem, None, made.trust_pem, NOW)
    except Refused as error:
        return f"{error.reason}: {error}"
    assert found.state == "verified"
    return ""


def openssl(made: Made, directory: Path, name: str = "chain") -> str:
    """The same by `openssl verify`."""
    leaf, rest, trust = (directory / f"{name}.{part}" for part in ("leaf", "rest", "trust"))
    leaf.write_bytes(pem(made.chain[0]))
    rest.write_bytes(b"".join(map(pem, made.chain[1:])))
    trust.write_bytes(made.trust_pem)
    argv = ["openssl", "verify", "-no-CApath", "-no-CAstore", "-CAfile", str(trust), "-attime", str(NOW)]
    if made.chain[1:]:
        argv += ["-untrusted", str(rest)]
    done = subprocess.run(
        [*argv, "-purpose", "sslclient", str(leaf)], capture_output=True, text=True, check=False
    )
    for path in (leaf, rest, trust):
        path.unlink()
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip() or "refused"


@dataclass(slots=True)
class Comparison:
    """Numbers of chains: accepted and refused by both; stricter: by openssl alone; wrong: by us alone."""

    both: list[int] = field(default_factory=list)
    neither: list[int] = field(default_factory=list)
    stricter: dict[int, str] = field(default_factory=dict)
    wrong: dict[int, str] = field(default_factory=dict)


def compare(numbers: Iterable[int], directory: Path, *, bytes_too: bool = False) -> Comparison:
    """Both verdicts on each of these chains."""
    found = Comparison()

    def one(number: int) -> tuple[int, str, str]:
        made = chain(number, bytes_too=bytes_too)
        return number, ours(made), openssl(made, directory, str(number))

    with ThreadPoolExecutor(4) as pool:
        for number, mine, theirs in pool.map(one, numbers):
            if mine and theirs:
                found.neither.append(number)
            elif mine:
                found.stricter[number] = mine
            elif theirs:
                found.wrong[number] = theirs
            else:
                found.both.append(number)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.rig.chains", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--bytes", action="store_true", help="change bytes of every chain as well")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = compare(range(args.first, args.first + args.count), Path(directory), bytes_too=args.bytes)
    print(
        f"accepted by both: {len(found.both)}; refused by both: {len(found.neither)}; refused by us alone:"
        f" {len(found.stricter)}; accepted by us alone: {len(found.wrong)}"
    )
    for reason, count in Counter(found.stricter.values()).most_common():
        number = next(number for number, said in found.stricter.items() if said == reason)
        print(f"  {count} we alone, such as {number} {chain(number).faults}: {reason}")
    for number, said in found.wrong.items():
        print(f"WRONG: chain {number} {chain(number).faults}: openssl says {said}")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
