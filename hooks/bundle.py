# SPDX-License-Identifier: Apache-2.0
"""A bundle's config.json gets the hook: entries for createRuntime and poststop, and nothing else changes.

Run by the wrapper before the runtime reads the file, and import-light for that, as
tests/unit/test_hook_imports.py sees to. What cannot be changed without changing its meaning is left as it is;
the wrapper counts that, and the container starts without a hook.
"""

from __future__ import annotations

import posix
from _stat import S_IMODE, S_ISREG

from hooks import exact_json, run_line
from hooks.run_line import RUN_DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The runtime's own limit, in whole seconds; the stub gives up after half a second.
TIMEOUT = 2
EVENTS = ("createRuntime", "poststop")
LIMIT = 4 << 20


def main(arguments: list[str], began: int) -> None:
    """Add to a bundle the hook of a hook directory; whatever it raises ends with the process."""
    bundle, directory = map(absolute, arguments)
    run = run_directory(directory)
    outcome = "added" if inject(bundle, f"{directory}/flowtag-hook", run) else "present"
    run_line.append(run, "inject", outcome, began)


def absolute(path: str) -> str:
    """As os.path.abspath, whose import costs 1.5 ms: engines give paths that need it not."""
    if path.startswith("/") and not any(part in ("", ".", "..") for part in path[1:].split("/")):
        return path
    import os.path

    return os.path.abspath(path)


def run_directory(directory: str) -> str:
    """Where the hooks of a hook directory keep their files: what its link `run` says, else the default."""
    try:
        return posix.readlink(f"{directory}/run")
    except OSError:
        return RUN_DIRECTORY


def entries(stub: str, run: str = RUN_DIRECTORY) -> dict[str, dict[str, object]]:
    """The hook's entry in an OCI config.json, by event."""
    extra = [] if run == RUN_DIRECTORY else [run]
    return {
        event: {"path": stub, "args": [stub, event, *extra], "env": [PATH], "timeout": TIMEOUT}
        for event in EVENTS
    }


def inject(bundle: str, stub: str, run: str) -> bool:
    """Add the stub's entries to BUNDLE/config.json; False if some were there.

    Raises ValueError for a file that cannot be changed without changing its meaning, OSError if it is no
    regular file or cannot be replaced; it is then as it was.
    """
    path = f"{bundle}/config.json"
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK)
    with open(fd, "rb") as file:
        about = posix.fstat(fd)
        if not S_ISREG(about.st_mode):
            raise ValueError("not a regular file")
        config = exact_json.decode(file.read(LIMIT + 1), LIMIT)
    if not add(config, entries(stub, run)):
        return False
    replace(path, exact_json.encode(config), about)
    return True


def add(config: object, wanted: dict[str, dict[str, object]]) -> bool:
    """Append each entry to its event's list, last: other hooks set up what ours looks at (the network).

    False, and no change, if an entry of the same path is there already; ValueError for a shape that is not
    OCI's.
    """
    if not isinstance(config, dict):
        raise ValueError("not an object")
    hooks = _member(config, "hooks", dict)
    lists = {event: _member(hooks, event, list) for event in wanted}
    paths = [entry["path"] for entry in wanted.values()]
    for there in hooks.values():
        for entry in there if isinstance(there, list) else ():
            if isinstance(entry, dict) and entry.get("path") in paths:
                return False
    config["hooks"] = hooks
    for event, entry in wanted.items():
        hooks[event] = [*lists[event], entry]
    return True


def _member(values: dict[str, Any], name: str, kind: type) -> Any:
    """The value under a name, an empty one where it is absent or null.

    Go's decoder takes a name in any case for the same, and the later one wins.
    """
    if any(key != name and key.casefold() == name.casefold() for key in values):
        raise ValueError(f"{name} in another case")
    found = values.get(name)
    if found is None:
        found = kind()
    if not isinstance(found, kind):
        raise ValueError(f"{name} is not a {kind.__name__}")
    return found


def replace(path: str, data: bytes, about: posix.stat_result) -> None:
    """Put a file in the place of another, with that one's owner and mode: whole or not at all."""
    directory = path.rpartition("/")[0]
    temporary = f"{directory}/.config.json.flowtag.{posix.getpid()}"
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC | posix.O_NOFOLLOW
    fd = posix.open(temporary, flags, 0o600)
    try:
        with open(fd, "wb") as file:
            posix.fchown(fd, about.st_uid, about.st_gid)
            posix.fchmod(fd, S_IMODE(about.st_mode))
            file.write(data)
            file.flush()
            posix.fsync(fd)  # nothing on a tmpfs, where engines keep bundles
        posix.rename(temporary, path)
    except BaseException:
        posix.unlink(temporary)
        raise
