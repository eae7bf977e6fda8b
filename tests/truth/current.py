# SPDX-License-Identifier: Apache-2.0
"""The harness's own BPF program, current.bpf.c: the current task's cgroup at every close."""

from __future__ import annotations

import os
import struct
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bpf import build, libbpf
from bpf.syscall import Map
from identity.address import to_text
from tests.truth.log import Address

SOURCE = Path(__file__).with_name("current.bpf.c")
_CLOSE = struct.Struct("=QQQ16s16sHHI")  # struct current_close


@dataclass(frozen=True, slots=True)
class Close:
    """One close: when, which socket, and the cgroup v2 id of the task that was running."""

    time: int
    netns: int
    local: Address
    peer: Address
    cgroup_id: int


class Current:
    """The program, attached for the length of a `with`; its pins are in `pins`, which must not exist."""

    def __init__(self, directory: Path, pins: Path) -> None:
        self._object = directory / "current.bpf.o"
        self._pins = pins

    def __enter__(self) -> Current:
        build.build(self._object, SOURCE)
        self._pins.mkdir(mode=0o700)
        self._bpf = libbpf.Object(str(self._object))
        try:
            self._bpf.load()
            self._bpf.attach("current_state", str(self._pins / "link"))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bpf.close()
        (self._pins / "link").unlink(missing_ok=True)
        self._pins.rmdir()

    def closes(self, spaces: Set[int]) -> list[Close]:
        """Those in these network namespaces so far, in order of time."""
        with Map(os.dup(self._bpf.map_fd("current_close")), "current_close") as seen:
            values = [_CLOSE.unpack(value) for _, value in seen.items()]
        return sorted(
            (
                Close(time, netns, (to_text(local), local_port), (to_text(peer), peer_port), cgroup_id)
                for time, netns, cgroup_id, local, peer, local_port, peer_port, _ in values
                if netns in spaces
            ),
            key=lambda close: close.time,
        )
