# SPDX-License-Identifier: Apache-2.0
"""[sinks.NAME.tls]: how a sink with a network proves who it is, and whom it believes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from bpf.error import FlowtagError


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. ca: who may sign the other end's certificate; empty: whom the system believes.
    certificate and key: ours, for mutual TLS.

    The other end's name is always checked; there is no switch that leaves it out.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        for name in ("ca", "certificate", "key"):
            path = getattr(self, name)
            if path and not (path.startswith("/") and path.isprintable()):
                raise FlowtagError(f"tls.{name} is {path!r}", "use an absolute path")
        if bool(self.certificate) != bool(self.key):
            raise FlowtagError("tls has a certificate or a key, and not both", "mutual TLS needs both")


def context(tls: Tls) -> ssl.SSLContext:
    """For one connection: the files are read anew, so that a rotated certificate counts from the next on.

    OSError (ssl.SSLError is one) if a file cannot be read or is none.
    """
    made = ssl.create_default_context(cafile=tls.ca or None)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.certificate:
        made.load_cert_chain(tls.certificate, tls.key)
    return made
