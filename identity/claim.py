# SPDX-License-Identifier: Apache-2.0
"""Claims on the keys of ft_cgroup and ft_netns: how a key gets its owner, and how that ends.

A direct claim replaces UNCLAIMED, an inherited owner, an ended claim and our own. Two living direct
claims on a cgroup make it CONTESTED: nobody's. What the exporter found by itself (reconciled) gives
way to the same container's hook, and never contests a claim. A network namespace is shared by design
(a pod's), so there the first claim stays, except where the namespace alone tells the owner.

Everybody who replaces such a key holds the flock of the key's stripe, so of two who claim at once one
sees the other. The kernel's own writes (mkdir, rmdir) take no lock: a claim on a new cgroup meets
NOEXIST, and one on a cgroup that is being removed is ended by the hook, which looks last whether
its process still lives. A key is only ever replaced, never deleted and written again.
"""

from __future__ import annotations

import fcntl
import posix
import time

from bpf import abi, syscall
from bpf.error import FlowtagError
from identity.workload import Workload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

STRIPES = 64
LOCK_SECONDS = 0.1

CLAIMED = "claimed"
CONTESTED = "contested"
KEPT = "kept"  # another's by right: a shared namespace's first owner's, a translator's

CONTAINER_NETNS = abi.NETNS_KINDS.index("container")


class Stripe:
    """The lock of a key, held for the length of a `with`; FlowtagError if it is not had in time."""

    __slots__ = ("fd", "path")

    def __init__(self, directory: str, key: int) -> None:
        self.path = f"{directory}/{key % STRIPES:02x}"
        self.fd = -1

    def __enter__(self) -> None:
        flags = posix.O_RDONLY | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NOFOLLOW
        self.fd = posix.open(self.path, flags, 0o600)
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    posix.close(self.fd)
                    raise FlowtagError(
                        f"locking {self.path}: held by another for more than {LOCK_SECONDS} s"
                    ) from error
                time.sleep(0.001)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        posix.close(self.fd)


class Claim:
    """The value of a key: who owns it, since and until when (0: still), and the flags."""

    __slots__ = ("flags", "kind", "since", "until", "workload")

    def __init__(self, workload: int, since: int, until: int = 0, flags: int = 0, kind: int = 0) -> None:
        self.workload = workload
        self.since = since
        self.until = until
        self.flags = flags
        self.kind = kind  # of an ft_netns entry; ft_cgroup has none

    @classmethod
    def unpack(cls, value: bytes) -> Claim:
        """Read a value of ft_cgroup or ft_netns; their sizes tell which."""
        return cls(*(abi.NETNS if len(value) == abi.NETNS.size else abi.OWNER).unpack(value))

    def pack(self) -> bytes:
        if self.kind:
            return abi.NETNS.pack(self.workload, self.since, self.until, self.flags, self.kind)
        return abi.OWNER.pack(self.workload, self.since, self.until, self.flags)

    def yields_to(self, workload: int, replaces: int) -> bool:
        """Whether a direct claim by `workload` replaces this one without a contest."""
        return (
            self.workload in (workload, replaces, abi.OWNER_NONE, abi.OWNER_UNCLAIMED)
            or self.until != 0
            or self.flags & abi.FLAG_INHERITED != 0
        )


def claim_cgroup(cgroups: syscall.Map, cgroup: int, new: Claim, locks: str, replaces: int = 0) -> str:
    """Claim a cgroup: CLAIMED, CONTESTED, or KEPT if it is a translator's.

    replaces is what found() gave: the exporter's own finding of this container, which yields.
    """
    return _claim(cgroups, cgroup, new, locks, shared=False, replaces=replaces)


def found(workloads: syscall.Map, cgroups: syscall.Map, cgroup: int, container_id: str) -> int:
    """The workload under which the exporter had found this very container, before its hook; else 0."""
    value = cgroups.get(abi.ID.pack(cgroup))
    if value is None:
        return 0
    claim = Claim.unpack(value)
    if not claim.flags & abi.FLAG_RECONCILED or claim.flags & abi.FLAG_INHERITED:
        return 0
    known = workloads.get(abi.ID.pack(claim.workload))
    if known is None or Workload.unpack(known).container_id != container_id:
        return 0
    return claim.workload


