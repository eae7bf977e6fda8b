# SPDX-License-Identifier: Apache-2.0
"""The host's certificate as something at boot writes it, and replaces it.

certificate = HostCertificate(tmp_path / "certificates")
certificate.issue("host-1")            # by renaming, with the trust bundle; until expiry an hour
certificate.tables                     # TOML for the exporter: [identity.certificate] and a rule
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tests.rig.chains import Made, good


class HostCertificate:
    """A directory with client.crt and ca.pem; the common name is the workload."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        directory.chmod(0o755)
        self.path, self.trust = directory / "client.crt", directory / "ca.pem"
        self.tables = (
            "[identity.certificate]\n"
            f"path = {json.dumps(str(self.path))}\n"
            f"trust = {json.dumps(str(self.trust))}\n"
            "[[identity.certificate.rules]]\n"
            'field = "cn"\nmatch = "(?P<app>[a-z]+)-.+"\nworkload = "{value}"\napp = "{app}"\n'
            'labels = { team = "{app}" }\n'
        )

    def issue(self, cn: str, **leaf: Any) -> None:
        """Put a certificate of this name in the last one's place; `leaf` as in tests.rig.chains.good."""
        made = self.make(cn, **leaf)
        if not self.trust.exists():
            self.write(self.trust, made.trust_pem)
        self.write(self.path, made.chain_pem)

    def make(self, cn: str, **leaf: Any) -> Made:
        now = int(time.time())
        plan = good(cn=cn, **{"names": (), "begin": now - 60, "end": now + 3600, **leaf})
        for spec in plan.specs[:-1]:
            spec.begin, spec.end = now - 86_400, now + 86_400
        return plan.make()

    def write(self, path: Path, content: bytes) -> None:
        new = path.with_name(path.name + ".new")
        new.write_bytes(content)
        new.chmod(0o644)
        new.rename(path)
