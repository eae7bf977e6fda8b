# SPDX-License-Identifier: Apache-2.0
"""Write somebody else's configuration as a guest: whole or not at all, with a backup, judged beforehand.

A change becomes visible by one rename(2) or unlink(2), so whatever interrupts it, the engine finds the old
file or the new one. A temporary file's name ends in no suffix that an engine reads, and the next
run replaces it.
"""

from __future__ import annotations

import difflib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from bpf.error import FlowtagError
from hooks.runtime import Change

BACKUP = ".flowtag-backup"
TEMPORARY = ".flowtag-new"
LIMIT = 16 << 20

Validate = Callable[[Change, str], None]


def read(path: str, link: bool = False) -> bytes | None:
    """The file's content, or what the symbolic link points to; None if it is not there."""
    try:
        return os.readlink(os.fsencode(path)) if link else _content(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if link and error.errno == errno.EINVAL:
            raise FlowtagError(
                f"reading {path}: there is a file, not a link of ours", "remove it if nobody needs it"
            ) from error
        raise FlowtagError(f"reading {path}: {error.strerror}") from error


def _content(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FlowtagError(f"reading {path}: it is no regular file")
        data = b""
        while more := os.read(fd, 1 << 20):
            data += more
            if len(data) > LIMIT:
                raise FlowtagError(f"reading {path}: it is larger than {LIMIT} bytes")
        return data
    finally:
        os.close(fd)


def diff(changes: Sequence[Change]) -> str:
    """The changes as a unified diff; links as `path -> target`."""
    return "".join(map(_diff, changes))


def _diff(change: Change) -> str:
    if change.before == change.after:
        return ""
    if change.link:
        lines = [
            f"{sign}{change.path} -> {os.fsdecode(target)}\n"
            for sign, target in (("-", change.before), ("+", change.after))
            if target is not None
        ]
        return "".join(lines)
    before, after = (
        None if data is None else data.decode("utf-8", "replace").splitlines(keepends=True)
        for data in (change.before, change.after)
    )
    lines = list(
        difflib.unified_diff(
            before or [],
            after or [],
            "/dev/null" if before is None else change.path,
            "/dev/null" if after is None else change.path,
        )
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def apply(change: Change, validate: Validate, backup: bool = True) -> None:
    """Make the change, or raise FlowtagError and leave the file as it was.

    validate(change, temporary) is the engine's judgement of the new content. backup: keep what was there
    as FILE.flowtag-backup, unless an earlier change already did; without it, a backup of the new content
    becomes the file.
    """
    if change.before == change.after:
        return
    target = change.path if change.link else os.path.realpath(change.path)
    directory, name = os.path.split(target)
    guard(target, change.link)
    try:
        make_directory(directory)
        with locked(directory):
            unchanged(change, target)
            if change.after is None:
                os.unlink(target)
            elif not backup and not change.link and read(target + BACKUP) == change.after:
                validate(change, target + BACKUP)
                unchanged(change, target)
                os.rename(target + BACKUP, target)
            else:
                temporary = f"{directory}/.{name}{TEMPORARY}"
                try:
                    write(change, change.after, target, temporary)
                    validate(change, temporary)
                    if backup and change.before is not None and not change.link:
                        keep(target)
                    unchanged(change, target)
                    os.rename(temporary, target)
                except BaseException:
                    discard(temporary)
                    raise
            sync(directory)
    except OSError as error:
        raise FlowtagError(f"writing {target}: {error.strerror}", hint_of(error)) from error


def guard(target: str, link: bool = False) -> None:
    """Refuse what somebody else than root could exchange under our hands."""
    path = target
    while True:
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise FlowtagError(f"looking at {path}: {error.strerror}") from error
        else:
            own_link = link and path == target
            others = status.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if status.st_gid else 0))
            sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
            if status.st_uid not in (0, os.geteuid()) or (others and not sticky and not own_link):
                raise FlowtagError(
                    f"writing {target}: others than root can change {path}",
                    f"chown root {path} && chmod go-w {path}",
                )
        if path == "/":
            return
        path = os.path.dirname(path)


def check(change: Change) -> None:
    """FlowtagError for a file that apply() would refuse because of whose it is."""
    guard(change.path if change.link else os.path.realpath(change.path), change.link)


def names(path: str, directory: str) -> bool:
    """Whether a file, or the target of a link, speaks of a directory; also where that cannot be told."""
    try:
        content = read(path, link=os.path.islink(path))
    except FlowtagError:
        return True
    return content is not None and f"{directory}/".encode() in content


def unchanged(change: Change, target: str) -> None:
    """FlowtagError if the file is no longer what the plan was made from."""
    if read(target, change.link) != change.before:
        raise FlowtagError(
            f"writing {target}: somebody else changed it meanwhile", "run the same command again"
        )


def write(change: Change, content: bytes, target: str, temporary: str) -> None:
    """Put the new content beside the file, on disk, with the file's owner, mode and attributes."""
    discard(temporary)  # what an earlier run that was killed left behind
    if change.link:
        os.symlink(content, os.fsencode(temporary))
        return
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(fd, left) :]
        if change.before is None:
            os.fchmod(fd, change.mode)
        else:
            like(fd, target)
        os.fsync(fd)
    finally:
        os.close(fd)


def like(fd: int, target: str) -> None:
    """Give the new file the owner, the mode and the extended attributes of the old one."""
    status = os.stat(target)
    os.fchown(fd, status.st_uid, status.st_gid)
    os.fchmod(fd, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(target):
        try:
            os.setxattr(fd, name, os.getxattr(target, name))
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise


def keep(target: str) -> None:
    """A second name for the old file, which the rename leaves alone; an older backup stays."""
    with suppress(FileExistsError):
        os.link(target, target + BACKUP)


def make_directory(directory: str) -> None:
    """Make the directory and those above it, each on disk before the next."""
    if not os.path.isdir(directory):
        parent = os.path.dirname(directory)
        make_directory(parent)
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            return
        sync(parent)


@contextmanager
def locked(directory: str) -> Iterator[None]:
    """Keep another flowtag from writing here at the same time."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def sync(directory: str) -> None:
    """Have the directory's entries on disk."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def discard(path: str) -> None:
    """Remove a temporary file if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def hint_of(error: OSError) -> str:
    """What to do about a file system that says no."""
    if error.errno == errno.EROFS:
        return "the file system is read-only: name a file elsewhere with --file, and the engine that file"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "run it as root; chattr +i also forbids it"
    return ""
