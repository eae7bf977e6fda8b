# SPDX-License-Identifier: Apache-2.0
"""The host's certificate is replaced, twice: each socket of the host bears the one that it opened under."""

from __future__ import annotations

import os
import time
from pathlib import Path

from exporter.host_history import LEAD_NS
from tests.rig.bundle import HOST as HOST_NETWORK
from tests.rig.host_certificate import HostCertificate
from tests.truth.owner import Expectation, as_host
from tests.truth.scenarios.slow import SLOW, await_lines, drop, undrop
from tests.truth.stage import HUB, Evidence, Stage

PORT = 31000 + os.getpid() % 1000
ROUNDS = 3


def rotation(directory: Path, size: float) -> Evidence:
    """What closed before, what is open all the while, what is not connected yet; and containers beside it."""
    count = max(10, round(100 * size))
    certificate = HostCertificate(directory / "rotation-certificate")
    certificate.issue("host-0")
    with Stage("rotation", directory, tables=certificate.tables) as stage:
        place = stage.network.namespace("hub")
        hub = stage.far(place)
        hub.do(f"listen :: {SLOW}")
        hub.do(f"listen :: {HUB}")
        stage.uplink()
        helper = stage.process()
        helper.do(f"take {stage.shared}/helper")
        web = stage.container("web", stage.network.namespace("web"))
        guest = stage.container("guest", HOST_NETWORK)
        host = stage.process()
        for number in range(ROUNDS):
            host.become(Expectation(as_host(f"host-{number}")))
            host.do(f"listen 127.0.0.1 {PORT + number}")
            host.do(f"connect 127.0.0.1 {PORT + number} {count}")
            guest.do(f"connect 127.0.0.1 {PORT + number} {count}")
            web.do(f"connect {place.ipv4} {HUB} {count}")
            host.do(f"connect 127.0.0.1 {PORT + number} {count} end=hold")
            drop(place)
            host.do(f"offer {stage.shared}/helper {place.ipv4} {SLOW} {count} slow=1")
            certificate.issue(f"host-{number + 1}")
            stage.exporter.await_log(f"workload=host-{number + 1}")
            time.sleep(LEAD_NS / 1e9 + 0.1)
            undrop(place)
            await_lines(stage, helper, (number + 1) * count)
        host.do("release")
        helper.do("release")
    return stage.evidence
