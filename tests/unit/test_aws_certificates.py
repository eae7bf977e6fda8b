# SPDX-License-Identifier: Apache-2.0
"""The certificates of AWS that flowtag ships are what AWS says of them: see their README."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from identity.instance_document import _REGION, SHIPPED

FILES = sorted(Path(SHIPPED).glob("*.pem"))
NAME = "O=Amazon Web Services LLC,L=Seattle,ST=Washington State,C=US"


def test_there_is_one_for_every_region_that_the_list_names() -> None:
    text = (Path(SHIPPED) / "README.md").read_text(encoding="utf-8")
    listed = {word.strip("`,.") for word in text.partition("## Regions")[2].partition("##")[0].split()}
    assert listed == {path.stem for path in FILES}
    assert len(FILES) == 36


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.stem))
def test_certificate_is_amazons_own_and_strong(path: Path) -> None:
    found = x509.load_pem_x509_certificate(path.read_bytes())
    assert _REGION.fullmatch(path.stem)
    found.verify_directly_issued_by(found)
    assert found.subject.rfc4514_string() == NAME
    key = found.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 2048
    assert found.signature_hash_algorithm is not None
    assert found.signature_hash_algorithm.name == "sha256"
    assert found.not_valid_after_utc.year > 2190


def test_no_two_regions_have_one_key() -> None:
    keys: dict[int, list[str]] = {}
    for path in FILES:
        key = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        keys.setdefault(key.public_numbers().n, []).append(path.stem)
    assert [regions for regions in keys.values() if len(regions) > 1] == []
