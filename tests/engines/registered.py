# SPDX-License-Identifier: Apache-2.0
"""`flowtag register` and `unregister` for one engine of the rig, with everything of its own.

    registered = Registered(site, Docker(), file=engine.config, socket=engine.socket)
    registered.register()                          # AssertionError with what was said if it fails
    registered.unregister()
    registered.said                                # what the last command said
    Registered(..., bundles=[("podman", f"{engine.directory}/root/*-containers/*/userdata/config.json")])

Without `bundles` it is the command itself. They say where containers that refer to the hook are looked for:
the command knows the places of the machine's engines, and Docker's by asking it, but no other private ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bpf.error import FlowtagError
from hooks import references
from hooks.register import Registration
from hooks.runtime import Options, Reference, Runtime
from tests.engines.site import Site
from tests.rig.exporter import flowtag


class Registered:
    """One engine's adapter and its options."""

    def __init__(
        self,
        site: Site,
        adapter: Runtime,
        *,
        file: Path | str = "",
        socket: Path | str = "",
        method: str = "",
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
        self.said = ""
        self._bundles = list(bundles)

    def register(self) -> None:
        self._run("register")
        state = self.adapter.state(self.options)
        assert (state.registered, state.problem) == (True, "")

    def unregister(self) -> None:
        self._run("unregister")
        state = self.adapter.state(self.options)
        assert (state.registered, state.problem) == (False, "")

    def _run(self, command: str) -> None:
        if self._bundles:
            self._run_here(command)
            return
        fields = self.options._asdict()
        if command == "unregister":
            del fields["method"]  # it stops whatever is there
        words = [word for name, value in fields.items() if value for word in (_flag(name), value)]
        self.said = flowtag(command, "--runtime", self.adapter.name, "--reload", *words, timeout=60)

    def _run_here(self, command: str) -> None:
        said: list[str] = []
        complaints: list[FlowtagError] = []
        registration = Registration([self.adapter], self.options, self._find, said.append, complaints.append)
        good = getattr(registration, command)(self.adapter.name, reload=True)
        self.said = "\n".join(said)
        assert good, f"{[str(error) for error in complaints]} {self.said}"

    def _find(self, options: Options, engine: str) -> Sequence[Reference]:
        return references.find(options, engine, [], self._bundles)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
