# SPDX-License-Identifier: Apache-2.0
"""What a running exporter says of itself, for `flowtag check`: the rules are in one place."""

from __future__ import annotations

import http.client
import ipaddress
import json
from dataclasses import dataclass

from exporter.config import endpoint

SECONDS = 5.0
ANSWER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Told:
    """A problem as a running exporter tells it."""

    severity: str
    text: str
    hint: str


def ask(listen: str) -> list[Told]:
    """What the exporter that listens there says is wrong; OSError or ValueError if it cannot be asked."""
    address, port = endpoint(listen)
    if ipaddress.ip_address(address).is_unspecified:
        address = "::1" if ":" in address else "127.0.0.1"
    connection = http.client.HTTPConnection(address, port, timeout=SECONDS)
    try:
        connection.request("GET", "/readyz", headers={"Accept": "application/json"})
        data = json.loads(connection.getresponse().read(ANSWER_BYTES))
        problems = data["problems"]
        return [Told(str(one["severity"]), str(one["text"]), str(one["hint"])) for one in problems]
    except (http.client.HTTPException, KeyError, TypeError) as error:
        raise ValueError(f"no answer of an exporter: {error!r}") from None
    finally:
        connection.close()
