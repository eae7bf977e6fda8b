# SPDX-License-Identifier: Apache-2.0
"""A host below a folder, with engines that are configuration files, for register and unregister.

host = Host(tmp_path)                # Docker, Podman, CRI-O and runc, none of them running
host.registration().register("docker")
host.said, host.complaints           # what it said, and the FlowtagErrors
host.adapters, host.options          # to use alone
host.tree()                          # every file below /etc, /usr and /var, with its content
"""

from __future__ import annotations

import os
from pathlib import Path

from bpf.error import FlowtagError
from hooks import references
from hooks.register import Registration
from hooks.runtime import Options, Reference, Runtime
from hooks.runtimes.crio import Crio
from hooks.runtimes.docker import Docker
from hooks.runtimes.podman import Podman
from hooks.runtimes.runc import Runc

PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin"


class Host:
    """The folder, and what was said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for directory in ("etc/docker", "usr/local/sbin", "var/lib", "usr/share/containers/oci/hooks.d"):
            (root / directory).mkdir(parents=True)
        (root / "etc/login.defs").write_text(
            f"ENV_SUPATH\tPATH={root}/usr/local/sbin:{PROGRAMS}\n", encoding="utf-8"
        )
        self.options = Options(f"{root}/var/lib/flowtag/hook", f"{root}/run/flowtag")
        where = str(root)
        self.docker, self.podman, self.crio, self.runc = (
            Docker(where),
            Podman(where),
            Crio(where),
            Runc(where),
        )
        self.adapters: list[Runtime] = [self.docker, self.podman, self.crio, self.runc]
        self.daemon_json = root / "etc/docker/daemon.json"
        self.hooks_d = root / "usr/share/containers/oci/hooks.d"
        self.link = root / "usr/local/sbin/runc"
        self.hook = root / "var/lib/flowtag/hook"
        self.said: list[str] = []
        self.complaints: list[FlowtagError] = []

    def registration(self, **options: str) -> Registration:
        """A command, with these options changed."""

        def find(options: Options, engine: str) -> list[Reference]:
            return references.find(options, engine, [f"{self.root}/var/lib/docker"], self.bundles())

        self.said, self.complaints = [], []
        chosen = self.options._replace(**options)
        return Registration(self.adapters, chosen, find, self.said.append, self.complaints.append)

    def bundles(self) -> list[tuple[str, str]]:
        return [(engine, f"{self.root}{pattern}") for engine, pattern in references.BUNDLES]

    def text(self) -> str:
        return "\n".join(self.said)

    def tree(self) -> dict[str, bytes | str]:
        """Every file and link by its path below the root."""
        found: dict[str, bytes | str] = {}
        for directory, _, files in os.walk(self.root):
            for name in files:
                path = Path(directory, name)
                key = str(path.relative_to(self.root))
                found[key] = str(path.readlink()) if path.is_symlink() else path.read_bytes()
        return found
