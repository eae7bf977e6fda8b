# SPDX-License-Identifier: Apache-2.0
"""The host's identity from its certificate: PEM files that something put there at boot, and renews.

Source of what is in a SPIFFE certificate: the X.509-SVID specification.
"""

from __future__ import annotations

import datetime
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpf.error import FlowtagError
from identity import certificate_rules, instance_file
from identity.certificate_rules import Rule
from identity.instance import (
    EXPIRED,
    KEY_MISMATCH,
    LABEL_PREFIX,
    MALFORMED,
    NOT_YET_VALID,
    UNSUITABLE,
    UNVERIFIED,
    VERIFIED,
    Identity,
    Refused,
)

if TYPE_CHECKING:
    from cryptography import x509

PATH = "/run/metatron/certificates/client.crt"
CHAIN_MAX = 16
VALUES_MAX = 32
_STRINGS = {12: "utf-8", 19: "ascii", 20: "latin-1", 22: "ascii", 26: "ascii", 30: "utf-16-be"}
"""ASN.1 string types by tag: UTF8, Printable, Teletex, IA5, Visible, BMP."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """[identity.certificate] the host's certificate, and whom it must be from.

    path: PEM, the host's own first, then its chain; or a directory as a SPIFFE helper writes it
    (svid.pem, svid_key.pem, bundle.pem). key: the private key, which must match; empty: not looked at.
    trust: PEM of the authorities' roots; empty: nothing is verified, and records say so. In a SPIFFE
    directory key and trust are its files where they are not set. skew_seconds: how wrong clocks may be.
    """

    path: str = PATH
    key: str = ""
    trust: str = ""
    skew_seconds: int = 60
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        for name in ("path", "key", "trust"):
            path = getattr(self, name)
            if (path or name == "path") and (not path.startswith("/") or not path.isprintable()):
                raise FlowtagError(f"identity.certificate.{name} is {path!r}", "use an absolute path")
        if not 0 <= self.skew_seconds <= 3600:
            raise FlowtagError(
                f"identity.certificate.skew_seconds is {self.skew_seconds}", "use 0 to 3600 seconds"
            )


@dataclass(frozen=True, slots=True)
class Files:
    """Where the parts are; key and trust may be empty."""

    chain: str
    key: str
    trust: str


def files(settings: Certificate) -> Files:
    """A SPIFFE directory has three files; else each part has its own path."""
    if not os.path.isdir(settings.path):
        return Files(settings.path, settings.key, settings.trust)
    directory = settings.path.rstrip("/")
    return Files(
        f"{directory}/svid.pem",
        settings.key or f"{directory}/svid_key.pem",
        settings.trust or f"{directory}/bundle.pem",
    )


def read(settings: Certificate, now: float) -> Identity:
    """Who the certificate says that the host is; Refused where it says nothing that can be used.

    now: seconds since 1970.
    """
    where = files(settings)
    chain = instance_file.read(where.chain, "the certificate")
    key = instance_file.read(where.key, "the private key") if where.key else None
    trust = instance_file.read(where.trust, "the trust bundle", anchors=True) if where.trust else None
    try:
        return identity(settings, chain, key, trust, now)
    except Refused as error:
        raise Refused(error.reason, f"the certificate {where.chain}: {error}", error.hint) from None


def identity(
    settings: Certificate, chain: bytes, key: bytes | None, trust: bytes | None, now: float
) -> Identity:
    """The same of the files' content. trust None: unverified."""
    from cryptography.utils import CryptographyDeprecationWarning

    with warnings.catch_warnings():
        # Against RFC 5280, and to be refused by later versions: by us at once.
        warnings.simplefilter("error", CryptographyDeprecationWarning)
        try:
            return _identity(settings, chain, key, trust, now)
        except Refused:
            raise
        except Exception as error:  # the library's have no common class, and some are met by few inputs
            raise Refused(MALFORMED, f"cannot be read: {type(error).__name__}: {str(error)[:200]}") from None


