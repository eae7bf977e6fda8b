# SPDX-License-Identifier: Apache-2.0
"""The OCI hook: writes who a container is into the pinned maps, before its process starts.

Called as `main.py RUNTIME_PID createRuntime|prestart|poststop [RUN_DIRECTORY]`, the state on
standard input. No module here may be slow to import (tests/unit/test_hook_imports.py holds the list),
and nothing waits for a daemon. What cannot be written goes to pending/, which the exporter replays;
what poststop cannot end stays in its file with its end, for the exporter as well. Each run that gets to its
end leaves a line with its outcome in RUN_DIRECTORY/hook-runs; of the others the stub leaves one.
"""

from __future__ import annotations

import posix
import time
from _stat import S_ISREG

from bpf import abi
from bpf.error import FlowtagError
from hooks import place, run_line
from identity import incarnation, lifetime, oci, strict_json
from identity.incarnation import Incarnation
from identity.pinned import open_map
from identity.workload import KIND_CONTAINER, new_id

RUN_DIRECTORY = run_line.RUN_DIRECTORY
EVENTS = ("createRuntime", "prestart", "poststop")
STATE_LIMIT = 1 << 20
CONFIG_LIMIT = 4 << 20
SETTINGS_LIMIT = 1 << 16


def main(arguments: list[str], began: int) -> None:
    """One hook invocation, begun at `began` (ns, monotonic). Whatever it raises ends with the process, see
    main.py and the stub.
    """
    runtime_pid, event, *rest = arguments
    run = rest[0] if rest else RUN_DIRECTORY
    if event not in EVENTS:
        return
    run_line.append(run, event, handle(runtime_pid, event, run), began)


