# SPDX-License-Identifier: Apache-2.0
"""The OCI hook: writes who a container is into the pinned maps, before its process starts.

Called as `main.py RUNTIME_PID createRuntime|prestart|poststop [RUN_DIRECTORY]`, the state on
standard input. No module here may be slow to import (tests/unit/test_hook_imports.py holds the list),
and nothing waits for a daemon. What cannot be written goes to pending/, which the exporter replays;
what poststop cannot end stays in its file with its end, for the exporter as well.
"""

from __future__ import annotations

import os
import stat
import time

from bpf import abi
from bpf.error import FlowtagError
from hooks import place
from identity import claim, incarnation, oci, strict_json
from identity.incarnation import Incarnation
from identity.pinned import open_map
from identity.workload import KIND_CONTAINER, Workload, new_id

RUN_DIRECTORY = "/run/flowtag"
STATE_LIMIT = 1 << 20
CONFIG_LIMIT = 4 << 20
SETTINGS_LIMIT = 1 << 16

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bpf import syscall

    Maps = tuple[syscall.Map, syscall.Map, syscall.Map]


def main(arguments: list[str]) -> None:
    """One hook invocation. Whatever it raises ends with the process, see main.py and the stub."""
    runtime_pid, event, *rest = arguments
    run = rest[0] if rest else RUN_DIRECTORY
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    state = strict_json.decode(read(0, STATE_LIMIT), STATE_LIMIT)
    bundle, container_id = oci.text(state, "bundle"), oci.text(state, "id")
    if not isinstance(state, dict) or not bundle.startswith("/") or not container_id:
        return  # names no container
    settings = read_settings(f"{run}/hook")
    name = incarnation.file_name(bundle, container_id)
    if event == "poststop":
        stop(name, run, settings, now)
    elif event in ("createRuntime", "prestart"):
        pid = state.get("pid")
        if type(pid) is not int or pid <= 0:
            return  # nothing to find cgroup and namespace by
        config = read_config(bundle) if "annotations" not in state else None
        workload = oci.from_oci(state, config)
        if workload.pod and workload.kind == KIND_CONTAINER and place.sandboxed(runtime_pid):
            return  # only the pod has processes on the host
        workload.id, workload.start = new_id(), now
        start(Incarnation(workload, pid=pid), name, run, settings, runtime_pid)


def start(new: Incarnation, name: str, run: str, settings: dict[str, str], runtime_pid: str) -> None:
    """Claim what is the container's, and remember it."""
    live, pending, locks = f"{run}/live/{name}", f"{run}/pending/{name}", f"{run}/lock"
    written = live
    try:
        place.find(new, settings, runtime_pid)
        maps = open_maps(settings)
        for old in filter(None, (remembered(live), remembered(pending))):
            if (old.pid, old.start_time) == (new.pid, new.start_time):
                # Registered as createRuntime and as prestart: one incarnation all the same.
                new.workload.id, new.workload.start = old.workload.id, old.workload.start
            elif not old.process_lives() and (old.cgroup == new.cgroup or not old.lives()):
                end(old, maps, run, new.workload.start)
        incarnation.make_directory(locks)
        workloads, cgroups, spaces = maps
        owner = new.workload.id, new.workload.start
        workloads.update(abi.ID.pack(new.workload.id), new.workload.pack())
        for key in filter(None, (new.cgroup, new.cgroup_parent)):
            before = claim.found(workloads, cgroups, key, new.workload.container_id)
            claim.claim_cgroup(cgroups, key, claim.Claim(*owner), locks, before)
        if new.netns:
            mine = claim.Claim(*owner, flags=new.netns_flags)
            claim.claim_netns(spaces, new.netns, mine, locks)
        incarnation.write(live, new)
        incarnation.remove(pending)  # an earlier incarnation's
    except (OSError, ValueError, FlowtagError) as error:
        new.reason, written = str(error), pending
        incarnation.write(pending, new)  # if that fails too its flows are nobody's
    if not new.process_lives():
        # Died meanwhile, so a claim above may have replaced the kernel's tombstone.
        settle(new, written, run, settings, time.clock_gettime_ns(time.CLOCK_BOOTTIME))


def stop(name: str, run: str, settings: dict[str, str], now: int) -> None:
    """End what the remembered incarnation claimed, unless that one still lives; twice is once."""
    for path in (f"{run}/live/{name}", f"{run}/pending/{name}"):
        old = remembered(path)
        if old is not None and not old.lives():  # lives: a late poststop of an earlier incarnation
            settle(old, path, run, settings, now)


def settle(old: Incarnation, path: str, run: str, settings: dict[str, str], now: int) -> None:
    """End a dead incarnation and forget its file; if that fails the file says when it ended."""
    old.workload.end = old.workload.end or now
    try:
        end(old, open_maps(settings), run, old.workload.end)
    except (OSError, FlowtagError) as error:
        if not isinstance(error.__cause__, FileNotFoundError):  # that: no maps, nothing to end
            old.reason = str(error)
            incarnation.write(path, old)
            return
    incarnation.remove(path)


def end(old: Incarnation, maps: Maps, run: str, now: int) -> None:
    """Tombstone the keys that are still the incarnation's own, and end its workload.

    A namespace that another living container uses keeps its claim, so that a container's restart
    does not take it from its pod; but never a claim that answers for sockets without a cgroup.
    """
    workloads, cgroups, spaces = maps
    locks = f"{run}/lock"
    for number in filter(None, (old.cgroup, old.cgroup_parent)):
        claim.release(cgroups, number, old.workload.id, now, locks)
    key = abi.ID.pack(old.workload.id)
    value = workloads.get(key)
    if value is not None:
        workloads.update(key, Workload.unpack(value).replace(end=now).pack())
    if old.netns and (old.netns_flags & abi.FLAG_NO_CGROUP or not shared(old, run)):
        claim.release(spaces, old.netns, old.workload.id, now, locks)


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


def open_maps(settings: dict[str, str]) -> Maps:
    """The maps that the hook writes; the process is too short to close them."""
    directory = settings.get("pin_directory", abi.PIN_DIRECTORY)
    return (
        open_map("ft_workload", directory),
        open_map("ft_cgroup", directory),
        open_map("ft_netns", directory),
    )


def read(fd: int, limit: int) -> bytes:
    """What `fd` has to give, at most one byte more than `limit`."""
    data = b""
    while len(data) <= limit:
        more = os.read(fd, limit + 1 - len(data))
        if not more:
            break
        data += more
    return data


def read_config(bundle: str) -> object:
    """The bundle's config.json if it is a regular file of bearable size and JSON, else None."""
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(f"{bundle}/config.json", flags)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return strict_json.decode(read(fd, CONFIG_LIMIT), CONFIG_LIMIT)
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def read_settings(path: str) -> dict[str, str]:
    """The flat file that `flowtag maps create` wrote: `key value` lines; absent means defaults."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read(SETTINGS_LIMIT).splitlines()
    except OSError:
        return {}
    return {key: value for key, _, value in (line.partition(" ") for line in lines) if value}
