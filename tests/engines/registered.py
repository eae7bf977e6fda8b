# SPDX-License-Identifier: Apache-2.0
"""`flowtag register` and `unregister` for one engine of the rig, with everything of its own.

    registered = Registered(site, Docker(), file=engine.config, socket=engine.socket)
    registered.register()                          # AssertionError with what was complained of
    registered.unregister()
    registered.said                                # lines of the last command
    Registered(..., bundles=[("podman", f"{engine.directory}/root/*-containers/*/userdata/config.json")])

`docker_root` and `bundles` say where containers that refer to the hook are looked for: the machine's own
places are not the engine's here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bpf.error import FlowtagError
from hooks import installed, references
from hooks.register import Registration
from hooks.runtime import Options, Reference, Runtime
from hooks.self_test import self_test
from tests.engines.site import Site
from tests.rig.exporter import ROOT


class Registered:
    """One engine's adapter and its options; also what is done with the hook directory."""

    def __init__(
        self,
        site: Site,
        adapter: Runtime,
        *,
        file: Path | str = "",
        socket: Path | str = "",
        method: str = "",
        docker_root: str = "",
        bundles: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.adapter = adapter
        self.options = Options(
            hook_directory=str(site.hook_directory),
            run_directory=str(site.run),
            file=str(file),
            socket=str(socket),
            method=method,
        )
        self.said: list[str] = []
        self._complaints: list[FlowtagError] = []
        self._docker_roots = [docker_root] if docker_root else []
        self._bundles = list(bundles)
        self._registration = Registration(
            [adapter], self.options, self, self.referring, self._say, self._complaints.append
        )

    def register(self) -> None:
        self._run(self._registration.register(self.adapter.name, reload=True))
        state = self.adapter.state(self.options)
        assert (state.registered, state.problem) == (True, "")

    def unregister(self) -> None:
        self._run(self._registration.unregister(self.adapter.name, reload=True))
        state = self.adapter.state(self.options)
        assert (state.registered, state.problem) == (False, "")

    def _run(self, good: bool) -> None:
        complaints = [str(error) for error in self._complaints]
        self._complaints.clear()
        assert good, f"{complaints} {self.said}"

    def _say(self, line: str) -> None:
        self.said.append(line)

    def referring(self, options: Options) -> Sequence[Reference]:
        return references.find(options, self._docker_roots, self._bundles)

    def self_test(self, options: Options) -> None:
        self_test(str(ROOT / "hooks"))

    def install(self, options: Options, wraps: str) -> bool:
        done = installed.install(options.hook_directory, str(ROOT), wraps, options.run_directory)
        self_test(options.hook_directory)
        return bool(done)

    def remove(self, options: Options) -> bool:
        return bool(installed.remove(options.hook_directory))

    def disabled(self, options: Options) -> bool:
        return installed.disabled(options.hook_directory)
