# SPDX-License-Identifier: Apache-2.0
"""A PKCS #7 signed message (RFC 5652, SignedData) and whether a known certificate's key signed it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from identity import ber
from identity.ber import OCTETS, OID, SEQUENCE, SET, BerError, Element

if TYPE_CHECKING:
    from cryptography import x509

SIZE_MAX = 1 << 16
_DATA = ber.oid("1.2.840.113549.1.7.1")
_SIGNED_DATA = ber.oid("1.2.840.113549.1.7.2")
_CONTENT_TYPE = ber.oid("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST = ber.oid("1.2.840.113549.1.9.4")
_DIGESTS = {
    ber.oid("2.16.840.1.101.3.4.2.1"): "sha256",
    ber.oid("2.16.840.1.101.3.4.2.2"): "sha384",
    ber.oid("2.16.840.1.101.3.4.2.3"): "sha512",
}
_RSA = {ber.oid(f"1.2.840.113549.1.1.{number}") for number in (1, 11, 12, 13)}
_EXPLICIT = 0xA0  # [0], constructed
RSA_BITS_MIN = 2048


class NotSigned(ValueError):
    """No signed message, or not by this key."""


def verify(message: bytes, signer: x509.Certificate) -> bytes:
    """The content of a message with one signature, which is by the RSA key of `signer`.

    The signer's certificate in the message, if any, is not looked at. NotSigned for all else.
    """
    found, info = _parse(message)
    try:
        digest, signed, signature = _signer_info(info, found)
    except (ValueError, IndexError, RecursionError) as error:
        raise NotSigned(f"no signed message: {error}") from None
    _check(signer, signature, signed, digest)
    return found


def content(message: bytes) -> bytes:
    """What a message carries, whoever signed it: not to be believed yet."""
    return _parse(message)[0]


def _parse(message: bytes) -> tuple[bytes, Element]:
    if len(message) > SIZE_MAX:
        raise NotSigned(f"larger than {SIZE_MAX} bytes")
    try:
        return _parts(message)
    except (ValueError, IndexError, RecursionError) as error:
        raise NotSigned(f"no signed message: {error}") from None


def _parts(message: bytes) -> tuple[bytes, Element]:
    """The content and the only SignerInfo."""
    kind, wrapped = ber.parse(message).expect(SEQUENCE).children()
    if kind.expect(OID).content != _SIGNED_DATA:
        raise BerError("it is another kind of message")
    (data,) = wrapped.expect(_EXPLICIT).children()
    _, _, inner, *optional, infos = data.expect(SEQUENCE).children()
    if any(part.tag not in (0xA0, 0xA1) for part in optional):
        raise BerError("an unknown part")
    content_kind, *content = inner.expect(SEQUENCE).children()
    if content_kind.expect(OID).content != _DATA or len(content) != 1:
        raise BerError("it carries no data")
    (octets,) = content[0].expect(_EXPLICIT).children()
    (info,) = infos.expect(SET).children()
    return octets.octets(), info.expect(SEQUENCE)


def _signer_info(info: Element, content: bytes) -> tuple[str, bytes, bytes]:
    """The digest's name, the bytes that are signed, and the signature."""
    _, _, algorithm, *rest = info.children()
    digest = _DIGESTS.get(algorithm.expect(SEQUENCE).children()[0].expect(OID).content)
    if digest is None:
        raise BerError("its digest is none of SHA-256, SHA-384 and SHA-512")
    signed = content
    if rest[0].tag == _EXPLICIT:
        signed = _attributes(rest.pop(0), digest, content)
    kind, signature, *unsigned = rest
    if kind.expect(SEQUENCE).children()[0].expect(OID).content not in _RSA or len(unsigned) > 1:
        raise BerError("its signature is none by RSA")
    return digest, signed, signature.octets()


def _attributes(found: Element, digest: str, content: bytes) -> bytes:
    """The signed attributes as they are signed, once they name this content."""
    values: dict[bytes, Element] = {}
    for attribute in found.children():
        name, value = attribute.expect(SEQUENCE).children()
        if name.expect(OID).content in values:
            raise BerError("an attribute comes twice")
        (values[name.content],) = value.expect(SET).children()
    if values[_CONTENT_TYPE].expect(OID).content != _DATA if _CONTENT_TYPE in values else True:
        raise BerError("its attributes do not name the content's type")
    if _MESSAGE_DIGEST not in values:
        raise BerError("its attributes have no digest")
    if values[_MESSAGE_DIGEST].expect(OCTETS).content != hashlib.new(digest, content).digest():
        raise BerError("the content is not what was signed")
    if not found.definite:
        raise BerError("its attributes are not in DER")
    return bytes([SET]) + found.raw[1:]


def _check(signer: x509.Certificate, signature: bytes, signed: bytes, digest: str) -> None:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    algorithms: dict[str, hashes.HashAlgorithm] = {
        "sha256": hashes.SHA256(),
        "sha384": hashes.SHA384(),
        "sha512": hashes.SHA512(),
    }
    try:
        key = signer.public_key()
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size < RSA_BITS_MIN:
            raise NotSigned(f"the certificate's key is no RSA key of {RSA_BITS_MIN} bits or more")
        key.verify(signature, signed, padding.PKCS1v15(), algorithms[digest])
    except InvalidSignature:
        raise NotSigned("the signature is wrong") from None
    except UnsupportedAlgorithm as error:
        raise NotSigned(f"the certificate's key cannot be used: {error}") from None
