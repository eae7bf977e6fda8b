# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.demo`: throw-away containers that make connections, for ./run to show.

Waits for the exporter, then three times: a container `demo-web-...` that serves and a container
`demo-shop-...` that connects to it, each in a network namespace of its own, both started by runc
through the OCI hook. shop sends 1000 bytes over IPv4 and gets 5000, the same over IPv6, and is
refused once. The host then talks to itself. Everything is gone again at the end, also after SIGINT
and SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from bpf.error import FlowtagError
from exporter import config, config_file
from tests.rig.container import Runc
from tests.rig.exporter import flowtag, is_up
from tests.rig.network import Network

ROUNDS = 3
PAUSE = 5.0
PATIENCE = 30.0

WEB = """
import socket
server = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening")
for _ in range(2):
    connection, _ = server.accept()
    wanted = 1000
    while wanted:
        wanted -= len(connection.recv(wanted))
    connection.sendall(bytes(5000))
    connection.close()
"""

SHOP = """
import socket
ipv4, ipv6 = input().split()
for address in (ipv4, ipv6):
    with socket.create_connection((address, 80), 5) as connection:
        connection.sendall(bytes(1000))
        while connection.recv(4096):
            pass
try:
    socket.create_connection((ipv4, 81), 5)
except ConnectionRefusedError:
    pass
"""


def wait_until_up(host: config.Host, stop: threading.Event) -> bool:
    """Wait for the exporter; False if it did not come, or the demo is to stop."""
    deadline = time.monotonic() + PATIENCE
    while not is_up(Path(host.pin_directory), Path(host.run_directory)):
        if stop.wait(0.05):
            return False
        if time.monotonic() > deadline:
            print("demo: the exporter does not come up", file=sys.stderr)
            return False
    return True


def hooks_object(run_directory: str) -> dict[str, Any]:
    """The `hooks` object for a bundle, as `flowtag register` prints it."""
    text = flowtag("register", "--runtime", "runc", "--print", "--run-directory", run_directory)
    hooks: dict[str, Any] = json.loads(text)
    return hooks


def play(runc: Runc, net: Network, hooks: dict[str, Any]) -> None:
    """One round: web serves, shop buys, both end."""
    tag = secrets.token_hex(3)
    web_id, shop_id = f"demo-web-{tag}", f"demo-shop-{tag}"
    there, here = net.namespace(web_id), net.namespace(shop_id)
    web = runc.run(web_id, WEB, cgroup=f"/runc/flowtag-{web_id}", netns=there.path, hooks=hooks)
    shop = runc.run(shop_id, SHOP, cgroup=f"/runc/flowtag-{shop_id}", netns=here.path, hooks=hooks)
    web.await_line("listening")
    print(f"demo: {shop_id} ({here.ipv4}) connects to {web_id} ({there.ipv4})", file=sys.stderr)
    shop.say(f"{there.ipv4} {there.ipv6}")
    for container in (shop, web):
        if container.wait(10):
            print(f"demo: {container.id} failed: {container.output}", file=sys.stderr)


def talk_to_ourselves() -> None:
    """One connection of the host's own, on its loopback, to stand beside the containers'."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        server, _ = listener.accept()
        with server:
            client.sendall(bytes(100))
            server.recv(100)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description="See ./run --help.")
    parser.add_argument("--config", metavar="FILE")
    args = parser.parse_args()
    stop = threading.Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()  # looked at between rounds, so that nothing half made is forgotten

    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, ask_to_stop)
    try:
        host = config_file.load(args.config).host
        if not wait_until_up(host, stop):
            return 0 if stop.is_set() else 1
        hooks = hooks_object(host.run_directory)
        with tempfile.TemporaryDirectory(prefix="flowtag-demo-") as directory:
            for number in range(ROUNDS):
                if stop.wait(PAUSE if number else 0):
                    break
                with Network() as net, Runc(Path(directory, str(number))) as runc:
                    play(runc, net, hooks)
                talk_to_ourselves()
    except (
        FlowtagError,
        RuntimeError,
        AssertionError,
        OSError,
        subprocess.SubprocessError,
    ) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
