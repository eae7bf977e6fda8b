# SPDX-License-Identifier: Apache-2.0
"""Plain runc: a link before it in the PATH, so that all that looks for runc there finds the wrapper.

That is more than runc by hand: nerdctl, and every containerd shim that was not told another binary.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from bpf.error import FlowtagError
from hooks import edit
from hooks.runtime import Change, Options, Plan, State

LINK = "/usr/local/sbin/runc"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What systemd was compiled with, and what login(1) gives root, where nothing else is said."""


def real(path: str, hook_directory: str, name: str = "runc") -> str:
    """The runtime of that name which PATH finds, flowtag's own wrapper aside; empty if there is none."""
    ours = os.path.realpath(hook_directory) + "/"
    for directory in _directories(path) if "/" not in name else [""]:
        found = shutil.which(os.path.join(directory, name), path="")
        if found and not os.path.realpath(found).startswith(ours):
            return found
    return ""


class Runc:
    """The runc that PATH finds."""

    name = "runc"

    def __init__(self, root: str = "") -> None:
        """`root` goes before every path that nobody named."""
        self._root = root

    def found(self, options: Options) -> str:
        """The binary that a login of root's finds."""
        return next((path for _, path in self._places(options)), "")

    def register(self, options: Options) -> Plan:
        """A link where nothing is yet, in a directory that comes before runc's wherever we know a PATH."""
        link, wrapper = self._link(options), _wrapper(options)
        before = edit.read(link, link=True)
        if before not in (None, wrapper):
            raise FlowtagError(
                f"registering with runc: {link} is there already and leads to {os.fsdecode(before or b'')}",
                "remove it, or name another link with --file in a directory before runc's in PATH",
            )
        places = self._places(options)
        if not places:
            raise FlowtagError("registering with runc: PATH holds no runc", "install runc")
        directory = os.path.dirname(link)
        for whose, found in places:
            searched = _directories(self._paths()[whose])
            behind = searched[searched.index(os.path.dirname(found)) :]
            if directory not in searched or directory in behind:
                raise FlowtagError(
                    f"registering with runc: in the PATH of {whose} {directory} does not come before {found}",
                    "name a link with --file in a directory that does, "
                    "or set the caller's runtime to " + os.fsdecode(wrapper),
                )
        changes = (Change(link, None, wrapper, link=True),) if before is None else ()
        return Plan(changes, wraps=places[0][1])

    def validate(self, options: Options, change: Change, temporary: str) -> None:
        """What the link leads to must be there."""
        if not os.access(temporary, os.X_OK):
            raise FlowtagError(f"checking the new {change.path}: {os.readlink(temporary)} is no executable")

    def unregister(self, options: Options, referring: bool) -> Plan:
        """Remove the link if it is ours; what runs goes on with the runc that PATH finds then."""
        link = self._link(options)
        if not os.path.islink(link) or edit.read(link, link=True) != _wrapper(options):
            return Plan()
        return Plan((Change(link, _wrapper(options), None, link=True),))

    def state(self, options: Options) -> State:
        """Whether the link is there and ours; effective where it is what PATH finds."""
        link = self._link(options)
        if not os.path.islink(link) or edit.read(link, link=True) != _wrapper(options):
            return State(False, False, detail=link)
        first = [shutil.which("runc", path=path) for path in self._paths().values()]
        problem = "" if os.access(link, os.X_OK) else f"{link} leads to nothing"
        return State(True, all(found == link for found in first), problem=problem, detail=link)

    def _link(self, options: Options) -> str:
        return options.file or f"{self._root}{LINK}"

    def _places(self, options: Options) -> list[tuple[str, str]]:
        found = ((whose, real(path, options.hook_directory)) for whose, path in self._paths().items())
        return [(whose, path) for whose, path in found if path]

    def _paths(self) -> dict[str, str]:
        """The PATH of a login of root's and of systemd's services."""
        paths = {"a login": _login_path(f"{self._root}/etc/login.defs") or DEFAULT_PATH}
        if os.path.isdir(f"{self._root}/run/systemd/system"):
            paths["systemd"] = _systemd_path() or DEFAULT_PATH
        return paths


def _directories(path: str) -> list[str]:
    return [os.path.normpath(directory) for directory in path.split(":") if os.path.isabs(directory)]


def _wrapper(options: Options) -> bytes:
    return os.fsencode(f"{options.hook_directory}/flowtag-runc")


def _login_path(file: str) -> str:
    for line in (edit.read(file) or b"").decode("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "ENV_SUPATH":
            return words[1].removeprefix("PATH=")
    return ""


def _systemd_path() -> str:
    try:
        done = subprocess.run(
            ["systemctl", "show-environment"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line[5:] for line in done.stdout.splitlines() if line.startswith("PATH=")), "")
