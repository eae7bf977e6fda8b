# SPDX-License-Identifier: Apache-2.0
"""Several IPv6-only containers behind one IPv4 address, by a real interceptor: who owned each connection.

Only the traffic says who it was: each container writes its nonce into every connection, the far end logs
address, port and nonce, and the records are compared with that log.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from identity import translation
from identity.pinned import open_map
from tests.rig.exporter import Record
from tests.rig.interceptor import by_port, in_block, not_at_all
from tests.rig.shared_address import FLOWS_OF_SIX, PORT, REFUSED_OF_SIX, Shared

FLOWS = FLOWS_OF_SIX + REFUSED_OF_SIX

# What a program has set on its socket must be there after connect() too.
OPTIONS = """
import fcntl, json, socket, struct, sys
server, port, closed, nonce, period = json.loads(sys.stdin.readline())
S, T, I, V = socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6
WANTED = [
    (S, socket.SO_KEEPALIVE, 1), (S, socket.SO_REUSEADDR, 1), (S, socket.SO_RCVBUF, 54321),
    (S, socket.SO_SNDBUF, 65432), (S, socket.SO_LINGER, struct.pack("ii", 1, 7)),
    (S, socket.SO_RCVTIMEO, struct.pack("qq", 9, 0)), (T, socket.TCP_NODELAY, 1),
    (T, socket.TCP_USER_TIMEOUT, 12345), (T, socket.TCP_KEEPIDLE, 77), (T, socket.TCP_KEEPINTVL, 11),
    (T, socket.TCP_KEEPCNT, 3), (T, socket.TCP_CONGESTION, b"reno"), (I, socket.IP_TOS, 0x20),
    (I, socket.IP_TTL, 33),
]
def look(made, wanted):
    options = [made.getsockopt(level, name, 16).hex() for level, name, _ in wanted]
    flags = [fcntl.fcntl(made, command) for command in (fcntl.F_GETFD, fcntl.F_GETFL)]
    cookies = [int.from_bytes(made.getsockopt(S, name, 8), "little") for name in (57, 71)]
    return [made.family, made.fileno(), *flags, options], cookies
print("ready", flush=True)
sys.stdin.readline()
for family, blocking, close_on_exec in (
    (socket.AF_INET, True, True), (socket.AF_INET, False, False), (socket.AF_INET6, True, False)
):
    wanted = WANTED + ([(V, socket.IPV6_TCLASS, 0x40)] if family == socket.AF_INET6 else [])
    with socket.socket(family) as made:
        made.setblocking(blocking)
        made.set_inheritable(not close_on_exec)
        for level, name, value in wanted:
            made.setsockopt(level, name, value)
        before = look(made, wanted)
        made.connect_ex((("::ffff:" if family == socket.AF_INET6 else "") + server, port))
        after = look(made, wanted)
        made.setblocking(True)
        made.sendall(nonce.encode() + b"\\n")
        assert made.recv(3) == b"ok\\n"
        print("looked", json.dumps([before, after]), flush=True)
"""


@pytest.fixture
def shared(tmp_path: Path, pin_directory: Path) -> Iterator[Shared]:
    with Shared(tmp_path, pin_directory) as shared:
        yield shared


def outcome(record: Record) -> tuple[Any, ...]:
    return record["container_id"], record["attributed_by"], record["unattributed_reason"]


def not_theirs(truth: list[tuple[str, Record]], rules: dict[str, str]) -> list[Any]:
    """Records that are not attributed to who their traffic said it was, by that one's rule."""
    return [(who, outcome(r)) for who, r in truth if outcome(r) != (who, rules[who], None)]


def left(pins: Path) -> int:
    """Publications that the kernel has not taken."""
    with open_map("ft_socket", str(pins)) as sockets, open_map("ft_port", str(pins)) as ports:
        return len([*sockets.items(), *ports.items()])


def goes_to(peer: str, port: int, record: Record) -> bool:
    return (record["peer_address"], record["peer_port"]) == (peer, port)


def test_three_containers_behind_one_address_own_their_connections(shared: Shared) -> None:
    rounds = 20
    rules = dict.fromkeys(("red", "green", "blue"), "socket")
    clients = [shared.client(name) for name in rules]
    for client in clients:
        client.say(str(6 * rounds))
    for client in clients:
        done = client.await_line("done", 60)
        assert int(done.split()[2]) > 10  # the signal did come
    records = shared.records(3 * rounds * FLOWS)
    assert not_theirs(shared.truth(records), rules) == []
    assert {r["identity_source"] for r in records} == {"hook"}
    assert Counter(r["end_reason"] for r in records)["refused"] == 3 * rounds * REFUSED_OF_SIX
    made = shared.interceptor.made
    assert Counter(m.container for m in made) == dict.fromkeys(rules, 6 * rounds)  # one a socket
    median = statistics.median(m.seconds for m in made)
    print(f"\n{len(made)} sockets swapped; a connect waited {median * 1e3:.2f} ms (median) for it")
    assert left(shared.exporter.pin_directory) == 0


