# SPDX-License-Identifier: Apache-2.0
"""Podman: two files in its hooks.d; it reads them at every start, so nothing needs a restart."""

from __future__ import annotations

import os
import shutil

from hooks.runtime import Change, Options, Plan, State
from hooks.runtimes import hooks_d


class Podman:
    """Podman of root; a user's reads the same directory, unless their containers.conf says otherwise."""

    name = "podman"

    def __init__(self, root: str = "") -> None:
        """`root` goes before the paths of configuration files."""
        self._root = root

    def found(self, options: Options) -> str:
        """Its binary, or a directory that was named."""
        return options.file or shutil.which("podman") or ""

    def register(self, options: Options) -> Plan:
        """Two files, where they are not there yet."""
        directory = hooks_d.choose(self.name, self._root, self.directories(options))
        return Plan(hooks_d.register(options, directory))

    def validate(self, options: Options, change: Change, temporary: str) -> None:
        """Read back; podman has no command that judges a hook without starting a container."""
        hooks_d.validate(change, temporary)

    def unregister(self, options: Options, referring: bool) -> Plan:
        """Remove the files; containers that were made before keep what they were made with."""
        read = self.directories(options)
        return hooks_d.unregister(options, read if options.file else hooks_d.everywhere(self._root, read))

    def state(self, options: Options) -> State:
        """What the directories say, which is in force at the next start."""
        state = hooks_d.state(options, self.directories(options))
        return state._replace(effective=state.registered)

    def directories(self, options: Options) -> list[str]:
        """The directories that podman reads, the later ones before the earlier."""
        if options.file:
            return [options.file.rstrip("/")]
        files = [
            f"{self._root}/usr/share/containers/containers.conf",
            f"{self._root}/etc/containers/containers.conf",
            *hooks_d.drop_ins(f"{self._root}/etc/containers/containers.conf.d", ".conf"),
        ]
        if os.environ.get("CONTAINERS_CONF"):
            files = [os.environ["CONTAINERS_CONF"]]
        return hooks_d.directories(self._root, hooks_d.configured(files, ("engine",)))
