# SPDX-License-Identifier: Apache-2.0
"""The life of an incarnation in the maps: what its begin writes and what its end takes back.

The hook does both for its containers; the exporter does them for those whose hook could not write, or
whose poststop never came. Everything may be done twice, and by both at once.
"""

from __future__ import annotations

import posix

from bpf import abi, syscall
from bpf.error import FlowtagError
from identity import cgroup, claim, incarnation
from identity.incarnation import Incarnation
from identity.pinned import open_map
from identity.workload import KIND_POD, Workload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


class Maps:
    """The maps that a container's life touches, open for the length of a `with`."""

    __slots__ = ("cgroups", "directory", "spaces", "workloads")

    workloads: syscall.Map
    cgroups: syscall.Map
    spaces: syscall.Map

    def __init__(self, directory: str) -> None:
        self.directory = directory
        opened: list[syscall.Map] = []
        try:
            opened.extend(open_map(name, directory) for name in ("ft_workload", "ft_cgroup", "ft_netns"))
        except BaseException:
            for each in opened:
                each.close()
            raise
        self.workloads, self.cgroups, self.spaces = opened

    def __enter__(self) -> Maps:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in (self.workloads, self.cgroups, self.spaces):
            each.close()


def succeed(new: Incarnation, name: str, maps: Maps, run: str) -> None:
    """End what is remembered under the new one's file name, before that file is written anew.

    Or it is the very same: an engine may have registered the hook as createRuntime and as prestart.
    """
    for old in filter(None, (remembered(f"{run}/live/{name}"), remembered(f"{run}/pending/{name}"))):
        if (old.pid, old.start_time) == (new.pid, new.start_time):
            new.workload.id, new.workload.start = old.workload.id, old.workload.start
        elif not old.process_lives() and (old.cgroup == new.cgroup or not old.lives()):
            end(old, maps, run, new.workload.start)


def begin(new: Incarnation, maps: Maps, run: str) -> None:
    """Write an incarnation: its workload first, the keys last; with the time at which it started.

    Its file must be there already: somebody has to end these claims if their writer is killed.
    """
    locks = f"{run}/lock"
    incarnation.make_directory(locks)
    owner = new.workload.id, new.workload.start
    maps.workloads.update(abi.ID.pack(new.workload.id), new.workload.pack())
    before = 0
    for directory, key in _cgroups(new):
        before = claim.found(maps.workloads, maps.cgroups, key, new.workload.container_id) or before
        claim.claim_cgroup(maps.cgroups, key, claim.Claim(*owner), locks, before)
        _follow(directory, key, maps.cgroups, locks)
    if new.netns and not _pods_own(new, maps):
        mine = claim.Claim(*owner, flags=new.netns_flags)
        claim.claim_netns(maps.spaces, new.netns, mine, locks, before)
    if new.cgroup_shared:
        claim.mark_shared(maps.cgroups, new.cgroup_shared, new.workload.start, locks)
    if new.blocks:
        _claim_blocks(new, maps, locks)


def _pods_own(new: Incarnation, maps: Maps) -> bool:
    """Whether the namespace is its pod's already and must tell the owner: the pod is all that it can tell.

    Where containers have no cgroup, those of a pod cannot be told apart; a second claim would contest it.
    """
    if not new.netns_flags & abi.FLAG_NO_CGROUP or not new.workload.pod_uid:
        return False
    value = maps.spaces.get(abi.ID.pack(new.netns))
    standing = claim.Claim.unpack(value) if value else None
    if standing is None or standing.until:
        return False
    owner = maps.workloads.get(abi.ID.pack(standing.workload))
    if owner is None:
        return False
    pod = Workload.unpack(owner)
    return pod.kind == KIND_POD and pod.pod_uid == new.workload.pod_uid


