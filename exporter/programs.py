# SPDX-License-Identifier: Apache-2.0
"""The kernel side's life: create the maps, load and attach the programs, take over from older ones.

Maps and links are pinned, so sockets that close while no exporter runs are still reported. A new
version attaches its programs first and unlinks the old ones then: for a moment both run, and the
closed bit in ft_flow lets only one of them report (the other order lost a third of the closes).
"""

from __future__ import annotations

import contextlib
import grp
import os
import struct
from dataclasses import dataclass

from bpf import abi, libbpf, syscall
from bpf import loaded as pinned
from bpf.error import FlowtagError
from exporter import namespaces
from exporter.host_history import HostHistory
from identity.pinned import open_map

OBJECT = os.path.join(os.path.dirname(os.path.abspath(libbpf.__file__)), "flow.bpf.o")
# In the order of attachment: ft_cgroup must follow the tree before it is walked, and the walk must be
# done before owners are looked up.
CGROUP_PROGRAMS = ("flowtag_mkdir", "flowtag_rmdir")
FLOW_PROGRAMS = ("flowtag_destroy", "flowtag_state")
SHOW = "flowtag_show"  # of those who look: `flowtag top`
GROUP = "flowtag"


@dataclass(frozen=True, slots=True)
class Knobs:
    """What the programs are told when they are loaded (struct ft_config).

    host_netns is the network namespace cookie of process 1; roots are (cgroup name, is a prefix);
    activators are the names of processes whose listeners belong to others, activator_cgroups the ids of
    the cgroups that they run in.
    """

    host_netns: int
    host_needs_claim: bool
    roots: tuple[tuple[str, bool], ...]
    activators: tuple[str, ...]
    activator_cgroups: tuple[int, ...] = ()

    def pack(self) -> bytes:
        """struct ft_config; FlowtagError where a list or a name is too long."""
        data = abi.CONFIG_HEAD.pack(self.host_netns, self.host_needs_claim, len(self.roots))
        if max(len(self.roots), len(self.activators)) > abi.ROOT_MAX:
            raise FlowtagError(f"[host] names more than {abi.ROOT_MAX} engine roots or activators")
        for name, prefix in self.roots:
            raw = name.encode()
            if not 0 < len(raw) < abi.ROOT.size - 8:
                raise FlowtagError(f"[host] engine root {name!r} must have 1 to 31 bytes")
            data += abi.ROOT.pack(raw, len(raw), prefix)
        data += bytes(abi.ROOT.size * (abi.ROOT_MAX - len(self.roots)))
        for name in self.activators:
            data += name.encode()[: abi.COMM_LEN - 1].ljust(abi.COMM_LEN, b"\0")
        data += bytes(abi.COMM_LEN * (abi.ROOT_MAX - len(self.activators)))
        cgroups = self.activator_cgroups[: abi.ROOT_MAX]
        data += struct.pack(f"={abi.ROOT_MAX}Q", *cgroups, *(0,) * (abi.ROOT_MAX - len(cgroups)))
        return data + struct.pack("=II", len(self.activators), len(cgroups))


def _own(path: str, mode: int) -> None:
    """Root's, readable by the group flowtag where there is one, nothing for others."""
    os.chmod(path, mode)
    with contextlib.suppress(KeyError):
        os.chown(path, 0, grp.getgrnam(GROUP).gr_gid)


def _directory(path: str) -> None:
    try:
        os.makedirs(path, mode=0o750, exist_ok=True)
        _own(path, 0o750)
    except OSError as error:
        raise FlowtagError(
            f"making the pin directory {path}: {error.strerror}",
            "run as root; is a bpf file system mounted? (mount -t bpf bpf /sys/fs/bpf)",
        ) from None


def _check_layout(directory: str) -> None:
    """Refuse maps of another layout; libbpf would compare less, and say less."""
    for name in abi.MAPS:
        if os.path.exists(os.path.join(directory, name)):
            open_map(name, directory).close()


def _open(directory: str, ring_bytes: int, object_path: str) -> libbpf.Object:
    _directory(directory)
    _check_layout(directory)
    loaded = libbpf.Object(object_path)
    for name in abi.MAPS:
        path = os.path.join(directory, name)
        loaded.pin_map_at(name, path)
        if name == "ft_events":
            if os.path.exists(path):
                with open_map(name, directory) as ring:
                    ring_bytes = ring.max_entries
            loaded.set_max_entries(name, ring_bytes)
    return loaded


def create_maps(
    directory: str = abi.PIN_DIRECTORY, ring_bytes: int = 16 << 20, object_path: str = OBJECT
) -> list[str]:
    """Create and pin what is missing of the maps; returns the names of those that were made."""
    made = [name for name in abi.MAPS if not os.path.exists(os.path.join(directory, name))]
    if made:
        with _open(directory, ring_bytes, object_path) as loaded:
            for name in loaded.programs:
                loaded.skip_program(name)
            loaded.load()
    _directory(directory)
    for name in abi.MAPS:
        _own(os.path.join(directory, name), 0o660)
    return made


