# SPDX-License-Identifier: Apache-2.0
"""The adapters, one for each engine."""

from __future__ import annotations

from hooks.runtime import Runtime


def adapters() -> list[Runtime]:
    """Every engine that flowtag knows, in the order in which they are worked on; plain runc comes last.

    containerd's NRI is an adapter of its own, which only its name chooses (hooks/register.py).
    """
    from hooks.runtimes.containerd import Containerd
    from hooks.runtimes.crio import Crio
    from hooks.runtimes.docker import Docker
    from hooks.runtimes.nri import Nri
    from hooks.runtimes.podman import Podman
    from hooks.runtimes.runc import Runc

    return [Docker(), Containerd(), Nri(), Podman(), Crio(), Runc()]
