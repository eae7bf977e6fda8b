# SPDX-License-Identifier: Apache-2.0
"""The host's identities as the kernel programs know them: which one a socket gets by when it opened.

Shared memory (struct ft_state), read on every CPU while it is written here, without a lock.
"""

from __future__ import annotations

import mmap
import os
import time

from bpf import abi
from bpf.libbpf import Word

LEAD_NS = 500_000_000
"""So long after it is announced an identity comes into force, so that no socket that opens then is missed."""
_HOST = 32  # offset of ft_state.host
_LAST = 0  # of host_last


class HostHistory:
    """Written by one exporter only. A change is exact: by the nanosecond of a socket's opening."""

    def __init__(self, state: mmap.mmap) -> None:
        self._last = Word(state, _LAST)
        self._slots = [
            (Word(state, at), Word(state, at + 8))
            for at in range(_HOST, _HOST + abi.HOST_MAX * abi.HOST.size, abi.HOST.size)
        ]

    def begin(self, workload: int, since: int = 0) -> None:
        """The first identity of this exporter's life, before its programs are attached. 0: not known."""
        self._last.set(0)
        identity, when = self._slots[0]
        identity.set(workload)
        when.set(since)

    def current(self) -> int:
        """The workload that was announced last."""
        return self._slots[self._last.get() % abi.HOST_MAX][0].get()

    def succeed(self, workload: int, since: int) -> bool:
        """`workload` is the host for sockets that open at `since` or later, in CLOCK_BOOTTIME ns.

        False, and nothing has changed yet, if that time is so near that some such socket may have been
        looked up already: to be called again with a later one.
        """
        last = self._last.get()
        if self.current() != workload or self._slots[last % abi.HOST_MAX][1].get() != abi.HOST_NEVER:
            last += 1
            identity, when = self._slots[last % abi.HOST_MAX]
            when.set(abi.HOST_NEVER)
            identity.set(workload)
            os.sched_yield()  # what was stored is seen on every CPU before what follows
            self._last.set(last)
        if now() > since - LEAD_NS // 2:
            return False
        self._slots[last % abi.HOST_MAX][1].set(since)
        return True


def now() -> int:
    """The clock of sockets' openings."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