class Programs:
    """The loaded programs, with the state they share with the exporter. A context manager.

    Leaving it does not stop them: their links are pinned.
    """

    def __init__(
        self,
        knobs: Knobs,
        directory: str = abi.PIN_DIRECTORY,
        ring_bytes: int = 16 << 20,
        object_path: str = OBJECT,
    ) -> None:
        create_maps(directory, ring_bytes, object_path)
        self.directory = directory
        self._object = _open(directory, ring_bytes, object_path)
        self._object.skip_program(SHOW)
        self._object.write(".rodata", knobs.pack())
        self._object.load()
        state = self._object.share(".bss")
        self.host = HostHistory(state)
        self.gaps = libbpf.Word(state, 8)
        self._gaps_closed = libbpf.Word(state, 16)
        self._open_flows = libbpf.Word(state, 24)
        self._interim_before = libbpf.Word(state, 160)
        self._gaps_closed.set((1 << 64) - 1)  # nothing was walked yet: degraded

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, *_: object) -> None:
        self._object.close()

    def attach(self, names: tuple[str, ...]) -> None:
        """Attach new links beside the old ones, then put them in the old ones' place."""
        for name in names:
            path = link_path(self.directory, name)
            new = path + "_new"  # a bpf file system refuses dots
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            self._object.attach(name, new)
            os.chmod(new, 0o600)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # the last reference: detaches the old program
            os.rename(new, path)

    def degraded(self) -> bool:
        """Whether ft_cgroup is known to be incomplete: absent claims say nothing then."""
        return self.gaps.get() != self._gaps_closed.get()

    def close_gaps(self, gaps: int) -> None:
        """A whole walk that began when the counter `gaps` stood at this number is written."""
        self._gaps_closed.set(gaps)

    def adopt(self) -> int:
        """Take in the sockets that were there before us; returns how many namespaces were visited.

        After FLOW_PROGRAMS are attached: what opens meanwhile is seen by them.
        """
        return self._in_every_namespace("flowtag_adopt")

    def open_flows(self) -> int:
        """How many flows have not closed, counted on the sockets of every namespace."""
        self._open_flows.set(0)
        self._in_every_namespace("flowtag_open")
        return self._open_flows.get()

    def interim(self, before: int) -> None:
        """Make interim records of the open flows whose last record, or opening, was before this boottime.

        Those for which the ring has no room, more than half of it, are counted as interim_deferred.
        """
        self._interim_before.set(before)
        self._object.iterate("flowtag_interim")

    def tell_owner(self, owner: int, address: bytes, start: int, end: int) -> bool:
        """Put an ownership heartbeat into the ring, times in boottime ns; False if that has no room."""
        told = abi.OWNERSHIP.pack(owner, start, end, address)
        name = "flowtag_ownership"
        return syscall.run_program(self._object.program_fd(name), told, name) == 1

    def _in_every_namespace(self, program: str) -> int:
        """Run an iterator over sockets, which sees the namespace of its maker; returns in how many."""

        def run() -> None:
            self._object.iterate(program)

        visited = 0
        for fd in namespaces.every():
            namespaces.inside(fd, run)
            visited += 1
        return visited

    def map_fd(self, name: str) -> int:
        return self._object.map_fd(name)

    def recursion_misses(self) -> int:
        """Events that the recursion guard kept from our programs; flowtag_destroy makes up for them."""
        paths = (link_path(self.directory, name) for name in CGROUP_PROGRAMS + FLOW_PROGRAMS)
        return sum(pinned.link(path).misses for path in paths)


class Show:
    """The program that tells of open flows, beside the exporter's; pins nothing. A context manager."""

    def __init__(self, directory: str, object_path: str = OBJECT) -> None:
        """FlowtagError where a map is not pinned or no exporter has attached its programs."""
        for name in abi.MAPS:
            open_map(name, directory).close()
        if not os.path.exists(link_path(directory, "flowtag_state")):
            raise FlowtagError(
                f"looking at flows: no programs are attached in {directory}", "start `flowtag run`"
            )
        self._object = libbpf.Object(object_path)
        for name in abi.MAPS:
            self._object.pin_map_at(name, os.path.join(directory, name))
        with open_map("ft_events", directory) as ring:
            self._object.set_max_entries("ft_events", ring.max_entries)
        for name in self._object.programs:
            if name != SHOW:
                self._object.skip_program(name)
        self._object.load()

    def __enter__(self) -> Show:
        return self

    def __exit__(self, *_: object) -> None:
        self._object.close()

    def read(self) -> bytes:
        """struct ft_event: what open flows have carried since their last record, once a descriptor."""
        return self._object.iterate(SHOW)


def link_path(directory: str, program: str) -> str:
    return os.path.join(directory, f"link_{program.removeprefix('flowtag_')}")


def remove_pins(directory: str) -> None:
    """Detach the programs and remove the maps: everything that is pinned in `directory`."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)