def end(old: Incarnation, maps: Maps, run: str, now: int) -> None:
    """Tombstone the keys that are still the incarnation's own, and end its workload.

    A namespace that another living container uses keeps its claim, so that a container's restart
    does not take it from its pod; but never a claim that answers for sockets without a cgroup.
    """
    locks = f"{run}/lock"
    for directory, number in _cgroups(old):
        if claim.release(maps.cgroups, number, old.workload.id, now, locks):
            _follow(directory, number, maps.cgroups, locks)
    key = abi.ID.pack(old.workload.id)
    value = maps.workloads.get(key)
    if value is not None:
        known = Workload.unpack(value)
        maps.workloads.update(key, known.replace(end=known.end or now).pack())
    if old.blocks:
        _release_blocks(old, maps, now, locks)
    if old.netns and (old.netns_flags & abi.FLAG_NO_CGROUP or not shared(old, run)):
        claim.release(maps.spaces, old.netns, old.workload.id, now, locks)


def _cgroups(of: Incarnation) -> Iterator[tuple[str, int]]:
    """The cgroups that it claims: directory and id."""
    if of.cgroup:
        yield of.cgroup_directory, of.cgroup
    if of.cgroup_parent:
        yield of.cgroup_directory.rpartition("/")[0], of.cgroup_parent


def _follow(directory: str, number: int, cgroups: syscall.Map, locks: str) -> None:
    """Let what lies below a cgroup follow its claim: an engine may use a cgroup again with what is in it."""
    try:
        if cgroup.id_of(directory) != number:
            return  # the path is another cgroup's by now
    except OSError:
        return
    value = cgroups.get(abi.ID.pack(number))
    if value is not None:
        _inherit(directory, claim.Claim.unpack(value), cgroups, locks)


def _inherit(directory: str, parent: claim.Claim, cgroups: syscall.Map, locks: str) -> None:
    todo = [(directory, parent)]
    while todo:
        directory, parent = todo.pop()
        try:
            with posix.scandir(directory) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # gone, or too deep to reach
            continue
        for path in below:
            try:
                number = cgroup.id_of(path)
            except OSError:
                continue
            stands = claim.inherit(cgroups, number, parent, locks)
            if stands.flags & abi.FLAG_INHERITED:
                todo.append((path, stands))


def _claim_blocks(new: Incarnation, maps: Maps, locks: str) -> None:
    """Claim the ports of shared addresses that it asked for; those that are another's are refused."""
    from identity import port_block  # few containers have some

    with open_map("ft_addr", maps.directory) as addresses, open_map("ft_port", maps.directory) as ports:
        wanted = port_block.parse_own(new.blocks)
        mine = claim.Claim(new.workload.id, new.workload.start)
        refused = port_block.claim(addresses, ports, wanted, mine, locks)
    if refused:
        new.refused = f"{', '.join(map(str, refused))}: another living workload's ports are in it"
        new.blocks = ",".join(str(block) for block in wanted if block not in refused)


def _release_blocks(old: Incarnation, maps: Maps, now: int, locks: str) -> None:
    from identity import port_block

    with open_map("ft_addr", maps.directory) as addresses, open_map("ft_port", maps.directory) as ports:
        port_block.release(addresses, ports, port_block.parse_own(old.blocks), old.workload.id, now, locks)


def shared(old: Incarnation, run: str) -> bool:
    """Whether another living container uses the incarnation's network namespace."""
    return any(
        other.netns == old.netns and other.workload.id != old.workload.id and other.lives()
        for _, other in incarnation.every(f"{run}/live")
    )


def remembered(path: str) -> Incarnation | None:
    """The incarnation in a file; a damaged file remembers nothing."""
    try:
        return incarnation.read(path)
    except ValueError:
        return None


def settle(old: Incarnation, path: str, run: str, pins: str, now: int) -> bool:
    """End a dead incarnation and forget its file; False if that failed, and the file says when it ended."""
    old.workload.end = old.workload.end or now
    try:
        with Maps(pins) as maps:
            end(old, maps, run, old.workload.end)
    except (OSError, FlowtagError) as error:
        if not isinstance(error.__cause__, FileNotFoundError):  # that: no maps, nothing to end
            old.reason = str(error)
            incarnation.write(path, old)
            return False
    incarnation.forget(path, old)
    return True
