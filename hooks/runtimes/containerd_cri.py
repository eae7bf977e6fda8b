# SPDX-License-Identifier: Apache-2.0
"""CRI in containerd's effective configuration: which handlers are to call the hook, and what forbids it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from bpf.error import FlowtagError
from hooks.runtimes.containerd_config import BASE_SPEC, BINARY, runtimes_of

V2, V3 = "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"
"""CRI's section in a file of version 2, and of version 3 (containerd >= 2.0), which is also in its dumps."""
WRAPPER, BASE = "wrapper", "base-spec"
WRAPPER_FILE, SPEC_FILE = "flowtag-runc", "flowtag-base-spec.json"
RUNC_TYPES = ("io.containerd.runc.v2", "io.containerd.runc.v1")

_DISABLED = ("cri", V2, V3, "io.containerd.cri.v1.images")


class Choice(NamedTuple):
    """The handlers that are to call the hook, with what is in force for each; what the reader should know."""

    entries: dict[str, dict[str, Any]]
    notes: tuple[str, ...]


def refuse_generated(text: str, file: str, wrapper: str) -> None:
    """FlowtagError if k3s, rke2 or k0s write the file anew at every start."""
    folder = os.path.dirname(os.path.realpath(file))
    doing = f"registering with containerd: {file} is written anew"
    if folder.endswith("/agent/etc/containerd"):
        raise FlowtagError(
            f"{doing} from a template whenever k3s or rke2 starts",
            f"copy it to {folder}/config-v3.toml.tmpl (containerd 2) or config.toml.tmpl (1.x); there, below"
            f'  the header [...containerd.runtimes.runc.options], add the line {BINARY} = "{wrapper}";'
            " once that wrapper is there (docs/runtimes.md), restart k3s or rke2",
        )
    if "k0s_managed=true" in text:
        raise FlowtagError(
            f"{doing} whenever k0s starts", "remove its line `# k0s_managed=true`, then k0s leaves it to you"
        )


def section_of_file(content: Mapping[str, Any], file: str) -> str:
    """The section's name by the file's version; FlowtagError for version 1."""
    version = content.get("version", 1)
    if not isinstance(version, int) or version < 2:
        raise FlowtagError(
            f"registering with containerd: {file} has version {version}, whose sections have other names",
            "make it version 2 or later: `containerd config migrate` (containerd 2) prints it",
        )
    return V2 if version == 2 else V3


def section_of_dump(dump: Mapping[str, Any]) -> str:
    """The section's name in what is in force; FlowtagError if CRI is switched off."""
    disabled = [name for name in dump.get("disabled_plugins", []) if name in _DISABLED]
    if disabled:
        raise FlowtagError(
            f"registering with containerd: its CRI plugin is off (disabled_plugins has {disabled[0]!r})",
            "Docker does not use it: `flowtag register --runtime docker`; for Kubernetes take that off",
        )
    for section in (V3, V2):
        if runtimes_of(dump, section):
            return section
    raise FlowtagError(
        "registering with containerd: its configuration has no CRI runtime", "is it built without CRI?"
    )


def default_handler(dump: Mapping[str, Any]) -> str:
    """The handler of pods that name no RuntimeClass."""
    section = section_of_dump(dump)
    containerd = dump["plugins"][section]["containerd"]
    old = containerd.get("default_runtime")
    if isinstance(old, dict) and old.get("runtime_type"):
        raise FlowtagError(
            "registering with containerd: its file uses default_runtime, deprecated since 1.3",
            "name that runtime in containerd.runtimes and in default_runtime_name",
        )
    return str(containerd.get("default_runtime_name", "runc"))


def choose(dump: Mapping[str, Any], method: str, value: str) -> Choice:
    """The default handler, and every other one by runc that is free; FlowtagError if the default is not.

    method: WRAPPER or BASE; value: what it would set. A handler of a RuntimeClass runs containers as much as
    the default does. Those that run something else, or for which somebody has set the same key, are
    left alone and noted.
    """
    default = default_handler(dump)
    section = section_of_dump(dump)
    handlers = runtimes_of(dump, section)
    if default not in handlers:
        raise FlowtagError(f"registering with containerd: its default runtime {default!r} is not configured")
    entries, notes = {}, []
    for name in sorted(handlers, key=lambda name: (name != default, name)):
        entry = handlers[name]
        obstacle = _obstacle(entry, method, value)
        if not obstacle:
            entries[name] = entry
        elif name == default:
            raise FlowtagError(
                f"registering with containerd: its default runtime {name!r} {obstacle[0]}", obstacle[1]
            )
        else:
            notes.append(f"handler {name!r} is left alone: it {obstacle[0]}")
    return Choice(entries, tuple(notes))


def _obstacle(entry: Mapping[str, Any], method: str, value: str) -> tuple[str, str] | None:
    """Why a handler cannot be told to call the hook, and what to do instead; None if it can."""
    kind = entry.get("runtime_type")
    options = entry.get("options")
    options = options if isinstance(options, dict) else {}
    if kind not in RUNC_TYPES:
        return (
            f"is of type {kind!r}, not runc's: processes in a sandbox of its own are out of the hook's reach",
            "its pods stay without identity; flowtag can only see runtimes whose containers this kernel runs",
        )
    binary, spec = options.get(BINARY) or "", entry.get(BASE_SPEC) or ""
    other = (
        f"first `flowtag unregister --runtime containerd --method {BASE if method == WRAPPER else WRAPPER}`"
    )
    if method == WRAPPER:
        if os.path.basename(spec) == SPEC_FILE:
            return f"calls the hook by {BASE} already", other
        if binary not in ("", value):
            return (
                f"has {BINARY} = {binary!r}, set by somebody else",
                f"use --method {BASE}, which leaves it; or nri with containerd 1.7 and later. The wrapper"
                " runs one runtime for all handlers, so that one would be lost behind it",
            )
        return None
    if os.path.basename(binary) == WRAPPER_FILE:
        return f"calls the hook by {WRAPPER} already", other
    if spec not in ("", value):
        return (
            f"has {BASE_SPEC} = {spec!r}, set by somebody else",
            f"use --method {WRAPPER}; or add to it what `flowtag register --runtime runc --print` prints",
        )
    return None
