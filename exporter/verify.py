# SPDX-License-Identifier: Apache-2.0
"""`flowtag maps verify`: the pinned maps against the live cgroups, namespaces and containers.

The host does not stand still while it is read: what was found is looked for once more after a moment in
which every hook has come to its end, and only what was there both times is said.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass

from bpf import abi
from bpf.error import FlowtagError
from exporter import entry, garbage
from exporter.config import Config
from exporter.containers import HOOK_NS
from exporter.surroundings import Surroundings, look_around
from identity import cgroup, engines, incarnation
from identity.claim import CONTAINER_NETNS, Claim
from identity.incarnation import Incarnation
from identity.pinned import open_map
from identity.workload import Workload

KEYS = ("ft_cgroup", "ft_netns", "ft_port", "ft_addr", "ft_socket")
COLLECT = "`flowtag run` ends it within a minute; until then no new socket can match it"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not fit: kind and subject name it, hint says what to do."""

    kind: str
    subject: str
    text: str
    hint: str


def verify(config: Config, as_json: bool) -> int:
    """Print what does not fit; 0 if everything does."""
    found = persistent(config)
    if as_json:
        print(json.dumps({"consistent": not found, "findings": [asdict(each) for each in found]}, indent=2))
    elif found:
        print("\n".join(f"{each.kind}: {each.text}; {each.hint}" for each in found))
    else:
        print("the maps fit the live cgroups, namespaces and containers")
    return 1 if found else 0


def persistent(config: Config) -> list[Finding]:
    """What does not fit now and did not fit a moment ago."""
    first = {(each.kind, each.subject) for each in State(config).findings()}
    if not first:
        return []
    time.sleep(HOOK_NS / 1e9)
    return [each for each in State(config).findings() if (each.kind, each.subject) in first]


