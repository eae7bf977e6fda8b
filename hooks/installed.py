# SPDX-License-Identifier: Apache-2.0
"""The hook directory: what engines are told to call, kept apart from the application that it leads to.

Containers refer to the stub by its path for as long as they live, so it is replaced in one step, never taken
away and written anew, and it stays when the application is removed. hooks/runtime.py says what lies in it.
All is readable and executable for everybody: rootless Podman reads the same hooks.d as root's, and a stub
that it may not execute would fail its containers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator

from bpf.error import FlowtagError
from hooks.edit import locked
from hooks.oci_hook import RUN_DIRECTORY

STUB, WRAPPER = "flowtag-hook", "flowtag-runc"
SWITCH = "disabled"
KEPT, COMMAND = "kept", "unregister"
"""What hooks/leave.py leaves when the application goes."""
LINKS = ("app", "runc", "run")
FILES = "files"
"""The engines' files that were made to name the directory, a path a line: --file may have named any."""
_FOLDER = os.path.dirname(os.path.abspath(__file__))
MODE = 0o755
PART = ".flowtag-part"


def install(
    directory: str, application: str, runtime: str = "", run_directory: str = RUN_DIRECTORY
) -> list[str]:
    """Make or renew the hook directory; what was changed, as paths.

    application: the directory that holds hooks/, identity/ and bpf/. runtime: the real runtime, for the
    wrapper to run; empty leaves the link to it as it is. The kill switch stays as it is.
    """
    directory, application = _absolute(directory), _absolute(application)
    with _doing(f"making the hook directory {directory}"):
        for package in ("hooks", "identity", "bpf"):
            _only_root_writes(os.path.join(application, package))
        links = {"app": application, "run": "" if run_directory == RUN_DIRECTORY else run_directory}
        if runtime:
            links["runc"] = _real(runtime, directory)
        changed = _directory(directory)
        with locked(directory):  # or another's half-written stub would be renamed into its place
            for name in (STUB, WRAPPER):
                changed += _copy(os.path.join(application, "hooks", name), os.path.join(directory, name))
            for name, target in links.items():
                changed += _link(target, os.path.join(directory, name))
            if application != os.path.join(directory, KEPT):
                changed += _drop_kept(directory)
            if changed:
                _sync(directory)
    return changed


def remove(directory: str) -> list[str]:
    """Remove the hook directory, when no container refers to it any more; what was removed, as paths.

    A file that is not ours stays, and then the directory too: FlowtagError, as for what cannot be removed.
    """
    directory = _absolute(directory)
    removed = []
    with _doing(f"removing the hook directory {directory}"):
        for name in (SWITCH, FILES, *LINKS, WRAPPER, STUB):
            for path in (os.path.join(directory, name), os.path.join(directory, name + PART)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                    removed.append(path)
        removed += _drop_kept(directory)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(directory)
            removed.append(directory)
    return removed


def note(directory: str, paths: list[str]) -> None:
    """Remember, before they are written, which files will name the directory."""
    known = noted(directory)
    if not set(paths) <= set(known):
        with _doing(f"writing {directory}/{FILES}"), locked(directory):
            lines = "".join(f"{path}\n" for path in dict.fromkeys([*known, *paths]))
            write(os.path.join(directory, FILES), os.fsencode(lines), 0o644)


def noted(directory: str) -> list[str]:
    """What note() has remembered."""
    try:
        with open(os.path.join(directory, FILES), "rb") as file:
            return [os.fsdecode(line) for line in file.read(1 << 20).splitlines()]
    except FileNotFoundError:
        return []


def _drop_kept(directory: str) -> list[str]:
    """Remove what hooks/leave.py left."""
    dropped = []
    for path in (os.path.join(directory, KEPT), os.path.join(directory, KEPT + PART)):
        if os.path.lexists(path):
            shutil.rmtree(path)
            dropped.append(path)
    for path in (os.path.join(directory, COMMAND), os.path.join(directory, COMMAND + PART)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            dropped.append(path)
    return dropped


def disable(directory: str) -> list[str]:
    """Set the kill switch, which the next container heeds; what was changed, as paths."""
    path = os.path.join(directory, SWITCH)
    if disabled(directory):
        return []
    with _doing(f"disabling the hook in {directory}", "is it registered? see `flowtag register`"):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644))
        _sync(directory)
    return [path]


