# SPDX-License-Identifier: Apache-2.0
"""Interim records: the records of a flow sum up to what it carried, also where they meet its close.

The long form, 200,000 flows: FLOWTAG_TALKS=100000 pytest tests/kernel/test_interim.py. The slow programs are
made of the real ones with a pause between snapshot and compare-and-swap, so that closes fall between them.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from bpf import abi, build
from exporter.ring import Columns
from tests.kernel.pair import Pair, boottime
from tests.rig.kernel import Watch, netns_cookie
from tests.rig.network import Network

CONNECTIONS = int(os.environ.get("FLOWTAG_TALKS", "12000"))
ADDRESS = "10.99.0.1"
PAUSE = '\tfor (__u32 i = 0; i < 20000; i++)\n\t\tasm volatile("" ::: "memory");\n'


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("talks") / "talks"
    source = Path(__file__).with_name("talks.c")
    flags = ("-O2", "-Wall", "-Wextra", "-Wno-sign-compare", "-Werror", "-pthread")
    subprocess.run(["clang", *flags, "-o", str(program), str(source)], check=True)
    return program


def _slow(directory: Path) -> str:
    for file in (*build.DIRECTORY.glob("*.h"), build.SOURCE):
        shutil.copy(file, directory)
    header = directory / "interim.h"
    text = header.read_text(encoding="utf-8")
    assert text.count("\t*next = now;\n") == 1
    header.write_text(text.replace("\t*next = now;\n", "\t*next = now;\n" + PAUSE), encoding="utf-8")
    build.build(directory / "flow.bpf.o", directory / build.SOURCE.name)
    return str(directory / "flow.bpf.o")


def _talk(watch: Watch, program: Path) -> tuple[Columns, int]:
    """Run `talks` under one interim run after the other; its records, and how many proposals were dropped."""
    stop = threading.Event()
    discarded = 0

    def iterate() -> None:
        while not stop.is_set():
            watch.programs.interim(boottime())

    with Network() as network:
        namespace = network.namespace("talks", bridge=False)
        cookie = netns_cookie(namespace)
        command = ["ip", "netns", "exec", namespace.name, str(program), str(CONNECTIONS), "2"]
        thread = threading.Thread(target=iterate)
        thread.start()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                batch = watch.ring.look()
                discarded += batch.count - len(batch.records)
                watch.drain()
                time.sleep(0.01)
            assert process.stdout
            assert int(process.stdout.read()) == CONNECTIONS
        stop.set()
        thread.join()
        watch.await_idle(namespace)
        records = watch.everything()
    return records[records["netns"] == cookie], discarded


def _check(records: Columns) -> None:
    """Each flow: one close, which is its last record; intervals that meet; the bytes that its port says."""
    closed = records["kind"] == abi.EVENT_CLOSE
    _, flow = np.unique(records[["cookie", "generation"]], return_inverse=True)
    flow = flow.reshape(-1)
    order = np.argsort(flow, kind="stable")
    same = flow[order][1:] == flow[order][:-1]
    first, last = np.append(True, ~same), np.append(~same, True)
    ordered = records[order]
    assert first.sum() == 2 * CONNECTIONS
    assert (closed[order] == last).all()
    assert (ordered["time_start"] <= ordered["time_end"]).all()
    assert (ordered["time_start"][1:][same] == ordered["time_end"][:-1][same]).all()
    assert (ordered["time_start"][first] == ordered["time_open"][first]).all()
    for name in ("segments_sent", "segments_received", "segments_retransmitted"):
        assert records[name].max() < 100  # a negative one would be huge
    ends = ordered[last]
    client = ends["local_port"] >= 8000
    port = np.where(client, ends["local_port"], ends["peer_port"]).astype(np.int64)
    up, down = 1 + port % 5000, 1 + port * 7 % 3000
    for name, expected in (
        ("bytes_sent", np.where(client, up, down)),
        ("bytes_received", np.where(client, down, up)),
    ):
        assert (np.add.reduceat(ordered[name].astype(np.int64), np.flatnonzero(first)) == expected).all()


@pytest.mark.parametrize("slow", [False, True])
def test_records_sum_up_where_flows_close_while_they_are_read(
    kernel: None, talks: Path, tmp_path: Path, slow: bool
) -> None:
    path = _slow(tmp_path) if slow else None
    with Watch(ring_bytes=1 << 26, object_path=path) as watch:
        records, discarded = _talk(watch, talks)
        assert watch.counters()["interim_deferred"] == 0
    assert (records["kind"] == abi.EVENT_INTERIM).sum() > CONNECTIONS / 10
    if slow:
        assert discarded > 0, "no close fell into the pause: nothing was proved"
    _check(records)


def _interim(pair: Pair) -> None:
    pair.watch.programs.interim(boottime())
    pair.watch.settle()


def test_flow_that_rests_makes_no_interim(pair: Pair) -> None:
    with pair.server.entered(), socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with client, server:
            client.sendall(b"x" * 1000)
            assert server.recv(1000, socket.MSG_WAITALL)
            _interim(pair)
            assert len(pair.watch.columns(pair.server)) == 2
            _interim(pair)
            records = pair.watch.columns(pair.server)
            assert records["kind"].tolist() == [abi.EVENT_INTERIM] * 2
            assert sorted(records["bytes_received"].tolist()) == [0, 1000]


def test_ring_that_is_half_full_leaves_interims_to_the_next_record(kernel: None) -> None:
    with Network() as network, Watch(ring_bytes=4096) as watch:
        namespace = network.namespace("full", bridge=False)
        with namespace.entered(), socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(10):
                socket.create_connection(listener.getsockname()).close()
                listener.accept()[0].close()
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
            client.sendall(b"x" * 10)
            assert server.recv(10, socket.MSG_WAITALL)
            watch.programs.interim(boottime())
            assert watch.counters()["interim_deferred"] >= 2
            watch.drain()
            watch.forget()
            client.close()
            server.close()
        watch.settle()
        assert sorted(watch.columns(namespace)["bytes_sent"].tolist()) == [0, 10]


def test_heartbeat_lies_in_the_ring_like_every_record(session_watch: Watch) -> None:
    address = bytes(10) + b"\xff\xff" + socket.inet_aton(ADDRESS)
    assert session_watch.programs.tell_owner(1 << 40, address, 5, 7)
    session_watch.settle()
    records = session_watch.everything()
    (told,) = records[records["kind"] == abi.EVENT_OWNERSHIP]
    assert (told["owner"], told["time_start"], told["time_end"]) == (1 << 40, 5, 7)
    assert told["local_address"].tobytes() == address
