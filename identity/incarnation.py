# SPDX-License-Identifier: Apache-2.0
"""One incarnation of a container as a file: live/ holds what was claimed, pending/ what could not be.

The file is named by a hash of bundle and container id, because ids repeat across engines. poststop
reads it to touch the keys of its own incarnation and no others; the exporter replays pending/.
"""

from __future__ import annotations

import posix
from _blake2 import blake2b

from identity import cgroup, strict_json
from identity.workload import Workload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
MAX_BYTES = 32768
_U64 = 1 << 64
_OWN = (
    "pid",
    "start_time",
    "cgroup",
    "cgroup_directory",
    "cgroup_parent",
    "cgroup_shared",
    "netns",
    "netns_flags",
    "blocks",
    "refused",
    "reason",
)


class Incarnation:
    """A workload with the process it began with and the keys it claims.

    pid and start_time (clock ticks) name the process; cgroup, cgroup_parent (ids) and netns
    (cookie) are 0 where there is no key; cgroup_shared is the cgroup of a container on the host's
    network that has none of its own; netns_flags go with the namespace's claim; blocks are the
    ports of shared addresses that it asked for and may have (identity/port_block.py), refused says
    which it did not get, or why none; reason says why a pending one is pending.
    """

    __slots__ = (*_OWN, "workload")

    pid: int
    start_time: int
    cgroup: int
    cgroup_directory: str
    cgroup_parent: int
    cgroup_shared: int
    netns: int
    netns_flags: int
    blocks: str
    refused: str
    reason: str

    def __init__(
        self,
        workload: Workload,
        *,
        pid: int = 0,
        start_time: int = 0,
        cgroup: int = 0,
        cgroup_directory: str = "",
        cgroup_parent: int = 0,
        cgroup_shared: int = 0,
        netns: int = 0,
        netns_flags: int = 0,
        blocks: str = "",
        refused: str = "",
        reason: str = "",
    ) -> None:
        self.workload = workload
        self.pid = pid
        self.start_time = start_time
        self.cgroup = cgroup
        self.cgroup_directory = cgroup_directory
        self.cgroup_parent = cgroup_parent
        self.cgroup_shared = cgroup_shared
        self.netns = netns
        self.netns_flags = netns_flags
        self.blocks = blocks
        self.refused = refused
        self.reason = reason

    def process_lives(self) -> bool:
        """Whether the very process that it began with still runs."""
        return self.pid > 0 and cgroup.start_time(self.pid) == self.start_time

    def lives(self) -> bool:
        """Whether its process runs, or any process in the cgroup that it claimed."""
        if self.process_lives():
            return True
        if not self.cgroup:
            return False
        try:  # the path may be another cgroup's by now
            same = cgroup.id_of(self.cgroup_directory) == self.cgroup
            return same and cgroup.populated(self.cgroup_directory)
        except (FileNotFoundError, ValueError):
            return False
        except OSError:
            return True  # cannot be reached; its removal ends the claim all the same

    def encode(self) -> bytes:
        return strict_json.encode_flat(
            {"version": VERSION}
            | {name: getattr(self.workload, name) for name in Workload.__slots__}
            | {name: getattr(self, name) for name in _OWN}
        )

    @classmethod
    def decode(cls, data: bytes) -> Incarnation:
        """Read what encode() wrote; ValueError for anything else."""
        values = strict_json.decode(data, MAX_BYTES)
        if not isinstance(values, dict) or values.pop("version", None) != VERSION:
            raise ValueError(f"not an incarnation of version {VERSION}")
        found = cls(Workload())
        names: dict[str, int | str] = {}
        for name, value in values.items():
            holder: object = found.workload if name in Workload.__slots__ else found
            wanted = int if isinstance(getattr(holder, name, None), int) else str
            if name not in _OWN + Workload.__slots__ or type(value) is not wanted:
                raise ValueError(f"an incarnation has no such {name}: {value!r:.50}")
            if isinstance(value, int) and not 0 <= value < _U64:
                raise ValueError(f"{name} is out of range: {value}")
            if holder is found:
                setattr(found, name, value)
            else:
                names[name] = value
        found.workload = Workload(**names)
        return found


def file_name(bundle: str, container_id: str) -> str:
    """The name of the file for a container, the same for all its incarnations."""
    whole = f"{bundle}\0{container_id}".encode("utf-8", "surrogatepass")
    return blake2b(whole, digest_size=16).hexdigest() + ".json"


def write(path: str, incarnation: Incarnation) -> None:
    """Write a file whole or not at all; its directory is made if need be, for root only."""
    directory, _, name = path.rpartition("/")
    make_directory(directory)
    temporary = f"{directory}/.{name}.{posix.getpid()}"
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC | posix.O_NOFOLLOW
    fd = posix.open(temporary, flags, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(incarnation.encode())
        posix.rename(temporary, path)
    except OSError:
        posix.unlink(temporary)
        raise


def make_directory(directory: str) -> None:
    """Make a directory below the run directory, and that one too."""
    try:
        posix.mkdir(directory, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        posix.mkdir(directory.rpartition("/")[0], 0o700)
        posix.mkdir(directory, 0o700)


def read(path: str) -> Incarnation | None:
    """The incarnation in a file; None if there is none, ValueError if it is not readable as one."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with open(fd, "rb", buffering=0) as file:
        return Incarnation.decode(file.read(MAX_BYTES + 1) or b"")


def remove(path: str) -> None:
    """Remove a file, if it is there."""
    try:
        posix.unlink(path)
    except FileNotFoundError:
        return  # twice is once


def forget(path: str, old: Incarnation) -> None:
    """Remove a file that still speaks of `old`; a later incarnation's stays.

    The file is taken away before it is looked at: whoever writes meanwhile writes a new one.
    """
    directory, _, name = path.rpartition("/")
    taken = f"{directory}/.{name}.{posix.getpid()}.old"
    try:
        posix.rename(path, taken)
    except FileNotFoundError:
        return  # twice is once
    try:
        found = read(taken)
    except ValueError:
        found = None  # damaged: it speaks of nobody
    if found is not None and found.workload.id != old.workload.id:
        try:
            posix.link(taken, path)
        except FileExistsError:
            found = None  # and there is one that is later still
    posix.unlink(taken)


def every(directory: str) -> Iterator[tuple[str, Incarnation]]:
    """Each readable incarnation of a directory with its file name; damaged ones are passed over."""
    try:
        names = posix.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        if name.endswith(".json"):
            try:
                found = read(f"{directory}/{name}")
            except (OSError, ValueError):
                continue
            if found is not None:
                yield name, found
