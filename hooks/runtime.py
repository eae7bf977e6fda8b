# SPDX-License-Identifier: Apache-2.0
"""What `flowtag register` does to a container engine, as values: plans, changes, states.

Each engine is a module of hooks/runtimes with an adapter that reads the engine's effective configuration
and plans; hooks/edit.py alone writes.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

HOOK_DIRECTORY = "/var/lib/flowtag/hook"
"""What engines are told to call: stub and wrapper, which stay while a container refers to them.

flowtag-hook, flowtag-runc: the stub and the wrapper; app: a link to the application's directory, in
which hooks/main.py lies; runc: a link to the real runtime; run: a link to the run directory, where that is
not the default; disabled: the kill switch, where it is. hooks/installed.py makes and removes it.
World-readable and owned by root: rootless Podman reads hooks.d too, and may not fail on it.
"""


class Options(NamedTuple):
    """What the command line says: empty means that the adapter finds it.

    file: the engine's configuration file, or its hooks.d; socket: where the engine answers;
    method: of several ways into an engine, which (containerd: wrapper, base-spec, nri).
    """

    hook_directory: str = HOOK_DIRECTORY
    run_directory: str = "/run/flowtag"
    file: str = ""
    socket: str = ""
    method: str = ""


class Change(NamedTuple):
    """A file before and after; None: it is not there.

    mode: of a file that is made; one that is there keeps its own, and its owner. link: it is a symbolic
    link, and before and after are what it points to.
    """

    path: str
    before: bytes | None
    after: bytes | None
    mode: int = 0o644
    link: bool = False


class Plan(NamedTuple):
    """What to write, in this order, and what the reader has to do then (`systemctl reload docker`).

    wraps: the real runtime's path, which the wrapper has to execute; empty where the engine is not told
    to use the wrapper.
    """

    changes: tuple[Change, ...] = ()
    then: str = ""
    notes: tuple[str, ...] = ()
    wraps: str = ""


class Reference(NamedTuple):
    """A container that still names the stub, the wrapper or the engine's runtime entry.

    engine: a Runtime's name; container: its name where that is known, else its id; file: what says so;
    container_id: its whole id; running: None where that is not known.
    """

    engine: str
    container: str
    file: str
    container_id: str = ""
    running: bool | None = None


class State(NamedTuple):
    """Whether an engine calls the hook.

    registered: its configuration says so; effective: the running engine does it, None where that cannot be
    asked; restart: what would make it effective (a command), empty if nothing is needed;
    problem: what needs a hand, empty if nothing does; detail: the file or directory that says so.
    """

    registered: bool
    effective: bool | None
    restart: str = ""
    problem: str = ""
    detail: str = ""


class Runtime(Protocol):
    """An engine as register, unregister and status see it. Errors are FlowtagError with a hint."""

    name: str

    def found(self, options: Options) -> str:
        """How the engine was noticed (socket, binary, configuration), empty if it is not there."""

    def register(self, options: Options) -> Plan:
        """Plan it; no changes if it is in force; FlowtagError where it cannot be done safely."""

    def validate(self, options: Options, change: Change, temporary: str) -> None:
        """Let the engine judge the new content, which lies in `temporary`; FlowtagError with its words."""

    def unregister(self, options: Options, referring: bool) -> Plan:
        """Plan to stop injecting; `referring`: containers still need stub, wrapper or runtime entry."""

    def state(self, options: Options) -> State:
        """What is in force."""
