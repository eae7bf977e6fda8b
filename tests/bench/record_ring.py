# SPDX-License-Identifier: Apache-2.0
"""Record what the real programs put into the ring: `python -m tests.bench.record_ring FILE`.

Twelve namespaces stand for containers: three of them serve, nine connect to those, 500 times a second
together, with requests and answers of all sizes and some that wait. FILE holds whole strides of the
ring, both ends of each flow; owners are made up, one for each namespace.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from exporter.ring import DTYPE, Columns
from tests.rig.kernel import Watch
from tests.rig.network import Namespace, Network

SERVERS, CLIENTS, RATE = 3, 9, 500

_SERVER = """
import asyncio
async def serve(reader, writer):
    wanted = await reader.readline()
    if wanted:
        size, wait = wanted.split(b" ")[:2]
        await asyncio.sleep(float(wait))
        writer.write(bytes(int(size)))
        await writer.drain()
    writer.close()
async def main():
    for port in (80, 443, 8080):
        await asyncio.start_server(serve, "::", port)
    print("up", flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""

_CLIENT = """
import asyncio, random, sys
addresses, rate, seconds = sys.argv[1].split(","), float(sys.argv[2]), float(sys.argv[3])
async def ask():
    try:
        port = random.choice((80, 443, 443, 8080, 81))
        reader, writer = await asyncio.open_connection(random.choice(addresses), port)
        size, wait = int(random.lognormvariate(8, 2)), random.choice((0, 0, 0, 0.01, 0.1, 2))
        writer.write(b"%d %f " % (size, wait) + bytes(int(random.lognormvariate(6, 1))) + b"\\n")
        while await reader.read(65536):
            pass
        writer.close()
    except OSError:
        pass
async def main():
    loop = asyncio.get_running_loop()
    end, tasks = loop.time() + seconds, set()
    while loop.time() < end:
        task = asyncio.create_task(ask())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(random.expovariate(rate))
    await asyncio.gather(*tasks)
asyncio.run(main())
"""


def _start(namespace: Namespace, program: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = namespace.command(sys.executable, "-c", program, *arguments)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def record(seconds: float) -> Columns:
    """The records of `seconds` of traffic."""
    with Network() as network, Watch() as watch:
        servers = [network.namespace(f"server{i}") for i in range(SERVERS)]
        clients = [network.namespace(f"client{i}") for i in range(CLIENTS)]
        running = [_start(namespace, _SERVER) for namespace in servers]
        for process in running:
            assert process.stdout
            process.stdout.readline()
        addresses = ",".join(a for s in servers for a in (s.ipv4, s.ipv6))
        asking = [_start(c, _CLIENT, addresses, str(RATE / CLIENTS), str(seconds)) for c in clients]
        while any(process.poll() is None for process in asking):
            watch.drain()
            time.sleep(0.1)
        for process in running:
            process.kill()
            process.wait()
        watch.settle()
        taken = watch.columns(*servers, *clients)
    records = np.zeros(len(taken), DTYPE)  # numpy packs what it concatenates
    records[:] = taken
    chosen = random.Random(7)  # noqa: S311 - names in a bench
    for cookie in np.unique(records["netns"]):
        records["owner"][records["netns"] == cookie] = chosen.getrandbits(64)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=62)
    args = parser.parse_args()
    records = record(args.seconds)
    args.file.write_bytes(records.tobytes())
    span = (int(records["time_end"].max()) - int(records["time_end"].min())) / 1e9
    print(f"{len(records)} records in {span:.1f} s, {len(records) / span:.0f} a second")


if __name__ == "__main__":
    main()
