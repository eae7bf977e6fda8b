# SPDX-License-Identifier: Apache-2.0
"""The hooks.d that Podman and CRI-O read: JSON files of version 1.0.0, here one for each event.

Two files, because the event is an argument of the stub and a file has one list of arguments. A file
that is not valid JSON keeps every container from starting, so each is read back before it counts.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Sequence

from bpf.error import FlowtagError
from hooks import edit
from hooks.bundle import entries
from hooks.runtime import Change, Options, Plan, State

DISTRIBUTION = "/usr/share/containers/oci/hooks.d"
ADMINISTRATOR = "/etc/containers/oci/hooks.d"
# In the order of writing: an interrupted registration ends containers that it never began, which is harmless.
EVENTS = ("poststop", "createRuntime")


def file_of(directory: str, event: str) -> str:
    """The file for one event."""
    return f"{directory}/flowtag-{event}.json"


def content(options: Options, event: str) -> bytes:
    """What the file says: this stub, always, at this stage."""
    document = {
        "version": "1.0.0",
        "hook": entries(f"{options.hook_directory}/flowtag-hook", options.run_directory)[event],
        "when": {"always": True},
        "stages": [event],
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def register(options: Options, directory: str) -> tuple[Change, ...]:
    """The files that are not there yet, or say something else."""
    changes = []
    for event in EVENTS:
        path = file_of(directory, event)
        before, after = edit.read(path), content(options, event)
        if before != after:
            changes.append(Change(path, before, after))
    return tuple(changes)


def unregister(options: Options, directories: Sequence[str]) -> Plan:
    """Remove our files, in the other order: no container begins that would not end."""
    changes = []
    for directory in directories:
        for event in reversed(EVENTS):
            before = edit.read(file_of(directory, event))
            if before is not None and _names(before, options.hook_directory):
                changes.append(Change(file_of(directory, event), before, None))
    return Plan(tuple(changes))


def validate(change: Change, temporary: str) -> None:
    """Read the file back as the engines do: JSON, of version 1.0.0, with what a hook must have."""
    try:
        document = json.loads(edit.read(temporary) or b"")
        good = (
            document["version"] == "1.0.0"
            and os.path.isabs(document["hook"]["path"])
            and document["when"] == {"always": True}
            and len(document["stages"]) == 1
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FlowtagError(f"checking the new {change.path}: {error!r}") from error
    if not good:
        raise FlowtagError(f"checking the new {change.path}: it is no hook of version 1.0.0")


def state(options: Options, directories: Sequence[str]) -> State:
    """Whether one of the directories that an engine reads has both files; the caller knows if that counts."""
    for directory in directories:
        there = [edit.read(file_of(directory, event)) for event in EVENTS]
        ours = [data for data in there if data is not None and _names(data, options.hook_directory)]
        if ours:
            whole = len(ours) == len(EVENTS)
            problem = "" if whole else f"{directory} has only one of flowtag's two files"
            return State(True, None, problem=problem, detail=directory)
    return State(False, False, detail=" ".join(directories))


def _names(data: bytes, hook_directory: str) -> bool:
    try:
        return str(json.loads(data)["hook"]["path"]).startswith(f"{hook_directory}/")
    except (ValueError, KeyError, TypeError):
        return False


def configured(files: Iterable[str], keys: Sequence[str]) -> list[str] | None:
    """The hooks_dir that TOML files say, a later file over an earlier one; None if none says it.

    keys: the table's path. A list that contains {append = true} extends what is there.
    """
    found: list[str] | None = None
    for path in files:
        data = edit.read(path)
        if data is None:
            continue
        try:
            table = tomllib.loads(data.decode())
            for key in keys:
                table = table.get(key, {})
            said = table.get("hooks_dir")
        except (ValueError, AttributeError) as error:
            raise FlowtagError(
                f"reading {path}: {error}", "the engine does not understand it either: mend it first"
            ) from error
        if isinstance(said, list):
            directories = [item for item in said if isinstance(item, str)]
            append = any(isinstance(item, dict) and item.get("append") is True for item in said)
            found = (found or [DISTRIBUTION]) + directories if append else directories
    return found


def directories(root: str, said: Sequence[str] | None) -> list[str]:
    """The directories that an engine reads, from what its configuration says."""
    return [root + directory for directory in ([DISTRIBUTION] if said is None else said)]


def choose(engine: str, root: str, read: Sequence[str]) -> str:
    """Of the directories that an engine reads, the administrator's, else the one that it reads last."""
    if not read:
        raise FlowtagError(
            f"registering with {engine}: its hooks_dir is empty, so it reads no hooks",
            f'set hooks_dir = ["{ADMINISTRATOR}"] in its configuration',
        )
    return root + ADMINISTRATOR if root + ADMINISTRATOR in read else read[-1]


def everywhere(root: str, read: Sequence[str]) -> list[str]:
    """Where our files may lie: also where an engine read them before its configuration was changed."""
    return list(dict.fromkeys([*read, root + DISTRIBUTION, root + ADMINISTRATOR]))


def drop_ins(directory: str, suffix: str = "") -> list[str]:
    """The files of a conf.d that end in `suffix`, in the order in which they count."""
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [f"{directory}/{name}" for name in names if name.endswith(suffix)]
