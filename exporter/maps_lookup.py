# SPDX-License-Identifier: Apache-2.0
"""`flowtag maps lookup`: who owns something now, by which rule, since when, and which claims lost."""

from __future__ import annotations

import json
from collections.abc import Callable

from bpf import abi
from bpf.error import FlowtagError
from exporter import address_lookup, entry, verdict
from exporter.address_lookup import parse_number
from exporter.config import Config
from exporter.entry import Explained
from exporter.surroundings import Surroundings, look_around
from exporter.verdict import Verdict
from identity import cgroup
from identity.pinned import open_map

_POINTING = ("ft_cgroup", "ft_netns", "ft_port", "ft_addr", "ft_socket")


def lookup(config: Config, target: str, as_json: bool) -> int:
    """Print the answer; 1 if nobody owns it."""
    kind, _, rest = target.partition(":")
    look = _KINDS.get(kind, address_lookup.of_address)
    if look is address_lookup.of_address:
        # Before the cgroup tree is read: a wrong word should not have to wait for it.
        address_lookup.parse(target)
        rest = target
    around = look_around(config.host.pin_directory)
    found = look(rest, config, around)
    if as_json:
        print(json.dumps(_explained(target, found, around), indent=2))
    else:
        print("\n".join(text(target, found, around)))
    return 0 if found.owned else 1


def text(target: str, found: Verdict, around: Surroundings) -> list[str]:
    """The answer for people."""
    if found.claim is None:
        lines = [f"{target}: nobody's, {found.reason}"]
    else:
        lines = [f"{target}: {entry.owner_text(found.claim, around)}; by {found.rule}"]
        known = around.workloads.get(int(found.claim["workload"]))
        if known:
            explained = entry.workload(known, around)
            lines.append(f"  {entry.workload_text(explained, around)}")
    lines += [f"  {step}" for step in found.steps]
    lines += [f"  lost: {claim}" for claim in found.lost]
    return lines


def _explained(target: str, found: Verdict, around: Surroundings) -> Explained:
    known = around.workloads.get(int(found.claim["workload"])) if found.claim else None
    return {
        "target": target,
        "owner": found.claim,
        "workload": entry.workload(known, around) if known else None,
        "attributed_by": found.rule,
        "unattributed_reason": None if found.owned else found.reason,
        "steps": found.steps,
        "lost": found.lost,
    }


def _pid(rest: str, config: Config, around: Surroundings) -> Verdict:
    pid = parse_number(rest, (1 << 31) - 1, f"pid:{rest}")
    try:
        found = verdict.of_process(pid, config, around)
    except (FileNotFoundError, ProcessLookupError):
        raise FlowtagError(f"looking up pid:{pid}: no such process") from None
    except PermissionError as error:
        raise FlowtagError(
            f"looking up pid:{pid}: {error.filename}: {error.strerror}",
            "run as root; of a process with more capabilities than ours nobody learns more",
        ) from None
    found.steps.append("a socket keeps the cgroup in which it was made, also when its process moves")
    return found


def _cgroup(rest: str, config: Config, around: Surroundings) -> Verdict:
    mount = cgroup.mount_point()
    if rest.isascii() and rest.isdecimal():
        number = parse_number(rest, (1 << 64) - 1, f"cgroup:{rest}")
    else:
        if mount is None:
            raise FlowtagError(f"looking up cgroup:{rest}: no cgroup v2 is mounted here")
        path = rest if (rest + "/").startswith(mount + "/") else f"{mount}/{rest.lstrip('/')}"
        try:
            number = cgroup.id_of(path)
        except OSError as error:
            raise FlowtagError(
                f"looking up cgroup:{rest}: {path}: {error.strerror}",
                "give the path as /proc/PID/cgroup shows it after 0::, or the cgroup's id",
            ) from None
    found = Verdict(steps=[f"cgroup {number} {around.cgroups.get(number, '(gone)')}"])
    raw = verdict.get("ft_cgroup", abi.ID.pack(number), config)
    if raw is None:
        found.refuse("no_claim")
        found.steps.append(
            "ft_cgroup has no entry: its sockets are the host's in the host's network namespace, and"
            " nobody's in others"
        )
        return found
    claim = entry.owner(raw, around)
    verdict.judge(found, claim, "cgroup", f"ft_cgroup: {entry.owner_text(claim, around)}")
    return found


def _container(rest: str, config: Config, around: Surroundings) -> Verdict:
    matching = [w for w in around.workloads.values() if rest and w.container_id.startswith(rest)]
    exact = [w for w in matching if w.container_id == rest] or matching
    living = [w for w in exact if not w.end] or exact
    found = Verdict(reason="no_claim")
    with open_map("ft_workload", config.host.pin_directory):
        pass  # says why where nothing was readable
    distinct = {w.id: w for w in living}  # the host's slot repeats an entry
    if len(distinct) != 1:
        some = "several workloads" if distinct else "no workload"
        found.steps.append(f"{some} in ft_workload with a container id that begins with {rest!r}")
        found.steps += [entry.workload_text(entry.workload(w, around), around) for w in distinct.values()]
        return found
    (wanted,) = distinct.values()
    found.lost += [
        f"an earlier incarnation, workload {w.id}: it ended {entry.moment(w.end, around)}"
        for w in exact
        if w.id != wanted.id
    ]
    if wanted.end:
        found.reason = "expired"
        found.lost.append(f"workload {wanted.id}: it ended {entry.moment(wanted.end, around)}")
    for name in _POINTING:
        with open_map(name, config.host.pin_directory) as pinned:
            for raw_key, raw in pinned.items():
                claim = entry.value(name, raw, around)
                if claim["workload"] != str(wanted.id):
                    continue
                key = entry.key_text(name, entry.key(name, raw_key, around))
                found.steps.append(f"{name}: {key}: {entry.value_text(name, claim, around)}")
                if claim["alive"] and not found.owned and not wanted.end:
                    found.give(claim, name.removeprefix("ft_"))
    if not found.owned:
        found.steps.append(f"no living key points to workload {wanted.id}")
    return found


def _socket(rest: str, config: Config, around: Surroundings) -> Verdict:
    number = parse_number(rest, (1 << 64) - 1, f"socket:{rest}")
    found = Verdict()
    raw = verdict.get("ft_socket", abi.ID.pack(number), config)
    if raw is None:
        found.refuse("no_claim")
        found.steps.append(
            "ft_socket has no entry: never published, or already consumed when the socket opened"
        )
        return found
    claim = entry.owner(raw, around)
    verdict.judge(found, claim, "socket", f"ft_socket: {entry.owner_text(claim, around)}")
    found.steps.append("counts only for sockets in a translator's namespace or cgroup")
    return found


_KINDS: dict[str, Callable[[str, Config, Surroundings], Verdict]] = {
    "pid": _pid,
    "cgroup": _cgroup,
    "container": _container,
    "socket": _socket,
}
