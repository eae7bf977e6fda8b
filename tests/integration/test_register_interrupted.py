# SPDX-License-Identifier: Apache-2.0
"""register and unregister, interrupted at each system call that writes: by an error, by SIGKILL in the
midst of it and after it. The engines find the old or the new configuration, which is valid, and
the same command finishes what was begun.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bpf.error import FlowtagError
from hooks import edit, installed, register
from tests.integration.registering import Host

WRITING = {
    *("open", "write", "fchmod", "fchown", "setxattr", "fsync", "close", "link", "rename", "unlink"),
    *("symlink", "mkdir", "chmod", "rmdir"),
}
NAMES = ("docker", "podman", "runc")
OLD = b'{\n  "log-level": "warn"\n}\n'


class Interrupted:
    """`os` for a module, in which the call with one number does not come off."""

    def __init__(self, number: int, how: str) -> None:
        self.left, self.how = number, how

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._wrap(name, real) if name in WRITING else real

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left != 0:
                return real(*arguments, **options)
            if self.how == "error":
                if name == "close":  # which closes all the same
                    real(*arguments)
                raise OSError(errno.EIO, "Input/output error", "")
            if self.how == "before" and name == "write":
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            if self.how == "after":
                real(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("killed")

        return call


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on a file system that syncs at once: this is done a thousand times."""
    with tempfile.TemporaryDirectory(prefix="flowtag-test-", dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def host(memory: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    programs = memory / "programs"  # no dockerd, which would take its time to judge
    programs.mkdir()
    (programs / "podman").write_text("#!/bin/sh\n", encoding="ascii")
    (programs / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(register, "self_test", lambda directory: None)
    host = Host(memory / "root")
    host.daemon_json.write_bytes(OLD)
    return host


def run(host: Host, command: str) -> bool:
    return all(getattr(host.registration(), command)(name) for name in NAMES)


def interrupt(host: Host, command: str, number: int, how: str) -> bool:
    """Run the command in a process that is interrupted; whether it came to that."""
    child = os.fork()
    if child == 0:
        fake = Interrupted(number, how)
        for module in (edit, installed):
            setattr(module, "os", fake)  # noqa: B010 - for mypy it is the module
        code = 2
        try:
            run(host, command)
            code = 1 if fake.left <= 0 else 0
        except FlowtagError:  # as main() catches it
            code = 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 1, -signal.SIGKILL), "an exception that is nobody's"
    return code != 0


def check(host: Host, new: bytes) -> None:
    """What each engine would read is old or new, and all that it names is there and executable."""
    assert host.daemon_json.read_bytes() in (OLD, new)
    document = json.loads(host.daemon_json.read_bytes())
    assert document.get("default-runtime") in (None, "flowtag")
    for runtime in document.get("runtimes", {}).values():
        assert os.access(runtime["path"], os.X_OK)
    for path in host.hooks_d.glob("*.json"):
        assert os.access(json.loads(path.read_bytes())["hook"]["path"], os.X_OK)
    if host.link.is_symlink():
        assert os.access(host.link, os.X_OK)
    assert not [name for name in os.listdir(host.link.parent) if name != "runc" and name[0] != "."]


@pytest.mark.parametrize("how", ["error", "before", "after"])
@pytest.mark.parametrize("command", ["register", "unregister"])
def test_interrupted_anywhere(host: Host, command: str, how: str) -> None:
    clean = host.tree()
    assert run(host, "register"), host.complaints
    registered = host.tree()
    new = host.daemon_json.read_bytes()
    assert run(host, "unregister")
    assert host.tree() == clean
    first, last = (clean, registered) if command == "register" else (registered, clean)
    steps = 0
    while True:
        steps += 1
        if command == "unregister":
            assert run(host, "register")
        assert host.tree() == first
        if not interrupt(host, command, steps, how):
            break
        check(host, new)
        assert run(host, command), (steps, host.complaints)
        assert host.tree() == last, steps
        check(host, new)
        if command == "register":
            assert run(host, "unregister")
    print(f"{command}: {steps - 1} steps, {how}", file=sys.stderr)
    assert steps > 30
