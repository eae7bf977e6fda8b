# SPDX-License-Identifier: Apache-2.0
"""The rules of claims in plain Python, for the property test: no maps, no kernel, no times but ends.

An owner is a name: "unclaimed", "contested", "hook:3", "found:a". What is alive in the world (processes,
cgroups) the caller tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

UNCLAIMED, CONTESTED = "unclaimed", "contested"


@dataclass(slots=True)
class Key:
    """What a key should hold; `cid` is the container's of an owner that the exporter found."""

    owner: str
    inherited: bool = False
    ended: bool = False
    found: str = ""
    no_cgroup: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """A remembered incarnation: whose, and the keys that it claims (0: none)."""

    cid: str
    owner: str
    process: int
    cgroup: int
    space: int
    no_cgroup: bool


@dataclass
class Model:
    """process_lives and populated tell the world; parent maps every existing cgroup to its parent's id."""

    process_lives: Callable[[int], bool]
    populated: Callable[[int], bool]
    parent: dict[int, int] = field(default_factory=dict)
    cgroups: dict[int, Key] = field(default_factory=dict)
    spaces: dict[int, Key] = field(default_factory=dict)
    live: dict[str, Record] = field(default_factory=dict)
    pending: dict[str, Record] = field(default_factory=dict)

    def mkdir(self, number: int, parent: int) -> None:
        self.parent[number] = parent
        self.cgroups[number] = replace(self.cgroups[parent], inherited=True)

    def rmdir(self, number: int) -> None:
        del self.parent[number]
        self.cgroups[number].ended = True

    def lives(self, record: Record) -> bool:
        return self.process_lives(record.process) or (
            record.cgroup in self.parent and self.populated(record.cgroup)
        )

    # The hook, and the exporter in its place.

    def begin(self, new: Record) -> Record:
        """createRuntime, or the replay of one; what was remembered of the container ends."""
        for old in [book[new.cid] for book in (self.live, self.pending) if new.cid in book]:
            if old.process == new.process:
                new = replace(new, owner=old.owner)
            elif not self.process_lives(old.process) and (old.cgroup == new.cgroup or not self.lives(old)):
                self.end(old)
        key = self.cgroups.get(new.cgroup)
        replaced = key.owner if key and key.found == new.cid and not key.inherited else ""
        if new.cgroup:
            self.cgroups[new.cgroup] = self._claimed(key, Key(new.owner), replaced, shared=False)
            self._below_follows(new.cgroup)
        if new.space:
            mine = Key(new.owner, no_cgroup=new.no_cgroup)
            house = self.spaces.get(new.space)
            self.spaces[new.space] = self._claimed(house, mine, replaced, shared=not new.no_cgroup)
        return new

    def _claimed(self, old: Key | None, new: Key, replaced: str, *, shared: bool) -> Key:
        """A direct claim on a key: what the key holds then."""
        if old is None or old.ended or old.inherited or old.owner in (UNCLAIMED, new.owner, replaced):
            return new
        if shared or new.found:
            return old
        return replace(new, owner=CONTESTED)

    def end(self, old: Record) -> None:
        """poststop, or the exporter in its place: what is still its own."""
        key = self.cgroups.get(old.cgroup)
        if key and key.owner == old.owner and not key.ended:
            key.ended = True
            self._below_follows(old.cgroup)
        house = self.spaces.get(old.space)
        if house and house.owner == old.owner and (old.no_cgroup or not self._shared(old)):
            house.ended = True

    def _shared(self, old: Record) -> bool:
        return any(
            other.space == old.space and other.owner != old.owner and self.lives(other)
            for other in self.live.values()
        )

    def _below_follows(self, top: int) -> None:
        if top in self.parent:
            for number in [child for child, parent in self.parent.items() if parent == top]:
                key, above = self.cgroups[number], self.cgroups[top]
                if key.inherited or key.owner == UNCLAIMED:
                    self.cgroups[number] = replace(above, inherited=True)
                    self._below_follows(number)

    def poststop(self, cid: str) -> None:
        for book in (self.live, self.pending):
            if cid in book and not self.lives(book[cid]):
                self.end(book.pop(cid))

    # The exporter.

    def end_orphans(self) -> None:
        for cid, record in list(self.live.items()):
            if not self.lives(record):
                self.end(record)
                del self.live[cid]

    def replay(self, cid: str) -> None:
        left = self.pending[cid]
        if self.lives(left):
            self.live[cid] = self.begin(left)
        else:
            self.end(left)
        del self.pending[cid]

    def walk(self, containers: dict[int, tuple[str, int]], *, patient: bool) -> None:
        """containers: the cgroups that are named like one, with that name and their first process's
        namespace; patient: they are old enough that no hook is at work on them."""
        for number, (cid, space) in containers.items():
            key = self.cgroups[number]
            if key.owner == UNCLAIMED and patient and self.populated(number):
                mine = Key(f"found:{number}", found=cid)
                self.cgroups[number] = mine
                if space:
                    self.spaces[space] = self._claimed(self.spaces.get(space), replace(mine), "", shared=True)
            if self.cgroups[number].owner != UNCLAIMED:
                self._below_follows(number)

    def collect(self, removed: set[int]) -> None:
        """What the exporter ends beside; `removed` are the keys that it may forget: gone, and long ended."""
        for number in removed:
            del self.cgroups[number]
        for number, key in self.cgroups.items():
            key.ended |= number not in self.parent
        living = {key.owner for key in self.cgroups.values() if not key.ended}
        for house in self.spaces.values():
            house.ended |= bool(house.found) and house.owner not in living
