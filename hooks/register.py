# SPDX-License-Identifier: Apache-2.0
"""register and unregister: what is done for each engine, in which order, and what is said about it.

Before anything is written the stub has shown that it works. Then comes the hook directory, then the
engines' files: an engine is never told of a hook that is not there. The way back is the other way round, and
ends where a container, or an engine that has not read its file again, would miss what is removed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

from bpf.error import FlowtagError
from hooks import edit, installed
from hooks.leave import leave
from hooks.runtime import Options, Plan, Reference, Runtime
from hooks.self_test import self_test

APPLICATION = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

Find = Callable[[Options, str], Sequence[Reference]]
"""(options, the engine that their file and socket are of, or "auto") -> containers that refer."""
Say = Callable[[str], None]


@runtime_checkable
class Reloadable(Protocol):
    """An engine that reads its configuration again without stopping anything."""

    def reload(self, options: Options, registered: bool) -> None:
        """Have it read, and wait until that is in force; FlowtagError if it does not come about."""


def choose(runtimes: Sequence[Runtime], name: str, options: Options) -> list[Runtime]:
    """The engines to work on: the one named, or those that are here; plain runc if there is no other."""
    if name != "auto":
        chosen = [runtime for runtime in runtimes if runtime.name == name and runtime.found(options)]
        if not chosen:
            raise FlowtagError(
                f"looking for {name}: no socket, binary or configuration of it",
                "name its configuration with --file, or its socket with --socket",
            )
        return chosen
    found = [runtime for runtime in runtimes if runtime.found(options)]
    if not found:
        raise FlowtagError("looking for container engines: none found", "name one with --runtime")
    found = [runtime for runtime in found if runtime.name != "containerd-nri"]
    return [runtime for runtime in found if runtime.name != "runc"] or found


class Registration:
    """One command: what it works on, what it says where."""

    def __init__(
        self,
        runtimes: Sequence[Runtime],
        options: Options,
        find: Find,
        say: Say,
        complain: Callable[[FlowtagError], None],
    ) -> None:
        """runtimes: all there are, of which a command may work on some."""
        self.runtimes, self.options, self.find = runtimes, options, find
        self.say, self.complain, self.named = say, complain, "auto"

    def register(self, name: str, dry_run: bool = False, reload: bool = False) -> bool:
        """Make engines call the hook; False if one of them could not be made to."""
        self.named = name
        chosen = choose(self.runtimes, name, self.options)
        if not dry_run:
            self_test(os.path.join(APPLICATION, "hooks"))
        done = [self._each(runtime, self._register, dry_run, reload) for runtime in chosen]
        if not dry_run and installed.disabled(self.options.hook_directory):
            self.say("the hook is disabled: `flowtag enable` makes it work again")
        return all(done)

    def unregister(self, name: str, dry_run: bool = False, reload: bool = False) -> bool:
        """Make engines stop; remove what nobody refers to any more. False if something failed."""
        self.named = name
        every = name == "auto"  # also an engine that is gone, but its configuration is not
        chosen = list(self.runtimes) if every else choose(self.runtimes, name, self.options)
        unregister = partial(self._unregister, [other for other in self.runtimes if other not in chosen])
        done = [self._each(runtime, unregister, dry_run, reload) for runtime in chosen]
        if all(done) and not dry_run:
            self._purge()
        return all(done)

    def leave(self) -> None:
        """The application goes: what had to stay of the hook must do without it."""
        if os.path.isdir(self.options.hook_directory):
            command = leave(self.options.hook_directory, APPLICATION, self.options.run_directory)
            self.say(f"left: {command} ends it when no container refers to the hook any more")

    def _each(
        self, runtime: Runtime, act: Callable[[Runtime, bool, bool], None], dry_run: bool, reload: bool
    ) -> bool:
        try:
            act(runtime, dry_run, reload)
        except FlowtagError as error:
            self.complain(error)
            return False
        except OSError as error:
            about = f"{error.filename}: " if error.filename else ""
            self.complain(FlowtagError(f"working on {runtime.name}: {about}{error.strerror}"))
            return False
        return True

    def _register(self, runtime: Runtime, dry_run: bool, reload: bool) -> None:
        named = self.options.file
        if named and not os.path.isdir(os.path.dirname(named)):
            raise FlowtagError(
                f"registering with {runtime.name}: {os.path.dirname(named)} does not exist",
                "see --file: an engine would not look there",
            )
        plan = runtime.register(self.options)
        for change in plan.changes:
            edit.check(change)
        wraps = self._wraps(runtime.name, plan.wraps)
        self._show(runtime.name, plan)
        if dry_run:
            self._then(runtime.name, plan.then)
            return
        directory = self.options.hook_directory
        if installed.install(directory, APPLICATION, wraps, self.options.run_directory):
            self.say(f"{runtime.name}: wrote {directory}")
        self_test(directory)
        installed.note(directory, [change.path for change in plan.changes])
        self._apply(runtime, plan, backup=True)
        if not plan.changes and (not plan.then or runtime.state(self.options).registered):
            self.say(f"{runtime.name}: registered already, nothing changed")
        self._finish(runtime, plan, reload, registered=True)

    def _unregister(self, others: Sequence[Runtime], runtime: Runtime, dry_run: bool, reload: bool) -> None:
        self._tell_sharers(runtime, others)
        plan = runtime.unregister(self.options, self._needed(runtime))
        self._show(runtime.name, plan)
        if dry_run:
            self._then(runtime.name, plan.then)
            return
        self._apply(runtime, plan, backup=False)
        self._finish(runtime, plan, reload, registered=False)
        rest = Plan()
        if plan.changes and not self._needed(runtime):  # since it has read its file again, perhaps
            rest = runtime.unregister(self.options, False)
            self._show(runtime.name, rest)
            self._apply(runtime, rest, backup=False)
            self._finish(runtime, rest, reload, registered=False)
        if not plan.changes and not rest.changes and not plan.then:
            self.say(f"{runtime.name}: not registered, nothing changed")

    def _tell_sharers(self, runtime: Runtime, others: Sequence[Runtime]) -> None:
        """Podman and CRI-O may read the same directory."""
        state = runtime.state(self.options)
        for other in others if state.registered else ():
            own = self._own()
            if other.found(own) and other.state(own).detail == state.detail:
                self.say(f"{runtime.name}: note: {other.name} reads {state.detail} too, and stops as well")

    def _own(self) -> Options:
        """The options for engines that were not named."""
        return self.options._replace(file="", socket="", method="")

    def _needed(self, runtime: Runtime) -> bool:
        """Whether containers of this engine, or the engine as it runs, still refer to the hook."""
        if any(reference.engine == runtime.name for reference in self.find(self.options, self.named)):
            return True
        return runtime.state(self.options).effective is True

    def _wraps(self, name: str, wraps: str) -> str:
        """What the wrapper executes: there is one for all engines, so they must agree on it."""
        try:
            there = os.readlink(f"{self.options.hook_directory}/runc")
        except OSError:
            return wraps
        if not wraps or not os.path.exists(there) or os.path.realpath(there) == os.path.realpath(wraps):
            return there if os.path.exists(there) else wraps
        raise FlowtagError(
            f"registering with {name}: its runtime is {wraps}, but the wrapper in "
            f"{self.options.hook_directory} executes {there} for another engine",
            "give this engine a hook directory of its own with --hook-directory",
        )

    def _show(self, name: str, plan: Plan) -> None:
        for note in plan.notes:
            self.say(f"{name}: note: {note}")
        if text := edit.diff(plan.changes).rstrip("\n"):
            self.say(text)

    def _apply(self, runtime: Runtime, plan: Plan, backup: bool) -> None:
        for change in plan.changes:
            edit.apply(
                change,
                lambda change, temporary: runtime.validate(self.options, change, temporary),
                backup,
            )
            self.say(f"{runtime.name}: {'removed' if change.after is None else 'wrote'} {change.path}")

    def _finish(self, runtime: Runtime, plan: Plan, reload: bool, registered: bool) -> None:
        if plan.then and reload and isinstance(runtime, Reloadable):
            runtime.reload(self.options, registered)
            self.say(f"{runtime.name}: reloaded, and it is in force")
        else:
            self._then(runtime.name, plan.then)

    def _then(self, name: str, then: str) -> None:
        if then:
            self.say(f"{name}: to make it effective: {then}")

    def _purge(self) -> None:
        """Remove the hook directory if no engine and no container needs it; else say who does."""
        directory = self.options.hook_directory
        for runtime in self.runtimes:
            for options in {self._own(), self.options if runtime.name == self.named else self._own()}:
                state = runtime.state(options)
                if state.registered or state.effective:
                    cause = "is registered" if state.registered else f"uses it until `{state.restart}`"
                    self.say(f"kept {directory}: {runtime.name} {cause}; then run the same command again")
                    return
        references = self.find(self.options, self.named)
        for reference in references:
            self.say(f"kept for {reference.engine} container {reference.container} ({reference.file})")
        if references:
            self.say(f"kept {directory}: run the same command again when these containers are gone")
            return
        for path in installed.noted(directory):
            if edit.names(path, directory):
                self.say(f"kept {directory}: {path} still names it; unregister with --file {path}")
                return
        if installed.remove(directory):
            self.say(f"removed {directory}")
