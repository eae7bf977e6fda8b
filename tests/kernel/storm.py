# SPDX-License-Identifier: Apache-2.0
"""storm.c, built at test time and run in a namespace."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np

from exporter.ring import Columns
from tests.rig.network import Namespace

SOURCE = Path(__file__).with_name("storm.c")
THREADS = 2
_TRACED = re.compile(
    r"\s*(\S.*?-\d+)\s+\[.* sport=(\d+) dport=(\d+)"
    r" saddr=127\.0\.0\.(\d+) daddr=127\.0\.0\.(\d+) "
)


def build(directory: Path) -> Path:
    """Compile into `directory`; the path of the program."""
    program = directory / "storm"
    flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-pthread")
    subprocess.run(["clang", *flags, "-o", str(program), str(SOURCE)], check=True)
    return program


class Storm:
    """A storm under way; a context manager that ends it."""

    def __init__(self, program: Path, namespace: Namespace, connections: int, *, reuse: int = 1) -> None:
        # Packets of the loopback device are taken by another CPU than the sender's, where there is
        # one: its softirq then interrupts the programs, which makes the kernel skip events.
        steer = 'echo ffffffff > /sys/class/net/lo/queues/rx-0/rps_cpus 2>/dev/null; exec "$@"'
        arguments = (str(program), str(connections), str(THREADS), str(reuse))
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", namespace.name, "sh", "-c", steer, "sh", *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Storm:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def running(self) -> bool:
        return self._process.poll() is None

    def made(self) -> int:
        """Wait for its end; how many connections it made."""
        output, _ = self._process.communicate(timeout=120)
        assert self._process.returncode == 0
        return int(output)


class Witness:
    """The kernel's own trace of the storm's closes in other tasks than the storm's; a context manager.

    Machines exist whose kernel runs no BPF program while certain tasks of the platform are current
    (seen here: 0 of 6 events, with no recursion miss), so that a softirq which interrupts one is
    invisible to every program. The witness tells these closes from lost ones.
    """

    def __enter__(self) -> Witness:
        self._instance = Path(f"/sys/kernel/tracing/instances/flowtag-test-{os.getpid()}")
        self._instance.mkdir()
        event = self._instance / "events/sock/inet_sock_set_state"
        ports = " || ".join(f"{end} == {7001 + i}" for end in ("sport", "dport") for i in range(THREADS))
        rule = f'newstate == 7 && oldstate != 10 && ({ports}) && COMM != "storm"'
        (event / "filter").write_text(rule, encoding="ascii")
        (event / "enable").write_text("1", encoding="ascii")
        return self

    def __exit__(self, *_: object) -> None:
        self._instance.rmdir()

    def closes(self) -> dict[str, Counter[tuple[int, int, int, int]]]:
        """By task (name-pid): (last octet, port) of both ends of the sockets that were closed in it."""
        found: dict[str, Counter[tuple[int, int, int, int]]] = {}
        lines = (self._instance / "trace").read_text(encoding="utf-8").splitlines()
        for line in lines:
            match = _TRACED.match(line)
            if match:
                ports = (int(match[4]), int(match[2]), int(match[5]), int(match[3]))
                found.setdefault(match[1], Counter())[ports] += 1
        return found

    def unseen(self, records: Columns) -> int:
        """Closes without a record, in tasks in which no program saw any: print and count them."""
        recorded = Counter(
            zip(
                np.ascontiguousarray(records["local_address"]).view(np.uint8).reshape(-1, 16)[:, 15].tolist(),
                records["local_port"].tolist(),
                np.ascontiguousarray(records["peer_address"]).view(np.uint8).reshape(-1, 16)[:, 15].tolist(),
                records["peer_port"].tolist(),
                strict=True,
            )
        )
        unseen = 0
        for task, closes in self.closes().items():
            if not any(recorded[key] for key in closes):
                unseen += closes.total()
                print(f"no program runs in {task}: {closes.total()} closes unseen")
        return unseen
