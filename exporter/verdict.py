# SPDX-License-Identifier: Apache-2.0
"""Who would own a socket that opened now, step by step: bpf/owner.h in words.

The kernel decides with what it sees at the socket; this reads the same maps and says the same, with the
claims that lost. Where the kernel knows more (listeners made for others, gaps), a step says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bpf import abi
from exporter import counters, entry
from exporter.config import Config
from exporter.entry import Explained
from exporter.surroundings import Surroundings
from identity import cgroup, gap, netns
from identity.pinned import open_map


@dataclass(slots=True)
class Verdict:
    """The answer: claim is the explained winner; steps say how it was found, lost what else claimed."""

    claim: Explained | None = None
    rule: str = "none"
    reason: str = "none"
    steps: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def give(self, claim: Explained, rule: str) -> None:
        self.claim, self.rule, self.reason = claim, rule, "none"

    def refuse(self, reason: str) -> None:
        self.claim, self.rule, self.reason = None, "none", reason

    @property
    def owned(self) -> bool:
        return self.claim is not None


def get(name: str, key: bytes, config: Config) -> bytes | None:
    """One value of a pinned map."""
    with open_map(name, config.host.pin_directory) as pinned:
        return pinned.get(key)


def judge(verdict: Verdict, claim: Explained, rule: str, what: str) -> None:
    """One claim, under the time test for a socket that opens now."""
    owner = int(claim["workload"])
    if owner == abi.OWNER_UNCLAIMED:
        verdict.refuse("unclaimed_container")
    elif owner == abi.OWNER_CONTESTED:
        verdict.refuse("contested")
    elif not claim["alive"]:
        verdict.refuse("expired")
    else:
        verdict.give(claim, rule)
        return
    verdict.lost.append(f"{what}: {verdict.reason}")


def of_process(pid: int, config: Config, around: Surroundings) -> Verdict:
    """A socket that a process makes now; OSError if the process has gone."""
    path = cgroup.path_of(pid)
    mount = cgroup.mount_point()
    cookie = netns.cookie(pid)
    verdict = Verdict()
    if mount is None or path is None:
        number = 1  # the kernel's root cgroup, in which such sockets are
        verdict.steps.append("no cgroup v2 path to be had: its sockets are in the root cgroup")
    else:
        number = cgroup.id_of(mount + path)
        verdict.steps.append(f"cgroup {number} {path}")
    of_socket(number, cookie, config, around, verdict)
    return verdict


def of_socket(number: int, cookie: int, config: Config, around: Surroundings, verdict: Verdict) -> None:
    """A socket of this cgroup id in the network namespace of this cookie."""
    at_home = cookie == netns.host_cookie()
    home_text = "the host's" if at_home else "not the host's"
    verdict.steps.append(f"netns {cookie}: {home_text}")
    raw = get("ft_cgroup", abi.ID.pack(number), config)
    claim = None if raw is None else entry.owner(raw, around)
    text = f"ft_cgroup has no entry for cgroup {number}"
    if claim:
        text = f"ft_cgroup has cgroup {number}: {entry.owner_text(claim, around)}"
    verdict.steps.append(text)
    home = None if at_home else _namespace(cookie, config, around, verdict)
    kind = home["kind"] if home else None
    if kind == "translator" or (claim and int(claim["workload"]) == abi.OWNER_TRANSLATOR):
        verdict.steps.append(
            "a translator's: each socket belongs to whom ft_socket, else ft_port, else a block in ft_addr"
            " says; look up its cookie or its local address and port"
        )
        verdict.refuse("unpublished")
    elif claim:
        judge(verdict, claim, "cgroup", text)
        if home and home["workload"] != claim["workload"]:
            verdict.lost.append(f"netns {cookie}: {_of(home, around)}: the cgroup's entry goes first")
    elif at_home:
        _host(verdict, config, around)
    elif home is None or kind != "container":
        verdict.refuse("no_claim")
    elif "no_cgroup" in home["flags"]:
        judge(verdict, home, "netns", f"netns {cookie}: {_of(home, around)}")
    else:
        verdict.refuse("foreign_process")
        verdict.lost.append(
            f"netns {cookie}: {_of(home, around)}: a process without a claim of its own is not the"
            " container's"
        )


def _of(home: Explained, around: Surroundings) -> str:
    return entry.value_text("ft_netns", home, around)


def _namespace(cookie: int, config: Config, around: Surroundings, verdict: Verdict) -> Explained | None:
    raw = get("ft_netns", abi.ID.pack(cookie), config)
    if raw is None:
        verdict.steps.append(f"ft_netns has no entry for netns {cookie}")
        return None
    home = entry.value("ft_netns", raw, around)
    verdict.steps.append(f"ft_netns has netns {cookie}: {_of(home, around)}")
    return home


def _host(verdict: Verdict, config: Config, around: Surroundings) -> None:
    if cgroup.mount_point() is None and config.host.host_network_containers:
        verdict.steps.append("no cgroup v2 here: an absent claim says nothing")
        verdict.refuse("degraded")
        return
    with open_map("ft_count", config.host.pin_directory) as count:
        full = counters.read(count)["cgroup_full"]
    if full:
        verdict.steps.append(
            f"{full} cgroups found no room in ft_cgroup: until the exporter's next whole walk such"
            " sockets are nobody's, degraded"
        )
    if gap.read(config.host.pin_directory).since:
        verdict.steps.append("ft_gap: a container's claim is missing, so an absent claim says nothing")
        verdict.refuse("degraded")
        return
    verdict.steps.append("so it is the host's, unless its listener was made for others (activated)")
    raw = get("ft_workload", abi.ID.pack(abi.OWNER_HOST_SLOT), config)
    if raw is None:
        verdict.steps.append("the host has no identity yet: `flowtag run` writes it")
        verdict.refuse("no_claim")
        return
    host = entry.value("ft_workload", raw, around)
    verdict.give(
        {
            "workload": host["id"],
            "name": host["name"],
            "since_ns": host["start_ns"],
            "since": host["start"],
            "until_ns": host["end_ns"],
            "until": host["end"],
            "alive": host["end_ns"] == "0",
            "flags": [],
        },
        "host",
    )
