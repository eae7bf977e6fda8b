# SPDX-License-Identifier: Apache-2.0
"""Engines of Debian trixie that run on the machine as they are, with the machine's runc.

Containerd(binaries=containerd_1_7())
Docker(programs=docker_26())
"""

from __future__ import annotations

from pathlib import Path

from tests.rig.debian import unpacked


def containerd_1_7() -> Path:
    """The folder of its programs."""
    return unpacked("trixie", "containerd") / "usr/bin"


def docker_26() -> list[Path]:
    """The folders of daemon, client and the containerd that the daemon starts."""
    daemon = unpacked("trixie", "docker.io") / "usr"
    return [daemon / "sbin", daemon / "bin", unpacked("trixie", "docker-cli") / "usr/bin", containerd_1_7()]