class State:
    """What the maps and the run directory say, and what there is; the maps are read first."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._claims = {name: self._read(name) for name in KEYS}
        self._around: Surroundings = look_around(config.host.pin_directory)
        self._workloads = {_number(key): Workload.unpack(value) for key, value in self._raw("ft_workload")}
        self._spaces = garbage.living_namespaces()

    def _raw(self, name: str) -> list[tuple[bytes, bytes]]:
        with open_map(name, self._config.host.pin_directory) as pinned:
            try:
                return list(pinned.items())
            except OSError as error:
                raise FlowtagError(
                    f"reading pinned map {pinned.name}: {error.strerror}", "run as root"
                ) from None

    def _read(self, name: str) -> dict[bytes, Claim]:
        return {key: Claim.unpack(value) for key, value in self._raw(name)}

    def findings(self) -> Iterator[Finding]:
        yield from self._gone()
        yield from self._unclaimed()
        yield from self._owners()
        yield from self._host()
        yield from self._files("live")
        yield from self._files("pending")
        yield from self._without_key()

    def _name(self, name: str, key: bytes) -> str:
        return f"{name} {entry.key_text(name, entry.key(name, key, self._around))}"

    def _gone(self) -> Iterator[Finding]:
        """Living claims on what does not exist any more."""
        if self._around.cgroups:
            yield from self._dead("ft_cgroup", self._around.cgroups.keys(), "the cgroup is gone")
        yield from self._dead("ft_netns", self._spaces, "the network namespace is gone")

    def _dead(self, name: str, living: Collection[int], what: str) -> Iterator[Finding]:
        for key, claim in self._claims[name].items():
            if claim.kind in (0, CONTAINER_NETNS) and not claim.until and _number(key) not in living:
                subject = self._name(name, key)
                yield Finding("gone", subject, f"{subject}: {what}, but its claim has not ended", COLLECT)

    def _unclaimed(self) -> Iterator[Finding]:
        """Living containers below engines' roots that nobody has claimed, and cgroups without a mark."""
        mount = cgroup.mount_point() or ""
        for number, path in self._around.cgroups.items():
            parts = path.strip("/").split("/")
            roots = self._config.host.engine_roots
            if not any(engines.is_root(part, level + 1, roots) for level, part in enumerate(parts)):
                continue
            claim = self._claims["ft_cgroup"].get(abi.ID.pack(number))
            container = engines.container(path)
            if claim is None:
                text = f"cgroup {path} ({number}) is an engine's, but ft_cgroup has no entry"
                yield Finding("unmarked", path, text, "`flowtag run` marks it")
            elif claim.workload == abi.OWNER_UNCLAIMED and container and cgroup.populated(mount + path):
                text = f"cgroup {path} ({number}): nobody claims the container {container.container_id}"
                hint = "its flows are nobody's until `flowtag run` finds it; is the hook registered?"
                yield Finding("unclaimed", path, text, hint)

    def _owners(self) -> Iterator[Finding]:
        """Living claims whose owner is contested, unknown or ended."""
        for name, claims in self._claims.items():
            for key, claim in claims.items():
                if claim.until:
                    continue
                subject = self._name(name, key)
                known = self._workloads.get(claim.workload)
                # A pod's namespace keeps its first container's claim; its sockets are their cgroups'.
                shared = name == "ft_netns" and not claim.flags & abi.FLAG_NO_CGROUP
                if claim.workload == abi.OWNER_CONTESTED and not claim.flags & abi.FLAG_INHERITED:
                    text = f"{subject}: two living containers claim it, so its flows are nobody's"
                    yield Finding("contested", subject, text, "give each container a cgroup of its own")
                elif claim.workload > abi.OWNER_SPECIAL and known is None:
                    text = (
                        f"{subject}: its owner {claim.workload} is not in ft_workload, its flows have no name"
                    )
                    yield Finding("nameless", subject, text, "restart the container, or end the claim")
                elif known is not None and known.end and not shared:
                    text = f"{subject}: its owner {known.name} ({known.id}) has ended, but the claim has not"
                    yield Finding("ended", subject, text, "remove what is left of the container's cgroup")

    def _host(self) -> Iterator[Finding]:
        slot = self._workloads.get(abi.OWNER_HOST_SLOT)
        if slot is None:
            return
        current = self._workloads.get(slot.id)
        if current is None or current.end:
            what = "is not in ft_workload" if current is None else "has ended"
            text = f"the host's slot points to workload {slot.id}, which {what}"
            yield Finding("host", "host_slot", text, "restart `flowtag run`")

    def _files(self, directory: str) -> Iterator[Finding]:
        path = os.path.join(self._config.host.run_directory, directory)
        readable = dict(incarnation.every(path))
        try:
            names = [name for name in os.listdir(path) if name.endswith(".json")]
        except FileNotFoundError:
            return
        except OSError as error:
            raise FlowtagError(f"reading {path}: {error.strerror}", "run as root") from None
        for name in names:
            file = os.path.join(path, name)
            found = readable.get(name)
            if found is None:
                if os.path.exists(file):
                    yield Finding("damaged", file, f"{file} cannot be read", "remove it")
            elif directory == "pending":
                text = f"{file}: {_who(found)} could not be written: {found.reason or 'no reason given'}"
                yield Finding("pending", file, text, "`flowtag run` replays it")
            elif found.workload.end or not found.lives():
                text = f"{file}: {_who(found)} does not live any more, and no poststop came"
                yield Finding("dead", file, text, "`flowtag run` ends it within seconds")

    def _without_key(self) -> Iterator[Finding]:
        """Workloads that should be alive and own nothing."""
        owners = {
            claim.workload for claims in self._claims.values() for claim in claims.values() if not claim.until
        }
        slot = self._workloads.get(abi.OWNER_HOST_SLOT)
        for number, known in self._workloads.items():
            if known.end or number in owners or number == abi.OWNER_HOST_SLOT or (slot and number == slot.id):
                continue
            text = f"workload {known.name} ({number}) lives, but no living key names it"
            hint = "give it a cgroup of its own; if it is gone `flowtag run` ends it"
            yield Finding("keyless", str(number), text, hint)


def _number(key: bytes) -> int:
    return int.from_bytes(key, "little")


def _who(found: Incarnation) -> str:
    return f"container {found.workload.name} (process {found.pid})"
