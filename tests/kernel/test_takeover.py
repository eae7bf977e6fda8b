# SPDX-License-Identifier: Apache-2.0
"""A new version takes over while connections are made all the time: nothing lost, nothing doubled.

For a moment both versions run on the same maps: each transition is seen twice, each close must be
reported once, and an opening that is seen twice is still one generation.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from bpf import abi
from tests.kernel.pair import Pair
from tests.kernel.storm import Storm, Witness, build
from tests.rig.kernel import Watch
from tests.rig.network import Network

CONNECTIONS = 60_000
REUSE = 5
SWAPS = 6


@pytest.mark.parametrize("old_is_gone", [True, False], ids=["restart", "overlap"])
def test_swaps_under_load(kernel: None, tmp_path: Path, old_is_gone: bool) -> None:
    program = build(tmp_path)
    swaps = 0
    with Network() as network, Watch(ring_bytes=1 << 25) as watch:
        namespace = network.namespace("storm", bridge=False)
        with Witness() as witness, Storm(program, namespace, CONNECTIONS, reuse=REUSE) as storm:
            while storm.running() and swaps < SWAPS:
                target = (swaps + 1) * 2 * CONNECTIONS // (SWAPS + 2)
                while storm.running() and len(watch.columns(namespace)) < target:
                    watch.drain()
                assert storm.running(), "the storm was over before the swap"
                watch.take_over(old_is_gone=old_is_gone)
                swaps += 1
            assert storm.made() == CONNECTIONS
            watch.await_idle(namespace)
            records = watch.columns(namespace)
            missing = 2 * CONNECTIONS - len(records)
            assert missing == 0 or missing == witness.unseen(records)
        counters = watch.counters()
    assert swaps == SWAPS
    assert len(np.unique(records[["cookie", "generation"]])) == len(records)
    generations = defaultdict(list)
    for cookie, generation in zip(records["cookie"].tolist(), records["generation"].tolist(), strict=True):
        generations[cookie].append(generation)
    # Each client socket made REUSE flows, one after the other; each accepted socket is one flow.
    sockets = CONNECTIONS + CONNECTIONS // REUSE
    assert sockets - missing <= len(generations) <= sockets
    assert all(found == sorted(found) for found in generations.values())
    assert max(max(found) for found in generations.values()) == REUSE - 1
    assert sum(max(found) + 1 - len(found) for found in generations.values()) <= missing
    assert [counters[name] for name in ("lost_ring", "lost_storage", "lost_socket")] == [0, 0, 0]
    assert counters["lost_close"] <= missing


def test_flow_across_a_takeover(kernel: None) -> None:
    """What a socket remembers is the map's, not the program's: it keeps its opening and its owner."""
    with Network() as network, Watch() as watch:
        pair = Pair(watch, network.namespace("client"), network.namespace("server"))
        client_end, server_end = pair.connect()
        watch.take_over(old_is_gone=True)
        client_end.sendall(bytes(100))
        assert server_end.recv(100) == bytes(100)
        watch.take_over(old_is_gone=False)
        client_end.close()
        server_end.close()
        client, _ = pair.ends(sent=100, received=0)
        assert (client.end, client.pid) == ("fin", os.getpid())
        assert not client.flags & (abi.FLOW_ADOPTED | abi.FLOW_ATTR_AT_CLOSE)


def test_closes_while_no_exporter_runs(kernel: None) -> None:
    """Pins alone keep the programs running; the next reader of the ring finds the records."""
    with Network() as network, Watch() as watch:
        pair = Pair(watch, network.namespace("client"), network.namespace("server"))
        client_end, server_end = pair.connect()
        watch.programs.__exit__()
        client_end.close()
        server_end.close()
        watch.take_over(old_is_gone=True)
        pair.ends(sent=0, received=0)