def _identity(
    settings: Certificate, chain: bytes, key: bytes | None, trust: bytes | None, now: float
) -> Identity:
    from cryptography.hazmat.primitives import hashes

    leaf, *others = _load(chain, "the file", CHAIN_MAX)
    begin, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    skew = settings.skew_seconds
    if now < begin - skew:
        raise Refused(NOT_YET_VALID, f"not valid before {_date(begin)}", "is the clock right?")
    if now > end + skew:
        raise Refused(EXPIRED, f"expired at {_date(end)}", "what renews it has not, or the clock is wrong")
    if key is not None:
        _check_key(leaf, key)
    if trust is not None:
        from identity import certificate_chain

        # Inside the allowance, at the nearest time at which the host's own certificate is valid.
        when = datetime.datetime.fromtimestamp(min(max(now, begin), end), datetime.UTC)
        anchors = _load(trust, "the trust bundle", 1024)
        certificate_chain.verify(leaf, others, anchors, when)
    named = certificate_rules.apply(settings.rules, _fields(leaf, settings.rules))
    fingerprint = leaf.fingerprint(hashes.SHA256()).hex()
    return Identity(
        source="certificate",
        state=VERIFIED if trust is not None else UNVERIFIED,
        workload=named.workload,
        app=named.app,
        labels={**named.labels, f"{LABEL_PREFIX}certificate": fingerprint},
        key=fingerprint,
        not_after=end,
    )


def _load(data: bytes, what: str, limit: int) -> list[x509.Certificate]:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(data)
    except (ValueError, TypeError) as error:
        cause = str(error).rpartition("for more details. ")[2][
            :200
        ]  # the library's hint is not for operators
        raise Refused(
            MALFORMED, f"{what} is no PEM of certificates: {cause}", "is it being written? see the next look"
        ) from None
    if not 0 < len(found) <= limit:
        raise Refused(MALFORMED, f"{what} has {len(found)} certificates, not 1 to {limit}")
    return found


def _date(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_key(leaf: x509.Certificate, key: bytes) -> None:
    """The private key must be that of the certificate: in the midst of a renewal it may not be yet."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Refused(MALFORMED, f"its private key cannot be read: {str(error)[:200]}") from None
    if private.public_key() != leaf.public_key():
        raise Refused(KEY_MISMATCH, "the private key belongs to another certificate")


def _fields(leaf: x509.Certificate, rules: Sequence[Rule]) -> dict[str, list[str]]:
    """The values that rules can match, by field; those that cannot be read are left out."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    found: dict[str, list[str]] = {}
    for field, oid in (
        ("cn", NameOID.COMMON_NAME),
        ("o", NameOID.ORGANIZATION_NAME),
        ("ou", NameOID.ORGANIZATIONAL_UNIT_NAME),
    ):
        values = [attribute.value for attribute in leaf.subject.get_attributes_for_oid(oid)]
        found[field] = [value for value in values if isinstance(value, str)]
    for extension in leaf.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            found["uri"] = value.get_values_for_type(x509.UniformResourceIdentifier)
            found["dns"] = value.get_values_for_type(x509.DNSName)
            if sum(uri.startswith("spiffe://") for uri in found["uri"]) > 1:
                raise Refused(UNSUITABLE, "it has more than one SPIFFE id")
        name = f"oid:{extension.oid.dotted_string}"
        if isinstance(value, x509.UnrecognizedExtension) and any(rule.field == name for rule in rules):
            found[name] = [text for text in [_string(value.value)] if text]
    return {name: values[:VALUES_MAX] for name, values in found.items() if values}


def _string(der: bytes) -> str:
    """The text of one DER string of at most 255 bytes; empty if it is none."""
    if len(der) < 3 or der[0] not in _STRINGS:
        return ""
    length, body = (der[2], der[3:]) if der[1] == 0x81 else (der[1], der[2:])
    return body.decode(_STRINGS[der[0]], "replace") if length == len(body) else ""
