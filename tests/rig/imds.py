# SPDX-License-Identifier: Apache-2.0
"""A metadata service that speaks IMDSv2 on loopback, and documents that a key of the test signs.

with MetadataService({"dynamic/instance-identity/rsa2048": signed(DOCUMENT)}) as service:
    service.url, service.requests           # the requests so far: (method, path)
Region(tmp_path, "eu-west-1").sign(content) # a region's certificate in a directory, and its signature
"""

from __future__ import annotations

import base64
import datetime
import functools
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import NameOID

from tests.rig.chains import NOW

TOKEN = "AQAEAHflowtagTest=="  # noqa: S105 - a token of the test's own service
RSA2048 = "dynamic/instance-identity/rsa2048"
FIELDS: dict[str, Any] = {
    "accountId": "123456789012",
    "architecture": "x86_64",
    "availabilityZone": "eu-west-1b",
    "billingProducts": None,
    "imageId": "ami-5fb8c835",
    "instanceId": "i-1234567890abcdef0",
    "instanceType": "t3.micro",
    "pendingTime": "2026-11-19T16:32:11Z",
    "privateIp": "10.158.112.84",
    "region": "eu-west-1",
    "version": "2017-09-30",
}


def document(**fields: Any) -> bytes:
    """A document as AWS formats it, with some fields changed."""
    return json.dumps({**FIELDS, **fields}, indent=2, separators=(",", " : ")).encode()


@functools.cache
def signing_key(bits: int = 2048, number: int = 0) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


class Region:
    """A region's signing key with its certificate in `directory`."""

    def __init__(
        self, directory: Path, name: str = "eu-west-1", *, bits: int = 2048, number: int = 0, days: int = 365
    ) -> None:
        self.directory = directory
        self.key = signing_key(bits, number)
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A cloud of this test")])
        begin = datetime.datetime.fromtimestamp(NOW - 400 * 86_400, datetime.UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self.key.public_key())
            .serial_number(4711 + number)
            .not_valid_before(begin)
            .not_valid_after(begin + datetime.timedelta(days=400 + days))
            .sign(self.key, hashes.SHA256())
        )
        path = directory / f"{name}.pem"
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        path.chmod(0o644)

    def message(self, content: bytes, *options: pkcs7.PKCS7Options, digest: Any = None) -> bytes:
        """PKCS #7 in DER; options such as NoAttributes."""
        builder = pkcs7.PKCS7SignatureBuilder().set_data(content)
        builder = builder.add_signer(self.certificate, self.key, digest or hashes.SHA256())
        return builder.sign(Encoding.DER, [pkcs7.PKCS7Options.Binary, *options])

    def sign(self, content: bytes, *options: pkcs7.PKCS7Options) -> bytes:
        """As the metadata service answers: base64 in lines."""
        return base64.encodebytes(self.message(content, *options))


Answer = bytes | Callable[[BaseHTTPRequestHandler], None]


class MetadataService:
    """The service: a token by PUT, then `answers` by GET, to those who show the token."""

    def __init__(
        self, answers: dict[str, Answer], *, token: Answer | None = None, ipv6: bool = False
    ) -> None:
        self.requests: list[tuple[str, str]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                service.requests.append(("PUT", self.path))
                seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
                if self.path != "/latest/api/token" or not seconds.isdecimal():
                    self.send_error(400)
                else:
                    service.answer(self, TOKEN.encode() if token is None else token)

            def do_GET(self) -> None:
                service.requests.append(("GET", self.path))
                if self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
                    self.send_error(401)
                    return
                found = answers.get(self.path.removeprefix("/latest/"))
                if found is None:
                    self.send_error(404)
                else:
                    service.answer(self, found)

            def log_message(self, format: str, *_: Any) -> None:  # noqa: A002 - the base class's name
                pass

        class Server(ThreadingHTTPServer):
            address_family = 10 if ipv6 else 2
            block_on_close = False

        self._server = Server(("::1" if ipv6 else "127.0.0.1", 0), Handler)
        host = "[::1]" if ipv6 else "127.0.0.1"
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @staticmethod
    def answer(handler: BaseHTTPRequestHandler, found: Answer) -> None:
        if callable(found):
            found(handler)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(found)))
        handler.end_headers()
        handler.wfile.write(found)

    def __enter__(self) -> MetadataService:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
