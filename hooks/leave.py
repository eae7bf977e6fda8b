# SPDX-License-Identifier: Apache-2.0
"""What stays when flowtag is removed while containers still refer to its hook: enough to end that later.

A package manager takes the application away, but Docker does not start a container whose runtime has gone,
and poststops are still to come. So the parts of the application that register and hook need are copied into
the hook directory, `app` leads there, and HOOK_DIRECTORY/unregister is one command for later.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

from bpf.error import FlowtagError
from hooks import installed

PACKAGES = ("bpf", "hooks", "identity")
# What hooks/runtimes imports: tomlkit for containerd, docker and what it needs.
LIBRARIES = ("tomlkit", "docker", "requests", "urllib3", "idna", "certifi", "charset_normalizer")
_UNNEEDED = shutil.ignore_patterns("__pycache__", "*.o", "*.h", "*.c")

_COMMAND = """\
#!/bin/sh
# What flowtag had to leave when it was removed: run it when no container refers to it any more.
home=${0%%/*}
exec /usr/bin/python3 -I -S -c 'import sys
sys.path.append(sys.argv[1] + "/%s")
from hooks.leave import main
sys.exit(main(sys.argv[1:]))' "$home" "$@"
"""


def leave(directory: str, application: str, run_directory: str) -> str:
    """Make the hook directory live without the application; returns the command that removes it later."""
    kept, command = (os.path.join(directory, name) for name in (installed.KEPT, installed.COMMAND))
    if os.path.realpath(application) == os.path.realpath(kept):
        return command  # this is the copy
    try:
        part = kept + installed.PART
        shutil.rmtree(part, ignore_errors=True)
        for source in [os.path.join(application, name) for name in PACKAGES] + [*map(_place, LIBRARIES)]:
            shutil.copytree(source, os.path.join(part, os.path.basename(source)), ignore=_UNNEEDED)
        shutil.rmtree(kept, ignore_errors=True)
        os.rename(part, kept)
        installed.write(command, (_COMMAND % installed.KEPT).encode(), installed.MODE)
    except OSError as error:
        raise FlowtagError(f"leaving a command in {directory}: {error.filename}: {error.strerror}") from error
    installed.install(directory, kept, run_directory=run_directory)
    return command


def _place(library: str) -> str:
    """The directory that a library is imported from."""
    found = importlib.util.find_spec(library)
    places = found.submodule_search_locations if found else None
    if not places:
        raise FlowtagError(
            f"leaving a command: the library {library} is not installed", "install flowtag again"
        )
    return next(iter(places))


def main(arguments: list[str]) -> int:
    """HOOK_DIRECTORY/unregister [--reload]: what `flowtag unregister` does."""
    from hooks.references import find
    from hooks.register import Registration
    from hooks.runtime import Options
    from hooks.runtimes import adapters

    directory, *flags = arguments
    if set(flags) - {"--reload"}:
        print(f"usage: {directory}/{installed.COMMAND} [--reload]", file=sys.stderr)
        return 2

    def complain(error: FlowtagError) -> None:
        print(f"flowtag: {error}", file=sys.stderr)

    run = os.path.join(directory, "run")
    options = Options(directory, os.readlink(run)) if os.path.islink(run) else Options(directory)
    try:
        done = Registration(adapters(), options, find, print, complain).unregister("auto", False, bool(flags))
    except FlowtagError as error:
        complain(error)
        return 1
    return 0 if done else 1
