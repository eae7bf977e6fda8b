# SPDX-License-Identifier: Apache-2.0
"""One containerd with its configuration file, as it is found."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from bpf.error import FlowtagError
from hooks import edit
from hooks.runtime import Options
from hooks.runtimes import containerd_cri as cri
from hooks.runtimes.containerd_config import BASE_SPEC, BINARY, Setting, Tree, parse, settings_of
from hooks.runtimes.containerd_engine import FILE, Engine, find

KEYS = {cri.WRAPPER: BINARY, cri.BASE: BASE_SPEC}


class Site(NamedTuple):
    """The file, with text None where it is not there; the containerd that reads it, None if none is found."""

    engine: Engine | None
    file: str
    text: str | None

    @property
    def spec_file(self) -> str:
        """Where our base spec lies."""
        return os.path.join(os.path.dirname(self.file), cri.SPEC_FILE)

    @property
    def runs(self) -> bool:
        return self.engine is not None and self.engine.pid != 0

    def effective(self) -> Tree:
        """What is in force with the file as it is; without containerd, what the file itself says."""
        if self.engine is None:
            return self.content()
        return self.engine.defaults() if self.text is None else self.engine.dump(self.file)

    def content(self) -> Tree:
        return parse(self.text or "", self.file)

    def section(self) -> str:
        """CRI's section in the file; a file of version 1 has none, and says nothing in this one."""
        version = self.content().get("version")
        return cri.V3 if isinstance(version, int) and version > 2 else cri.V2

    def value(self, method: str, options: Options) -> str:
        """What a method sets."""
        return f"{options.hook_directory}/{cri.WRAPPER_FILE}" if method == cri.WRAPPER else self.spec_file

    def ours(
        self, tree: Tree, section: str, options: Options, methods: Iterable[str] = KEYS
    ) -> list[Setting]:
        """Which settings of a file or of a dump are ours, in its order."""
        wanted = {KEYS[method]: self.value(method, options) for method in methods}
        return [one for one in settings_of(tree, section, wanted) if one.value == wanted[one.key]]


def look(options: Options) -> Site:
    """What there is; FlowtagError if the running containerd reads another file than the one named."""
    engine = find(options.socket)
    file = options.file or (engine.file if engine else FILE)
    if engine and engine.shares_root and not _same(file, engine.file):
        raise FlowtagError(
            f"looking at containerd: the one that runs reads {engine.file}, not {file}",
            f"--file {engine.file}, or name another containerd's socket with --socket",
        )
    data = edit.read(file)
    try:
        return Site(engine, file, None if data is None else data.decode())
    except UnicodeDecodeError as error:
        raise FlowtagError(f"reading {file}: {error}", "TOML is UTF-8") from error


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def late(site: Site, files: Iterable[str]) -> bool:
    """Whether a file changed after the running containerd started; True if that cannot be told."""
    started = site.engine.started() if site.engine else None
    changed = [os.stat(file).st_ctime for file in files if os.path.exists(file)]
    return started is None or any(time > started for time in changed)
