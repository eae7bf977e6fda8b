# SPDX-License-Identifier: Apache-2.0
"""CRI-O: the same two files as Podman's; it watches the directories that were there when it started."""

from __future__ import annotations

import os
import shutil

from hooks.runtime import Change, Options, Plan, State
from hooks.runtimes import hooks_d

SOCKET = "/run/crio/crio.sock"
RESTART = "systemctl restart crio"


class Crio:
    """CRI-O, by its configuration files; never asked over its socket, which only the kubelet should use."""

    name = "crio"

    def __init__(self, root: str = "") -> None:
        """`root` goes before the paths of configuration files."""
        self._root = root

    def found(self, options: Options) -> str:
        """Its socket, its binary, its configuration, or a directory that was named."""
        socket = options.socket or f"{self._root}{SOCKET}"
        if options.file:
            return options.file
        if os.path.exists(socket):
            return socket
        return shutil.which("crio") or next(filter(os.path.exists, self._files()), "")

    def register(self, options: Options) -> Plan:
        """Two files, where they are not there yet."""
        directory = hooks_d.choose(self.name, self._root, self.directories(options))
        changes = hooks_d.register(options, directory)
        # Directories that are not there at its start are dropped from its list.
        unwatched = bool(changes) and not os.path.isdir(directory)
        return Plan(changes, RESTART if unwatched else "")

    def validate(self, options: Options, change: Change, temporary: str) -> None:
        """Read back; CRI-O has no command that judges a hook."""
        hooks_d.validate(change, temporary)

    def unregister(self, options: Options, referring: bool) -> Plan:
        """Remove the files; containers that were made before keep what they were made with."""
        read = self.directories(options)
        return hooks_d.unregister(options, read if options.file else hooks_d.everywhere(self._root, read))

    def state(self, options: Options) -> State:
        """What the directories say; whether CRI-O watches them cannot be asked."""
        return hooks_d.state(options, self.directories(options))

    def directories(self, options: Options) -> list[str]:
        """The directories that CRI-O reads, the later ones before the earlier."""
        if options.file:
            return [options.file.rstrip("/")]
        return hooks_d.directories(self._root, hooks_d.configured(self._files(), ("crio", "runtime")))

    def _files(self) -> list[str]:
        etc = f"{self._root}/etc/crio"
        return [f"{etc}/crio.conf", *hooks_d.drop_ins(f"{etc}/crio.conf.d")]
