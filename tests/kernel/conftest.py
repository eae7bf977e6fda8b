# SPDX-License-Identifier: Apache-2.0
"""One watch for all tests that only read records, and two fresh namespaces for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.pair import Pair
from tests.rig.kernel import Watch
from tests.rig.network import Network


@pytest.fixture(scope="session")
def lasting_watch(kernel: None) -> Iterator[Watch]:
    with Watch() as watch:
        yield watch


@pytest.fixture
def session_watch(lasting_watch: Watch) -> Watch:
    """Emptied: it saw the storms of other tests too, and a full ring would lose what comes now."""
    lasting_watch.drain()
    lasting_watch.forget()
    return lasting_watch


@pytest.fixture
def pair(session_watch: Watch) -> Iterator[Pair]:
    with Network() as network:
        yield Pair(session_watch, network.namespace("client"), network.namespace("server"))
