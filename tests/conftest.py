# SPDX-License-Identifier: Apache-2.0
"""What all tests share: skips as failures, the kernel's file systems, private directories.

FLOWTAG_TEST_NO_SKIP=1 turns every skip into a failure: on a machine that should be able to run
everything, a test that did not run proves nothing.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bpf import build
from hooks import edit, installed

NO_SKIP = os.environ.get("FLOWTAG_TEST_NO_SKIP") == "1"
_serial = itertools.count()


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if NO_SKIP and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"FLOWTAG_TEST_NO_SKIP=1, and this was skipped: {reason}"


def pytest_configure() -> None:
    """Let SIGTERM (of `timeout`) end every `with` on its way out: engines outlive a killed pytest."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # timeout sends it twice: to us and to our group
        pytest.exit("ended by SIGTERM")

    signal.signal(signal.SIGTERM, end)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.fixture(scope="session")
def kernel() -> None:
    """Root, bpffs and tracefs mounted, and the kernel programs built."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for kind, path in (("bpf", "/sys/fs/bpf"), ("tracefs", "/sys/kernel/tracing")):
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        if not any(line.split()[1:3] == [path, kind] for line in mounts):
            subprocess.run(["mount", "-t", kind, kind, path], check=True)
    if build.is_stale(build.OBJECT):
        build.build()


@pytest.fixture
def pin_directory(kernel: None) -> Iterator[Path]:
    """A name below /sys/fs/bpf that is nobody else's; not made, but removed with all its pins."""
    path = Path(f"/sys/fs/bpf/flowtag-test-{os.getpid()}-{next(_serial)}")
    yield path
    for directory, _, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    """A name for a private /run/flowtag; not made."""
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def leave_the_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may register on the machine that it runs on: one that tries fails instead."""

    def guarded(real: Callable[..., Any], path_of: Callable[[Any], str]) -> Callable[..., Any]:
        def call(first: Any, *arguments: Any, **options: Any) -> Any:
            path = path_of(first)
            assert not path.startswith(("/etc/", "/usr/", "/var/")), f"a test would change {path}"
            return real(first, *arguments, **options)

        return call

    monkeypatch.setattr(edit, "apply", guarded(edit.apply, lambda change: str(change.path)))
    monkeypatch.setattr(installed, "install", guarded(installed.install, str))
