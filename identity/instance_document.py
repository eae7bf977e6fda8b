# SPDX-License-Identifier: Apache-2.0
"""The host's identity from AWS's instance identity document, as the metadata service signs it.

Source: Amazon EC2 User Guide, 'Verify the instance identity document'. Of its three signatures we read
`rsa2048`: PKCS #7 around the document, SHA-256 by an RSA key of 2048 bits. `pkcs7` is by DSA and
`signature` by RSA of 1024 bits, neither of which should be believed any more.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpf.error import FlowtagError
from identity import imds, instance_file, signed_message, strict_json
from identity.instance import (
    EXPIRED,
    LABEL_PREFIX,
    MALFORMED,
    UNTRUSTED,
    VERIFIED,
    Identity,
    Refused,
)

if TYPE_CHECKING:
    from cryptography import x509

SHIPPED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "aws_certificates")
DOCUMENT_MAX = 1 << 15
_REGION = re.compile(r"[a-z]{2,8}(-[a-z]{2,12}){1,3}-[0-9]{1,2}")
# Our label by the document's field.
_LABELS = {
    "instance": "instanceId",
    "account": "accountId",
    "region": "region",
    "zone": "availabilityZone",
    "image": "imageId",
    "instance_type": "instanceType",
}


@dataclass(frozen=True, slots=True)
class Document:
    """[identity.document] AWS's signed instance identity document.

    endpoint: of the metadata service. certificates: a directory of PEM files, one a region and named
    for it (eu-west-1.pem), which go before those that flowtag ships. seconds: how long all may take.
    """

    endpoint: str = "http://169.254.169.254"
    certificates: str = ""
    seconds: int = 5

    def __post_init__(self) -> None:
        try:
            imds.endpoint(self.endpoint)
        except FlowtagError as error:
            raise FlowtagError(f"identity.document.endpoint: {error}", error.hint) from None
        path = self.certificates
        if path and (not path.startswith("/") or not path.isprintable()):
            raise FlowtagError(f"identity.document.certificates is {path!r}", "use an absolute path")
        if not 1 <= self.seconds <= 60:
            raise FlowtagError(f"identity.document.seconds is {self.seconds}", "use 1 to 60")


def read(settings: Document, now: float) -> Identity:
    """Ask the metadata service who the host is; Refused if it does not say, or is not to be believed."""
    with imds.Session(settings.endpoint, settings.seconds) as session:
        signed = session.get("dynamic/instance-identity/rsa2048")
    return identity(settings, signed, now)


def identity(settings: Document, signed: bytes, now: float) -> Identity:
    """The same of the service's answer: base64 of PKCS #7, in lines."""
    try:
        message = base64.b64decode(b"".join(signed.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(MALFORMED, f"the instance identity document: not base64: {error}") from None
    # Which key must have signed it is in the document itself: that region's, and no other.
    region = _fields(_unverified(message)).get("region", "")
    if not _REGION.fullmatch(region):
        raise Refused(MALFORMED, f"the instance identity document: {region!r} is no region")
    signer = _signer(settings, region, now)
    try:
        content = signed_message.verify(message, signer)
    except signed_message.NotSigned as error:
        raise Refused(UNTRUSTED, f"the instance identity document of {region}: {error}") from None
    fields = _fields(content)
    if fields["region"] != region:
        raise Refused(UNTRUSTED, "the instance identity document names two regions")
    instance = fields.get("instanceId", "")
    if not instance:
        raise Refused(MALFORMED, "the instance identity document names no instance")
    labels = {f"{LABEL_PREFIX}{name}": fields[key] for name, key in _LABELS.items() if fields.get(key)}
    return Identity("document", VERIFIED, instance, labels=labels, key=instance)


def _unverified(message: bytes) -> bytes:
    try:
        return signed_message.content(message)
    except signed_message.NotSigned as error:
        raise Refused(MALFORMED, f"the instance identity document: {error}") from None


def _fields(content: bytes) -> dict[str, str]:
    """The document's fields that are texts."""
    try:
        found = strict_json.decode(content, DOCUMENT_MAX)
    except ValueError as error:
        raise Refused(MALFORMED, f"the instance identity document: {error}") from None
    if not isinstance(found, dict):
        raise Refused(MALFORMED, "the instance identity document: no JSON object")
    return {key: value for key, value in found.items() if isinstance(value, str) and len(value) <= 256}


def _signer(settings: Document, region: str, now: float) -> x509.Certificate:
    """The certificate of this region's signing key: the operator's, else ours."""
    from cryptography import x509

    for directory in filter(None, (settings.certificates, SHIPPED)):
        path = os.path.join(directory, f"{region}.pem")
        if not os.path.exists(path):
            continue
        data = instance_file.read(path, "the region's certificate", anchors=directory != SHIPPED)
        try:
            found = x509.load_pem_x509_certificate(data)
            begin, end = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
        except ValueError as error:
            raise Refused(MALFORMED, f"reading the region's certificate {path}: {error}") from None
        if not begin <= now <= end:
            raise Refused(EXPIRED, f"the region's certificate {path} is not valid now", "is the clock right?")
        return found
    raise Refused(
        UNTRUSTED,
        f"the instance identity document is of {region}, of which there is no certificate",
        "put AWS's RSA-2048 certificate of that region into identity.document.certificates",
    )
