# SPDX-License-Identifier: Apache-2.0
"""containerd's CRI service, by a wrapper as runc's BinaryName or by a base spec.

wrapper: every container and pause container of a handler goes through it. base-spec: app containers
only, since CRI makes the pause container from its own; a pod's identity then comes from its containers.
containerd reads its configuration at its start only; running containers outlive a restart.
"""

from __future__ import annotations

import os
import shutil

from bpf.error import FlowtagError
from hooks import edit
from hooks.runtime import Change, Options, Plan, State
from hooks.runtimes import containerd_cri as cri
from hooks.runtimes.containerd_config import BASE_SPEC, Setting, Tree, parse, runtimes_of, settings_of
from hooks.runtimes.containerd_edit import put, take
from hooks.runtimes.containerd_engine import FILE, SOCKETS, Engine, comparable, difference
from hooks.runtimes.containerd_site import KEYS, late, look
from hooks.runtimes.containerd_spec import base_spec, check_spec

RESTART = "systemctl restart containerd"
_MADE = "# flowtag made this file\n"
NO_PAUSE = "base-spec does not reach pause containers: what a pod is, is learnt from its containers"


class Containerd:
    """The node's containerd."""

    name = "containerd"

    def found(self, options: Options) -> str:
        """Its socket, its configuration, or its binary."""
        sockets = (options.socket.removeprefix("unix://"),) if options.socket else SOCKETS
        places = (*sockets, options.file or FILE)
        return next(filter(os.path.exists, places), "") or shutil.which("containerd") or ""

    def register(self, options: Options) -> Plan:
        """Put the setting into every handler that is free to take it."""
        method = _methods(options)[0]
        site = look(options)
        if site.engine is None:
            raise FlowtagError("registering with containerd: it is not there", "is it in PATH, or running?")
        site.content()  # is it TOML at all
        cri.refuse_generated(site.text or "", site.file, site.value(cri.WRAPPER, options))
        dump = site.effective()
        choice = cri.choose(dump, method, site.value(method, options))
        text = f"{_MADE}version = {dump['version']}\n" if site.text is None else site.text
        section = cri.section_of_file(parse(text, site.file), site.file)
        there = site.ours(dump, cri.section_of_dump(dump), options)
        for name, entry in choice.entries.items():
            setting = Setting(name, KEYS[method], site.value(method, options))
            if setting not in there:
                text = put(text, section, setting, entry)
        changes = [Change(site.file, _bytes(site.text), text.encode())] if text != site.text else []
        notes, wraps = choice.notes, ""
        if method == cri.WRAPPER:
            wraps = _runc(site.engine)
        else:
            notes = (*notes, NO_PAUSE)
            before, spec = edit.read(site.spec_file), base_spec(site.engine, options)
            if before != spec:
                changes.insert(0, Change(site.spec_file, before, spec))  # there before it is named
        return Plan(tuple(changes), RESTART if changes and site.runs else "", notes, wraps)

    def validate(self, options: Options, change: Change, temporary: str) -> None:
        """containerd must read the file, and find what it found before and our change, no more."""
        if os.path.basename(change.path) == cri.SPEC_FILE:
            check_spec(temporary)
            return
        engine = look(options).engine
        old, new = (_settings(data, change.path) for data in (change.before, change.after))
        if engine is None:
            return  # gone, and its configuration is not: whoever installs it again finds valid TOML
        before = engine.defaults() if change.before is None else engine.dump(change.path)
        handlers = runtimes_of(before, cri.section_of_dump(before))
        for one in old ^ new:
            holder: Tree = handlers.get(one.handler, {})
            for name in one.tables:
                holder = holder.setdefault(name, {})
            holder[one.key] = one.value if one in new else ""
        after = engine.dump(temporary)
        found = difference(comparable(before, change.path), comparable(after, temporary))
        if found:
            raise FlowtagError(
                f"checking the new {change.path} with containerd: in force would be {found}",
                "a file that it imports may replace CRI's whole section (containerd 1.x): edit that by hand",
            )

    def unregister(self, options: Options, referring: bool) -> Plan:
        """Take out what register put in; bundles note the wrapper themselves, so `referring` is no matter.

        The base spec goes once no containerd runs that may have read a file which names it: CRI does not
        start without a base spec that it was told of.
        """
        site = look(options)
        methods = _methods(options) if options.method else tuple(KEYS)
        settings = site.ours(site.content(), site.section(), options, methods)
        changes, notes = [], []
        if settings and site.text is not None:
            text = take(site.text, site.section(), settings)
            made = text.startswith(_MADE) and parse(text, site.file).keys() == {"version"}
            changes.append(Change(site.file, site.text.encode(), None if made else text.encode()))
        pending = site.runs and (bool(settings) or late(site, [site.file]))
        spec = edit.read(site.spec_file)
        if spec is not None and cri.BASE in methods:
            if pending:
                notes.append(f"{site.spec_file} stays until containerd has restarted; then run this again")
            else:
                changes.append(Change(site.spec_file, spec, None))
        return Plan(tuple(changes), RESTART if settings and site.runs else "", tuple(notes))

    def state(self, options: Options) -> State:
        """What the file says, and whether the running containerd has read it.

        That is told by time: a containerd that started after the last change of the file, of what it imports
        and of the base spec (by ctime, which nobody can set back) has read them. One that started before may
        still call the hook after unregister, and counts as if it did while the wrapper or base spec is there.
        """
        site = look(options)
        written = site.ours(site.content(), site.section(), options)
        dump, problem, default = site.effective(), "", ""
        mine = written
        if written and site.engine is not None:
            section, default = cri.section_of_dump(dump), cri.default_handler(dump)
            mine = site.ours(dump, section, options)
            if default not in {one.handler for one in mine}:
                problem = f"{site.file} names the hook, but a file that it imports undoes that"
        missing = [one.value for one in mine if not os.access(one.value, os.R_OK)]
        if missing:
            problem = f"{missing[0]} is missing, and containers may not start: run `flowtag register`"
        detail = ", ".join(f"{one.handler}: {one.key}" for one in mine)
        if any(one.key == BASE_SPEC for one in mine):
            detail = f"{detail}; {NO_PAUSE}"
        if not site.runs:
            return State(bool(mine), None, "", problem, detail)
        files = [
            site.file,
            *map(str, dump.get("imports", [])),
            *(one.value for one in mine if one.key == BASE_SPEC),
        ]
        changed = late(site, files)
        if mine:
            return State(True, not changed, RESTART if changed else "", problem, detail)
        left = changed and any(os.path.exists(site.value(method, options)) for method in KEYS)
        return State(False, left, RESTART if left else "", problem, detail)


def _methods(options: Options) -> tuple[str, ...]:
    if options.method not in ("", *KEYS):
        raise FlowtagError(
            f"registering with containerd: it has no method {options.method!r}", f"{', '.join(KEYS)} or nri"
        )
    return (options.method or cri.WRAPPER,)


def _settings(data: bytes | None, path: str) -> set[Setting]:
    """All that a file says for our keys, whoever wrote it, in whichever section."""
    tree = parse((data or b"").decode(), path)
    return {one for section in (cri.V2, cri.V3) for one in settings_of(tree, section, KEYS.values())}


def _runc(engine: Engine) -> str:
    """What containerd's shim runs where no BinaryName is set, our wrapper under runc's name aside."""
    root = f"/proc/{engine.pid}/root" if engine.pid and not engine.shares_root else ""
    for place in engine.path.split(":"):
        runc = os.path.join(place, "runc")
        ours = os.path.basename(os.path.realpath(runc)) == cri.WRAPPER_FILE
        if place and not ours and os.access(f"{root}{runc}", os.X_OK):
            return runc
    raise FlowtagError(f"registering with containerd: runc is not in its PATH, {engine.path}", "install runc")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
