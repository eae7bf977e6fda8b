# SPDX-License-Identifier: Apache-2.0
"""A bridge in the machine's own network namespace, which an engine puts its containers on.

    with Bridge() as bridge:
        bridge.name                                # "ftb4711-0", fits a link's name
        bridge.ipv4, bridge.ipv6                   # the machine's own addresses on it
        bridge.subnet4, bridge.subnet6             # "10.195.3.0/24", "fd7a:...::/64"
        bridge.write_cni(directory, "flowtag")     # a network configuration for CNI plugins

It is made here and not by the engine, because an engine or plugin that makes one also turns on
forwarding and writes firewall rules for the whole machine. Subnets carry this process's id.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from types import TracebackType

from tests.rig.network import ip

_serial = itertools.count()


class Bridge:
    """One bridge; gone with its ports at the end."""

    def __init__(self) -> None:
        serial = next(_serial)
        number = os.getpid() * 7 + serial
        self.name = f"ftb{os.getpid()}-{serial}"
        net4 = f"10.{192 + number // 256 % 63}.{number % 256}"
        net6 = f"fd7b:{number // 65536 % 65536:x}:{number % 65536:x}:"
        self.ipv4, self.subnet4 = f"{net4}.1", f"{net4}.0/24"
        self.ipv6, self.subnet6 = f"{net6}:1", f"{net6}:/64"

    def __enter__(self) -> Bridge:
        # Multicast snooping would swallow the first neighbour solicitations.
        ip("link", "add", self.name, "type", "bridge", "mcast_snooping", "0")
        try:
            ip("link", "set", self.name, "addrgenmode", "none")
            ip("addr", "add", f"{self.ipv4}/24", "dev", self.name)
            ip("-6", "addr", "add", f"{self.ipv6}/64", "dev", self.name, "nodad")
            ip("link", "set", self.name, "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        subprocess.run(["ip", "link", "del", self.name], capture_output=True, check=False)

    def write_cni(self, directory: Path, name: str) -> Path:
        """A configuration list of the bridge and loopback plugins below `directory`; its leases too."""
        leases = directory / "leases"
        for folder in (directory, leases):
            folder.mkdir(parents=True, exist_ok=True)
        bridge = {
            "type": "bridge",
            "bridge": self.name,
            "isGateway": False,
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "dataDir": str(leases),
                "ranges": [
                    [{"subnet": self.subnet4, "rangeStart": self.ipv4[:-1] + "10"}],
                    [{"subnet": self.subnet6, "rangeStart": self.ipv6[:-1] + "10"}],
                ],
            },
        }
        text = json.dumps({"cniVersion": "0.4.0", "name": name, "plugins": [bridge]}, indent=1)
        path = directory / f"{name}.conflist"
        path.write_text(text, encoding="utf-8")
        return path
