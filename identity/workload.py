# SPDX-License-Identifier: Apache-2.0
"""What a workload is: the value behind every owner, and its bytes in ft_workload.

On the hook's path: a plain class, because importing dataclasses costs a container's start 12 ms.
"""

from __future__ import annotations

import posix

from bpf import abi

KIND_CONTAINER = abi.WORKLOAD_KINDS.index("container")
KIND_POD = abi.WORKLOAD_KINDS.index("pod")
KIND_HOST = abi.WORKLOAD_KINDS.index("host")
SOURCE_HOOK = abi.SOURCES.index("hook")
STATE_VERIFIED = abi.STATES.index("verified")

# Bytes that each name has room for, from the one layout.
ROOM = {name: int(code[:-1]) for name, code in abi.WORKLOAD.fields if code.endswith("s")}


def new_id() -> int:
    """A workload id: 64 random bits, never one of the special owners."""
    while True:
        number = int.from_bytes(posix.urandom(8), "little")
        if number > abi.OWNER_SPECIAL:
            return number


def fit(text: str, room: int) -> str:
    """`text` without control characters, cut between characters to `room` bytes of UTF-8."""
    text = text[: 4 * room]  # bounds the work on a hostile name; what follows would be cut anyway
    if not text.isprintable():
        text = "".join(c for c in text if c >= " " and not "\x7f" <= c <= "\x9f")
    return text.encode("utf-8", "ignore")[:room].decode("utf-8", "ignore")


def display_name(namespace: str, pod: str, container: str, otherwise: str) -> str:
    """`namespace/pod/container` in Kubernetes, else the container's name, else `otherwise`.

    A name of its own with a slash, which `nerdctl run --annotation nerdctl/name=` may choose, is passed
    over: it would read as a pod's.
    """
    if pod and namespace:
        return "/".join(filter(None, (namespace, pod, container)))
    return otherwise if not container or "/" in container else container


class Workload:
    """One incarnation of a container, a pod or the host: its id, its life and its names.

    Times are CLOCK_BOOTTIME ns, end 0 means alive; kind, source and state are codes of flowtag.h.
    Names are clean and fit their field from the moment that they are given.
    """

    __slots__ = abi.WORKLOAD.names

    id: int
    start: int
    end: int
    kind: int
    source: int
    state: int
    runtime: str
    container_id: str
    container: str
    pod: str
    namespace: str
    pod_uid: str
    app: str
    image: str
    host: str

    def __init__(self, **values: int | str) -> None:
        for name in self.__slots__:
            room = ROOM.get(name)
            if room is None:
                setattr(self, name, int(values.pop(name, 0)))
            else:
                setattr(self, name, fit(str(values.pop(name, "")), room))
        if values:
            raise TypeError(f"a workload has no {', '.join(sorted(values))}")

    @property
    def name(self) -> str:
        """`namespace/pod/container` in Kubernetes, else the container's name or id, or the host's."""
        return display_name(self.namespace, self.pod, self.container, self.container_id or self.host)

    def values(self) -> tuple[int | str, ...]:
        """Every field, in the order of the layout."""
        return tuple(getattr(self, name) for name in self.__slots__)

    def replace(self, **values: int | str) -> Workload:
        """The same workload with some fields changed."""
        return Workload(**{**dict(zip(self.__slots__, self.values(), strict=True)), **values})

    def pack(self) -> bytes:
        """The value of ft_workload."""
        return abi.WORKLOAD.pack(
            *(v if isinstance(v, int) else v.encode("utf-8", "ignore") for v in self.values())
        )

    @classmethod
    def unpack(cls, value: bytes) -> Workload:
        """Read a value of ft_workload, whoever wrote it."""
        fields: dict[str, int | str] = {}
        for name, item in zip(abi.WORKLOAD.names, abi.WORKLOAD.unpack(value), strict=True):
            if isinstance(item, bytes):
                item = item.split(b"\0", 1)[0].decode("utf-8", "ignore")
            fields[name] = item
        return cls(**fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Workload) and self.values() == other.values()

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Workload({self.name!r}, id={self.id:#x})"
