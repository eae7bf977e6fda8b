# SPDX-License-Identifier: Apache-2.0
"""Whether a certificate's chain leads to a trust anchor: RFC 5280, for a client, by `cryptography`.

The library builds the path and checks signatures and their algorithms, key sizes, validity, names, path
lengths, CA flags, name constraints by DNS name and address, and refuses critical extensions that it does
not know. Its defaults are those of the web and want what private authorities leave out (SAN, key
identifiers), so the extensions' policy is ours. No chain is accepted that `openssl verify -purpose
sslclient` refuses; docs/ec2.md lists where we are stricter.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from identity.instance import UNSUITABLE, UNTRUSTED, Refused

DEPTH_MAX = 6
"""Certificates between the host's own and the anchor."""
_CONSTRAINED = (x509.DNSName, x509.IPAddress)
# What the library puts around the cause.
_NOISE = re.compile(
    r"validation failed: |candidates exhausted: |fatal error: |invalid extension: [0-9.]+: |"
    r"Python extension validator failed: ValueError: "
)


def verify(
    leaf: x509.Certificate,
    others: Sequence[x509.Certificate],
    trust: Sequence[x509.Certificate],
    when: datetime.datetime,
) -> list[x509.Certificate]:
    """The path from `leaf` to an anchor, at this time; Refused where there is none.

    others: what came with the leaf, in any order. trust: the bundle; those of it that are not self-signed
    are links of a path as well, but no anchors.
    """
    path = _path(leaf, others, trust, when)
    for found in path:
        _check_encoding(found)
    verifier = (
        PolicyBuilder()
        .store(Store(path[-1:]))
        .time(when)
        .max_chain_depth(DEPTH_MAX)
        .extension_policies(ca_policy=_authority_policy(), ee_policy=_leaf_policy())
        .build_client_verifier()
    )
    try:
        chain = verifier.verify(leaf, path[1:-1]).chain
    except VerificationError as error:
        raise Refused(UNTRUSTED, f"no path to the trust bundle: {_short(error)}") from None
    _check_common_name(chain)
    return chain


def _check_encoding(certificate: x509.Certificate) -> None:
    """The library ignores how many bits of the signature's last byte are said to be unused."""
    if certificate.public_bytes(Encoding.DER)[-len(certificate.signature) - 1] != 0:
        raise Refused(UNTRUSTED, "a certificate's signature is not encoded in DER")


def _path(
    leaf: x509.Certificate,
    others: Sequence[x509.Certificate],
    trust: Sequence[x509.Certificate],
    when: datetime.datetime,
) -> list[x509.Certificate]:
    """The path that openssl takes: each issuer from the trust bundle if it is there, else from the others.

    It goes by names, key identifiers and dates; whether the signatures are right is not looked at yet.
    """
    path = [leaf]
    while not (path[-1] in trust and _self_signed(path[-1])):
        if len(path) > DEPTH_MAX + 1:
            raise Refused(UNTRUSTED, f"more than {DEPTH_MAX} certificates to the trust bundle")
        issuer = _issuer(path[-1], trust, when) or _issuer(path[-1], others, when)
        if issuer is None or issuer in path:
            raise Refused(
                UNTRUSTED,
                f"no path to the trust bundle: whoever issued {path[-1].subject.rfc4514_string()!r} is"
                " neither in it nor in the chain",
                "put the authority's self-signed root into the bundle, and what is between into the chain",
            )
        path.append(issuer)
    return path


def _issuer(
    certificate: x509.Certificate, pool: Sequence[x509.Certificate], when: datetime.datetime
) -> x509.Certificate | None:
    """Who may have issued it: the first that is valid now, else the one that was valid last."""
    found = [candidate for candidate in pool if _may_issue(candidate, certificate)]
    for candidate in found:
        if candidate.not_valid_before_utc <= when <= candidate.not_valid_after_utc:
            return candidate
    return max(found, key=lambda candidate: candidate.not_valid_after_utc, default=None)


def _may_issue(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    if issuer.subject != certificate.issuer:
        return False
    named = _extension(certificate, x509.AuthorityKeyIdentifier)
    if named is None:
        return True
    own = _extension(issuer, x509.SubjectKeyIdentifier)
    if named.key_identifier and own and named.key_identifier != own.digest:
        return False
    return named.authority_cert_serial_number in (None, issuer.serial_number)


def _self_signed(certificate: x509.Certificate) -> bool:
    if not _may_issue(certificate, certificate):
        return False
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


Kind = TypeVar("Kind", bound=x509.ExtensionType)


def _extension(certificate: x509.Certificate, kind: type[Kind]) -> Kind | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _short(error: VerificationError) -> str:
    return _NOISE.sub("", str(error)).partition(" (encountered")[0].partition(": AlgorithmIdentifier")[0]


def _leaf_policy() -> ExtensionPolicy:
    return (
        ExtensionPolicy.permit_all()
        .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _no_authority)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs)
        .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _for_clients)
    )


def _authority_policy() -> ExtensionPolicy:
    return (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_certificates)
        .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _for_clients)
        .may_be_present(x509.NameConstraints, Criticality.AGNOSTIC, _checkable)
    )


# What the library calls back with: it turns an exception into its own.


def _no_authority(_: Policy, __: x509.Certificate, found: x509.BasicConstraints | None) -> None:
    if found and found.ca:
        raise ValueError("it is an authority's, not a host's")


def _signs(_: Policy, __: x509.Certificate, found: x509.KeyUsage | None) -> None:
    if found and not found.digital_signature:
        raise ValueError("its key usage has no digitalSignature")
    if found and found.key_cert_sign:
        raise ValueError("its key usage has keyCertSign, which is an authority's")


def _signs_certificates(_: Policy, __: x509.Certificate, found: x509.KeyUsage | None) -> None:
    if found and not found.key_cert_sign:
        raise ValueError("an authority's key usage has no keyCertSign")


def _for_clients(_: Policy, __: x509.Certificate, found: x509.ExtendedKeyUsage | None) -> None:
    if found and ExtendedKeyUsageOID.CLIENT_AUTH not in found:
        raise ValueError("its extended key usage has no clientAuth")


def _checkable(_: Policy, __: x509.Certificate, found: x509.NameConstraints | None) -> None:
    """The library checks names of these kinds; of others it would let some pass."""
    if found:
        for name in (*(found.permitted_subtrees or ()), *(found.excluded_subtrees or ())):
            if not isinstance(name, _CONSTRAINED):
                raise ValueError(f"an authority's name constraints are by {type(name).__name__}")


def _check_common_name(chain: Sequence[x509.Certificate]) -> None:
    """Constraints on DNS names hold for a common name as well, where no SAN has one; the library looks
    at the SAN only.
    """
    san = _extension(chain[0], x509.SubjectAlternativeName)
    if san and san.get_values_for_type(x509.DNSName):
        return
    names = [str(name.value) for name in chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not any("." in name for name in names):
        return
    for authority in chain[1:]:
        found = _extension(authority, x509.NameConstraints)
        if found and any(
            isinstance(name, x509.DNSName)
            for name in (*(found.permitted_subtrees or ()), *(found.excluded_subtrees or ()))
        ):
            raise Refused(
                UNSUITABLE,
                f"an authority's name constraints cannot be checked for the common name {names[0]!r}",
                "have it issued with that name in its subjectAltName",
            )
