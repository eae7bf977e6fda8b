# SPDX-License-Identifier: Apache-2.0
"""A fake API server, and the source of names that asks it through the real client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from identity.kubernetes import Kubernetes
from identity.kubernetes_client import Timing, kubeconfig
from tests.rig.kube_api import KubeApi
from tests.rig.kube_objects import NODE
from tests.rig.kubeconfig import write_kubeconfig

# As in production, but a hundred times as fast.
FAST = Timing(connect=2, answer=1, list=3, watch=(60, 60), first_delay=0.02, longest_delay=0.2)
Start = Callable[..., Kubernetes]


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi() as server:
        yield server


@pytest.fixture
def start(api: KubeApi, tmp_path: Path) -> Iterator[Start]:
    """Starts the source against `api`; what it takes is what Kubernetes takes."""
    config = write_kubeconfig(tmp_path / "kubeconfig", api.url)
    started: list[Kubernetes] = []

    def start(timing: Timing = FAST, **options: int) -> Kubernetes:
        started.append(Kubernetes(kubeconfig(str(config)), NODE, timing, **options))
        return started[-1]

    yield start
    for source in started:
        source.close()


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait for it; fail when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
