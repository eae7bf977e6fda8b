# SPDX-License-Identifier: Apache-2.0
"""TLS as sinks make it, against a server in Python: whom it believes, and who believes it."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest

from exporter.sinks.tls import Tls, context
from tests.rig import tls


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tls.Made:
    return tls.make(tmp_path_factory.mktemp("made"))


def talk(client: Tls, server: ssl.SSLContext, name: str = "localhost") -> bytes:
    """What the server says; ssl.SSLError if either side does not believe the other."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    theirs.settimeout(5)

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as end:
                end.sendall(b"well")
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with context(client).wrap_socket(ours, server_hostname=name) as end:
            return end.recv(4)
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_server_that_the_authority_signed_is_believed(made: tls.Made, name: str) -> None:
    assert talk(Tls(ca=str(made.ca)), tls.server_context(made.server()), name) == b"well"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("wrong_name", "Hostname mismatch"),
        ("expired", "certificate has expired"),
        ("early", "not yet valid"),
        ("self_signed", "self-signed certificate"),
        ("other_ca", "unable to get local issuer certificate"),
    ],
)
def test_server_with_a_bad_certificate_is_not_believed(made: tls.Made, fault: str, message: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=message):
        talk(Tls(ca=str(made.ca)), tls.server_context(made.server(fault)))


def test_server_of_a_private_authority_is_not_believed_by_the_system(made: tls.Made) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(Tls(), tls.server_context(made.server()))


def test_client_of_mutual_tls_is_believed(made: tls.Made) -> None:
    pair = made.client()
    client = Tls(str(made.ca), str(pair.certificate), str(pair.key))
    assert talk(client, tls.server_context(made.server(), made.ca)) == b"well"


@pytest.mark.parametrize("fault", ["", "expired", "self_signed", "other_ca"])
def test_client_of_mutual_tls_without_a_good_certificate_is_not_believed(made: tls.Made, fault: str) -> None:
    client = Tls(str(made.ca))
    if fault:
        pair = made.client(fault)
        client = Tls(str(made.ca), str(pair.certificate), str(pair.key))
    # Of TLS 1.3 the refusal comes with the first read, after the handshake.
    with pytest.raises((ssl.SSLError, ConnectionError)):
        talk(client, tls.server_context(made.server(), made.ca))