def handle(runtime_pid: str, event: str, run: str) -> str:
    """Do what the event asks for; the outcome, in a word that identity/hook_runs.py explains."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    state = read_state(0)
    bundle, container_id = oci.text(state, "bundle"), oci.text(state, "id")
    if not isinstance(state, dict) or not bundle.startswith("/") or not container_id:
        return "ignored"  # names no container
    settings = read_settings(f"{run}/hook")
    name = incarnation.file_name(bundle, container_id)
    if event == "poststop":
        return stop(name, run, settings, now)
    pid = state.get("pid")
    if type(pid) is not int or pid <= 0:
        return "ignored"  # nothing to find cgroup and namespace by
    config = read_config(bundle) if oci.needs_config(state) else None
    workload = oci.from_oci(state, config)
    if workload.pod and workload.kind == KIND_CONTAINER and place.sandboxed(runtime_pid):
        return "ignored"  # only the pod has processes on the host
    workload.id, workload.start = new_id(), now
    new = Incarnation(workload, pid=pid)
    wanted = oci.annotations_of(state, config).get(oci.TRANSLATED, "")
    if wanted:
        translate(new, wanted, settings)
    return start(new, name, run, settings, runtime_pid)


def translate(new: Incarnation, wanted: str, settings: dict[str, str]) -> None:
    """Note the ports of shared addresses that the container is to have; all that it asks for, or none."""
    from identity import address, port_block  # few containers ask

    try:
        shared = frozenset(map(address.from_text, settings.get("shared_addresses", "").split()))
        new.blocks = ",".join(map(str, port_block.parse(wanted, shared)))
    except (FlowtagError, ValueError) as error:
        new.refused = str(error)


def start(new: Incarnation, name: str, run: str, settings: dict[str, str], runtime_pid: str) -> str:
    """Claim what is the container's, and remember it.

    The file comes before the claims: if this process is killed in between, the exporter goes on from there.
    """
    live, pending = f"{run}/live/{name}", f"{run}/pending/{name}"
    written, outcome = live, "claimed"
    try:
        place.find(new, settings, runtime_pid)
        with lifetime.Maps(pins(settings)) as maps:
            lifetime.succeed(new, name, maps, run)
            incarnation.write(pending, new)
            lifetime.begin(new, maps, run)
        incarnation.write(live, new)
        incarnation.remove(pending)
    except (OSError, ValueError, FlowtagError) as error:
        new.reason, written = str(error), pending
        outcome = "pending" if leave(new, pending, run, settings) else "lost"
    if not new.process_lives():
        # Died meanwhile, so a claim above may have replaced the kernel's tombstone.
        lifetime.settle(new, written, run, pins(settings), time.clock_gettime_ns(time.CLOCK_BOOTTIME))
    return outcome


def leave(new: Incarnation, pending: str, run: str, settings: dict[str, str]) -> bool:
    """Leave the identity to the exporter; on the host's network, see that its flows are not the host's.

    False if the exporter will find nothing.
    """
    from identity import gap  # few hooks fail

    try:
        incarnation.write(pending, new)
        left = True
    except OSError:
        left = left_before(new, pending)
    if new.netns or marked(new, settings):
        return left
    try:
        by = new.workload.id if left else gap.LOST
        gap.open_gap(pins(settings), new.workload.start, by, f"{run}/lock")
    except (OSError, FlowtagError):
        pass  # no maps of ours: nobody says whose a flow is
    return left


def marked(new: Incarnation, settings: dict[str, str]) -> bool:
    """Whether its cgroup has an entry, as any below an engine's root: then its flows are not the host's."""
    if not new.cgroup:
        return False
    try:
        with open_map("ft_cgroup", pins(settings)) as cgroups:
            return cgroups.get(abi.ID.pack(new.cgroup)) is not None
    except (OSError, FlowtagError):
        return False


def left_before(new: Incarnation, pending: str) -> bool:
    """Whether what was written before the claims is still there."""
    try:
        old = lifetime.remembered(pending)
    except OSError:
        return False
    return old is not None and old.workload.id == new.workload.id


def stop(name: str, run: str, settings: dict[str, str], now: int) -> str:
    """End what the remembered incarnation claimed, unless that one still lives; twice is once."""
    outcome = "nothing"
    for path in (f"{run}/live/{name}", f"{run}/pending/{name}"):
        old = lifetime.remembered(path)
        if old is not None and not old.lives():  # lives: a late poststop of an earlier incarnation
            outcome = "ended" if lifetime.settle(old, path, run, pins(settings), now) else "pending"
    return outcome


def pins(settings: dict[str, str]) -> str:
    """Where the maps are pinned."""
    return settings.get("pin_directory", abi.PIN_DIRECTORY)


def read_state(fd: int) -> object:
    """The state on `fd`; of one that is too long what stands before its annotations: an engine's user may
    make those as long as they like, and must not escape attribution by it. ValueError if that is no JSON.
    """
    data = read(fd, STATE_LIMIT)
    if len(data) > STATE_LIMIT:
        while posix.read(fd, 1 << 16):
            pass  # crun fails a container whose hook ends before the whole is written
        # No string can hold this with its quotes unescaped; runc, crun and youki write it last.
        data = data.partition(b'"annotations"')[0].rstrip(b" \t\r\n,") + b"}"
    return strict_json.decode(data, STATE_LIMIT)


def read(fd: int, limit: int) -> bytes:
    """What `fd` has to give, at most one byte more than `limit`."""
    data = b""
    while len(data) <= limit:
        more = posix.read(fd, limit + 1 - len(data))
        if not more:
            break
        data += more
    return data


def read_config(bundle: str) -> object:
    """The bundle's config.json if it is a regular file of bearable size and JSON, else None."""
    try:
        flags = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK
        fd = posix.open(f"{bundle}/config.json", flags)
    except (OSError, ValueError):
        return None
    try:
        if not S_ISREG(posix.fstat(fd).st_mode):
            return None
        return strict_json.decode(read(fd, CONFIG_LIMIT), CONFIG_LIMIT)
    except (OSError, ValueError):
        return None
    finally:
        posix.close(fd)


def read_settings(path: str) -> dict[str, str]:
    """The flat file that `flowtag maps create` wrote: `key value` lines; absent means defaults."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read(SETTINGS_LIMIT).splitlines()
    except OSError:
        return {}
    return {key: value for key, _, value in (line.partition(" ") for line in lines) if value}