def claim_netns(spaces: syscall.Map, netns: int, new: Claim, locks: str, replaces: int = 0) -> str:
    """Claim a network namespace as a container's: CLAIMED, KEPT by whoever was first, or CONTESTED.

    Only a claim with FLAG_NO_CGROUP contests: two workloads whose sockets nothing else tells apart.
    replaces is as in claim_cgroup().
    """
    new.kind = CONTAINER_NETNS
    shared = not new.flags & abi.FLAG_NO_CGROUP
    return _claim(spaces, netns, new, locks, shared=shared, replaces=replaces)


def _claim(keys: syscall.Map, number: int, new: Claim, locks: str, *, shared: bool, replaces: int) -> str:
    key = abi.ID.pack(number)
    # Without the lock, which a stopped process may hold: the kernel lets one of many do this.
    if _insert(keys, key, new):
        return CLAIMED
    with Stripe(locks, number):
        while (value := keys.get(key)) is None:  # collected since
            if _insert(keys, key, new):
                return CLAIMED
        old = Claim.unpack(value)
        if not old.yields_to(new.workload, replaces):
            if shared or old.kind != new.kind or old.workload == abi.OWNER_TRANSLATOR:
                return KEPT
            if new.flags & abi.FLAG_RECONCILED:
                return KEPT
            new = Claim(abi.OWNER_CONTESTED, new.since, 0, new.flags, new.kind)
        keys.update(key, new.pack())
        return CONTESTED if new.workload == abi.OWNER_CONTESTED else CLAIMED


def _insert(keys: syscall.Map, key: bytes, new: Claim) -> bool:
    """Write a key that is not there; False if it is."""
    try:
        keys.update(key, new.pack(), syscall.NOEXIST)
    except FileExistsError:
        return False
    return True


def inherit(cgroups: syscall.Map, cgroup: int, parent: Claim, locks: str) -> Claim:
    """Let a cgroup follow the claim on its parent, also into its end; returns the claim that stands.

    As the kernel does at mkdir, for cgroups that were there already. A direct claim follows nobody.
    """
    key = abi.ID.pack(cgroup)
    mine = Claim(parent.workload, parent.since, parent.until, parent.flags | abi.FLAG_INHERITED)
    with Stripe(locks, cgroup):
        while (value := cgroups.get(key)) is None:
            if _insert(cgroups, key, mine):
                return mine
        old = Claim.unpack(value)
        follows = old.flags & abi.FLAG_INHERITED or old.workload == abi.OWNER_UNCLAIMED
        if not follows or (old.workload, not old.until) == (parent.workload, not parent.until):
            return old
        cgroups.update(key, mine.pack())
    return mine


def mark_shared(cgroups: syscall.Map, cgroup: int, now: int, locks: str) -> None:
    """Say that a container on the host's network runs in a cgroup that is not its own.

    Nothing tells its sockets from those of the host beside it: nobody's, until the exporter finds no
    such container there any more.
    """
    key = abi.ID.pack(cgroup)
    mark = Claim(abi.OWNER_UNCLAIMED, now, 0, abi.FLAG_NO_CGROUP)
    if _insert(cgroups, key, mark):
        return
    with Stripe(locks, cgroup):
        value = cgroups.get(key)
        if value is None or Claim.unpack(value).until:
            cgroups.update(key, mark.pack())


def release(keys: syscall.Map, number: int, workload: int, now: int, locks: str) -> bool:
    """End the claim of `workload` on a key; False if the key is not, or no longer, its own."""
    key = abi.ID.pack(number)
    with Stripe(locks, number):
        value = keys.get(key)
        if value is None:
            return False
        claim = Claim.unpack(value)
        if claim.workload != workload or claim.until != 0:
            return False
        claim.until = now
        try:
            keys.update(key, claim.pack(), syscall.EXIST)
        except FileNotFoundError:  # collected meanwhile: it has ended all the same
            return False
        return True
