# SPDX-License-Identifier: Apache-2.0
"""Credentials for the API server of kube_api: a kubeconfig, a ServiceAccount's directory, a private CA."""

from __future__ import annotations

import datetime
import ipaddress
import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def write_kubeconfig(path: Path, url: str, token_file: Path | None = None, ca: Path | None = None) -> Path:
    """A kubeconfig with one context (JSON is YAML)."""
    user = {"tokenFile": str(token_file)} if token_file else {}
    cluster = {"server": url} | ({"certificate-authority": str(ca)} if ca else {})
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        ),
        encoding="utf-8",
    )
    return path


def make_ca(directory: Path) -> tuple[Path, tuple[Path, Path]]:
    """A CA's certificate; and, signed by it, certificate and key of a server on 127.0.0.1."""
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a private CA")])
    key = ec.generate_private_key(ec.SECP256R1())
    certificates = []
    for name, public, ca in (("a private CA", authority, True), ("kubernetes", key, False)):
        certificates.append(
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(public.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1))
            .not_valid_after(datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False)
            .sign(authority, hashes.SHA256())
        )
    paths = [directory / name for name in ("ca.crt", "server.crt", "server.key")]
    for path, certificate in zip(paths[:2], certificates, strict=True):
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[2].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths[0], (paths[1], paths[2])