def test_signals_in_the_middle_of_the_swap(shared: Shared) -> None:
    rounds = 40
    client = shared.client("red", period=0.003)
    client.say(str(6 * rounds))
    client.await_line("done", 60)
    records = shared.records(rounds * FLOWS)
    assert not_theirs(shared.truth(records), {"red": "socket"}) == []
    print(f"\n{shared.interceptor.interrupted} calls interrupted")
    assert shared.interceptor.interrupted > 0
    assert left(shared.exporter.pin_directory) == 0


def test_published_by_port_and_claimed_as_a_block(shared: Shared) -> None:
    rounds = 10
    rules = {"red": "port", "green": "block", "grey": "block", "blue": "socket"}
    ports = {"green": (32768, 33791), "grey": (33792, 34291)}
    shared.interceptor.ways["red"] = by_port
    clients = [shared.client(name, ports=ports.get(name)) for name in rules]
    for client in clients:
        client.say(str(6 * rounds))
    for client in clients:
        client.await_line("done", 60)
    records = shared.records(len(rules) * rounds * FLOWS)
    assert not_theirs(shared.truth(records), rules) == []
    assert left(shared.exporter.pin_directory) == 0


def test_block_that_meets_anothers_is_refused(shared: Shared) -> None:
    green, grey = shared.client("green", ports=(33000, 33999)), shared.client("grey", ports=(33500, 34499))
    shared.interceptor.ways["grey"] = in_block(34000, 34499)  # where only it wanted to be
    for client in (green, grey):
        client.say("6")
        client.await_line("done")
    for who, record in shared.truth(shared.records(2 * FLOWS)):
        wanted = ("green", "block", None) if who == "green" else (None, "none", "unpublished")
        assert outcome(record) == wanted
    green.kill()
    green.wait()
    again = shared.client("blue", ports=(33000, 34499))  # free again
    again.say("6")
    again.await_line("done")
    truth = shared.truth(shared.records(3 * FLOWS))
    assert not_theirs([entry for entry in truth if entry[0] == "blue"], {"blue": "block"}) == []


def test_withheld_and_late_publications_are_nobodys(shared: Shared) -> None:
    shared.interceptor.ways["grey"] = not_at_all
    red, grey = shared.client("red"), shared.client("grey")
    publisher = shared.interceptor.publisher
    for late in (False, True):
        grey.say("hold")
        grey.await_line("held late" if late else "held early")
        red.say("6")
        if late:  # after ESTABLISHED
            (*_, made) = (m for m in shared.interceptor.made if m.container == "grey")
            translation.publish_socket(publisher.sockets, made.cookie, publisher.workload("grey"))
        grey.say("late")
        red.await_line("done")
    truth = shared.truth(shared.records(2 * FLOWS + 2))
    assert not_theirs([entry for entry in truth if entry[0] == "red"], {"red": "socket"}) == []
    assert [outcome(r) for who, r in truth if who == "grey"] == [(None, "none", "unpublished")] * 2


def test_options_and_flags_of_the_socket_stay(shared: Shared) -> None:
    client = shared.client("red", OPTIONS)
    client.say("")
    assert client.wait() == 0
    looks = [json.loads(line[7:]) for line in client.output.splitlines() if line.startswith("looked")]
    made = shared.interceptor.made
    assert len(looks) == len(made) == 3
    for ((before, old), (after, new)), swapped in zip(looks, made, strict=True):
        assert after == before
        assert new == [swapped.cookie, shared.interceptor.publisher.netns]
        assert old[0] != new[0]
        assert old[1] != new[1]
    assert not_theirs(shared.truth(shared.records(3)), {"red": "socket"}) == []


def test_process_of_runc_exec_is_the_container(shared: Shared) -> None:
    shared.client("red")
    code = f"import socket; socket.create_connection(({shared.server.ipv4!r}, {PORT})).close()"
    shared.runc.call("exec", "red", "/usr/bin/python3", "-c", code)
    assert [outcome(r) for r in shared.records(1)] == [("red", "socket", None)]


def test_ipv6_and_loopback_of_the_container_are_left_alone(shared: Shared) -> None:
    shared.client("red")
    code = (
        "import socket; listener = socket.create_server(('127.0.0.1', 4321));"
        "socket.create_connection(('127.0.0.1', 4321)).close();"
        f"socket.socket(socket.AF_INET6).connect_ex(({shared.server.ipv6!r}, {PORT}))"
    )
    shared.runc.call("exec", "red", "/usr/bin/python3", "-c", code)
    for peer, port in (("127.0.0.1", 4321), (shared.server.ipv6, PORT)):
        record = shared.exporter.await_record(partial(goes_to, peer, port))
        assert outcome(record) == ("red", "cgroup", None)
    assert shared.interceptor.made == []
