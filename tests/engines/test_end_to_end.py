# SPDX-License-Identifier: Apache-2.0
"""The main job on real input: real runc containers through the hook, their flows tagged by `flowtag run`."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig.bundle import HOST
from tests.rig.container import Runc
from tests.rig.exporter import Exporter, Record, flowtag
from tests.rig.network import Network

REQUEST, ANSWER = 1234, 56789

SERVER = f"""
import socket, threading
def serve(listener):
    while True:
        peer, _ = listener.accept()
        need = {REQUEST}
        while need:
            need -= len(peer.recv(need))
        peer.sendall(bytes({ANSWER}))
        peer.recv(1)  # the client closes first
        peer.close()
v6 = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=False)
v4 = socket.create_server(("0.0.0.0", 8080))
for listener in (v4, v6):
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
print("listening", flush=True)
input()
"""

CLIENT = f"""
import socket, sys
for address in sys.stdin.readline().split():
    peer = socket.create_connection((address, 8080))
    peer.sendall(bytes({REQUEST}))
    need = {ANSWER}
    while need:
        need -= len(peer.recv(need))
    peer.close()
    last = address
try:
    socket.create_connection((last, 9))
except ConnectionRefusedError:
    print("refused", flush=True)
input()
"""


@pytest.fixture
def runc(tmp_path: Path) -> Iterator[Runc]:
    with Runc(tmp_path / "runc") as runc:
        yield runc


@pytest.fixture
def exporter(tmp_path: Path, pin_directory: Path, runc: Runc) -> Iterator[Exporter]:
    with Exporter(
        tmp_path / "exporter", pin_directory, engine_roots=[runc.cgroup_root.strip("/")]
    ) as exporter:
        yield exporter


def hooks(exporter: Exporter) -> Any:
    return json.loads(
        flowtag("register", "--runtime", "runc", "--print", "--run-directory", str(exporter.run_directory))
    )


def ours(record: Record, *container_ids: str) -> bool:
    return record["container_id"] in container_ids


def test_flows_between_two_containers_are_tagged_at_both_ends(exporter: Exporter, runc: Runc) -> None:
    with Network() as net:
        web_net, shop_net = net.namespace("web"), net.namespace("shop")
        hook = hooks(exporter)
        web = runc.run("web", SERVER, netns=web_net.path, hooks=hook)
        web.await_line("listening")
        shop = runc.run("shop", CLIENT, netns=shop_net.path, hooks=hook)
        shop.say(f"{web_net.ipv4} {web_net.ipv6}")
        shop.await_line("refused")
        web_cgroup, shop_cgroup = str(web.cgroup_id), str(shop.cgroup_id)
        web.say("")
        shop.say("")
        records = exporter.await_records(lambda r: ours(r, "web", "shop"), 5)
        exporter.stop()
    assert len([r for r in exporter.records if ours(r, "web", "shop")]) == 5
    for record in records:
        assert record["workload_kind"] == "container"
        assert record["workload"] == record["container_id"]
        assert record["runtime"] == "runc"
        assert record["attributed_by"] == "cgroup"
        assert record["attributed_at"] == ("close" if record["end_reason"] == "refused" else "open")
        assert record["unattributed_reason"] is None
        assert record["identity_source"] == "hook"
        assert record["adopted"] is False
        assert record["time_open"] < record["time_end"]
    for client_address, address in (
        (shop_net.ipv4, web_net.ipv4),
        (shop_net.ipv6, web_net.ipv6),
    ):
        client, server = (
            next(r for r in records if r["role"] == role and r[key] == address and r["end_reason"] == "fin")
            for role, key in (("client", "peer_address"), ("server", "local_address"))
        )
        assert (client["container_id"], client["cgroup_id"]) == ("shop", shop_cgroup)
        assert (server["container_id"], server["cgroup_id"]) == ("web", web_cgroup)
        assert client["local_address"] == server["peer_address"] == client_address
        assert client["local_port"] == server["peer_port"] > 0
        assert client["peer_port"] == server["local_port"] == 8080
        assert (client["bytes_sent"], client["bytes_received"]) == (REQUEST, ANSWER)
        assert (server["bytes_sent"], server["bytes_received"]) == (ANSWER, REQUEST)
        assert client["comm"] == "python3"
        assert client["connect_us"] > 0
    (refused,) = (r for r in records if r["end_reason"] == "refused")
    assert refused["container_id"] == "shop"
    assert refused["role"] == "client"
    assert (refused["peer_address"], refused["peer_port"]) == (web_net.ipv6, 9)
    assert (refused["bytes_sent"], refused["bytes_received"]) == (0, 0)


def test_host_network_container_with_hook_is_its_own(exporter: Exporter, runc: Runc) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        connect_once(runc, "guest", port, hooks(exporter), listener)
        mine = exporter.await_record(lambda r: r["peer_port"] == port)
        host = exporter.await_record(lambda r: r["local_port"] == port)
    assert (mine["container_id"], mine["attributed_by"]) == ("guest", "cgroup")
    assert (host["workload"], host["workload_kind"]) == (os.uname().nodename, "host")
    assert host["attributed_by"] == "host"


@pytest.mark.parametrize("below", ["", "/slice/deeper", "/kubepods.slice"])
def test_host_network_container_without_hook_is_nobodys(exporter: Exporter, runc: Runc, below: str) -> None:
    """Until the walk finds it, and whatever cgroup below an engine's root it is in."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        cgroup = f"{runc.cgroup_root}{below}/unhooked"
        connect_once(runc, "unhooked", port, None, listener, cgroup=cgroup)
        record = exporter.await_record(lambda r: r["peer_port"] == port)
    assert record["workload"] is None
    assert record["workload_kind"] == "none"
    assert record["unattributed_reason"] == "unclaimed_container"


def test_container_from_before_the_exporter_is_found(exporter: Exporter, runc: Runc, tmp_path: Path) -> None:
    """By the walk: id, cgroup and namespace; and its flows are its own from then on."""
    exporter.stop()
    with Network() as net:
        web_net = net.namespace("web")
        web = runc.run("before", SERVER, netns=web_net.path)
        web.await_line("listening")
        exporter.start()
        # Marked by the program that stayed: for the length of a hook it is the hook's to claim.
        exporter.await_log("containers found")
        with web_net.entered(), socket.create_connection((web_net.ipv4, 8080)) as peer:
            peer.sendall(bytes(REQUEST))
            need = ANSWER
            while need:
                need -= len(peer.recv(need))
        record = exporter.await_record(lambda r: r["role"] == "server" and r["local_address"] == web_net.ipv4)
        stranger = exporter.await_record(
            lambda r: r["role"] == "client" and r["local_address"] == web_net.ipv4
        )
        assert record["cgroup_id"] == str(web.cgroup_id)
    assert (record["container_id"], record["attributed_by"]) == ("before", "cgroup")
    assert record["identity_source"] == "reconciled"
    # Our own process in the container's namespace is not the container.
    assert stranger["unattributed_reason"] == "foreign_process"


def connect_once(runc: Runc, name: str, port: int, hook: Any, listener: socket.socket, **bundle: Any) -> None:
    """One connection from a host-network container to a listener of our own; both ends close."""
    accepted = threading.Thread(target=lambda: listener.accept()[0].close())
    accepted.start()
    script = f"import socket; p = socket.create_connection(('127.0.0.1', {port})); p.recv(1); p.close()"
    assert runc.run(name, script, netns=HOST, hooks=hook, **bundle).wait() == 0
    accepted.join()