def enable(directory: str) -> list[str]:
    """Take the kill switch away; what was changed, as paths."""
    path = os.path.join(directory, SWITCH)
    with _doing(f"enabling the hook in {directory}"):
        try:
            os.unlink(path)
        except FileNotFoundError:
            return []
        _sync(directory)
    return [path]


def disabled(directory: str) -> bool:
    """Whether the kill switch is set."""
    return os.path.lexists(os.path.join(directory, SWITCH))


@contextlib.contextmanager
def _doing(what: str, hint: str = "run as root") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        raise FlowtagError(f"{what}: {about}{error.strerror}", hint) from error


def _absolute(path: str) -> str:
    if not os.path.isabs(path):
        raise FlowtagError(f"using the directory {path}: not an absolute path", "name it from the root")
    return os.path.normpath(path)


def _only_root_writes(path: str) -> None:
    """FlowtagError if anybody else could put a file of their own at a path that root executes: any component
    counts, also those that symbolic links lead through. A sticky directory is fine: nobody may rename there
    what is root's.
    """
    todo, seen = [path], set()
    while todo:
        place = todo.pop()
        if place in seen:
            continue
        seen.add(place)
        about = os.lstat(place)
        loose = about.st_mode & 0o022 and not (stat.S_ISLNK(about.st_mode) or about.st_mode & stat.S_ISVTX)
        if about.st_uid != 0 or loose:
            whose = "others may write to it" if about.st_uid == 0 else f"it belongs to user {about.st_uid}"
            raise FlowtagError(
                f"using {path}, from which root runs programs: {place}: {whose}",
                "use a directory that only root may write, with all above it",
            )
        if stat.S_ISLNK(about.st_mode):
            todo.append(os.path.join(os.path.dirname(place), os.readlink(place)))
        if place != "/":
            todo.append(os.path.dirname(place))


def _real(runtime: str, directory: str) -> str:
    """The runtime, if it is one that the wrapper can run: not the wrapper."""
    runtime = _absolute(runtime)
    if not (os.path.isfile(runtime) and os.access(runtime, os.X_OK)):
        raise FlowtagError(f"using the runtime {runtime}: not an executable file", "name the real one")
    if os.path.dirname(os.path.realpath(runtime)) == os.path.realpath(directory):
        raise FlowtagError(f"using the runtime {runtime}: that is flowtag's wrapper", "name the real one")
    return runtime


def _directory(directory: str) -> list[str]:
    """Make it and what lacks above it, 0755."""
    missing = []
    place = directory
    while not os.path.lexists(place):
        missing.append(place)
        place = os.path.dirname(place)
    _only_root_writes(place)
    for path in reversed(missing):
        os.mkdir(path, MODE)
        os.chmod(path, MODE)  # whatever the umask
        _only_root_writes(path)
    if not missing and stat.S_IMODE(os.stat(directory).st_mode) != MODE:
        os.chmod(directory, MODE)
        return [directory]
    return missing[::-1]


def _copy(source: str, path: str) -> list[str]:
    with open(source, "rb") as file:
        data = file.read()
    try:
        about = os.lstat(path)
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
            if file.read() == data and stat.S_IMODE(about.st_mode) == MODE and about.st_uid == 0:
                return []
    except FileNotFoundError:
        pass
    write(path, data, MODE)
    return [path]


def write(path: str, data: bytes, mode: int) -> None:
    """Put a file in place in one step, on disk."""
    part = path + PART
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)  # of an install that was interrupted
    with open(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    os.rename(part, path)


def _link(target: str, path: str) -> list[str]:
    """Make a symbolic link to a target, or none if that is empty."""
    found = os.readlink(path) if os.path.lexists(path) else ""
    if found == target:
        return []
    if not target:
        os.unlink(path)
        return [path]
    part = path + PART
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)
    os.symlink(target, part)
    os.rename(part, path)
    return [path]


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
