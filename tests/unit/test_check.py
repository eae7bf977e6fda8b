# SPDX-License-Identifier: Apache-2.0
"""`flowtag check` without a host to check: its lines, its exit, its reading of BTF and mounts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf import abi
from bpf.error import FlowtagError
from exporter import btf, check, check_state, mount
from exporter.check import FAIL, OK, WARN, Finding
from exporter.config import Config, Host
from identity import incarnation
from identity.incarnation import Incarnation
from identity.workload import Workload

FINDINGS = [
    Finding(OK, "kernel", "6.1 has it all"),
    Finding(WARN, "hook", "no container yet", "register it"),
    Finding(FAIL, "bpffs", "none", "mount it"),
]


def test_text_has_a_line_each_with_what_to_do() -> None:
    assert check.text(FINDINGS) == [
        "ok    kernel: 6.1 has it all",
        "warn  hook: no container yet",
        "      -> register it",
        "FAIL  bpffs: none",
        "      -> mount it",
        "1 ok, 1 to look at, 1 failed",
    ]


@pytest.mark.parametrize(("states", "expected"), [((), True), ((OK, WARN), True), ((OK, FAIL), False)])
def test_only_a_failure_is_unhealthy(states: tuple[str, ...], expected: bool) -> None:
    assert check.healthy([Finding(state, "x", "y") for state in states]) is expected


def test_check_that_cannot_look_is_a_failure() -> None:
    def rights(config: Config) -> Iterator[Finding]:
        yield Finding(OK, "rights", "so far")
        raise PermissionError(13, "Permission denied", "/proc/x")

    first, second = check.run((rights,), Config())
    assert first.state == OK
    assert second == Finding(FAIL, "rights", "reading /proc/x: Permission denied", "run as root")


def test_whole_check_as_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(Host(pin_directory=str(tmp_path / "pins"), run_directory=str(tmp_path / "run")))
    assert check.check(config, as_json=True) == 1  # no bpf file system there
    shown = json.loads(capsys.readouterr().out)
    assert shown["healthy"] is False
    subjects = {line["subject"] for line in shown["checks"]}
    assert {"kernel", "rights", "bpffs", "tracefs", "cgroups", "libbpf", "clock", "reach"} <= subjects
    assert {"maps", "programs", "exporter", "hook"} <= subjects
    assert all(line["hint"] for line in shown["checks"] if line["state"] == FAIL)


def test_every_loss_is_a_counter_and_every_lost_counter_is_a_loss() -> None:
    assert set(check_state.LOSSES) <= set(abi.COUNTERS)
    assert {name for name in abi.COUNTERS if name.startswith("lost_")} <= set(check_state.LOSSES)


def test_pending_identities_are_counted(tmp_path: Path) -> None:
    for name, reason in (("a.json", "no room"), ("b.json", "no map"), ("at-work.json", "")):
        left = Incarnation(Workload(container_id=name), reason=reason)
        incarnation.write(str(tmp_path / "pending" / name), left)
    (tmp_path / "pending" / "damaged.json").touch()
    found = list(check_state.hook(Config(Host(run_directory=str(tmp_path)))))
    assert any("2 identities" in finding.text and finding.state == FAIL for finding in found)


def btf_bytes(types: bytes, strings: bytes) -> bytes:
    header = pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


def test_btf_finds_typedefs_and_members() -> None:
    strings = b"\0net\0net_cookie\0other\0btf_trace_x\0"
    offset = {name: strings.index(name) for name in (b"net\0", b"net_cookie", b"other", b"btf_trace_x")}
    types = (
        pack("=IIII", 0, 1 << 24, 4, 32)  # an int, with its word
        + pack("=III", offset[b"net\0"], 4 << 24 | 2, 16)
        + pack("=III", offset[b"other"], 1, 0)
        + pack("=III", offset[b"net_cookie"], 1, 64)
        + pack("=III", offset[b"btf_trace_x"], 8 << 24, 1)
    )
    wanted = ["net.net_cookie", "net.missing", "btf_trace_x", "btf_trace_y", "other", "sock.other"]
    assert btf.find(btf_bytes(types, strings), wanted) == {"net.net_cookie", "btf_trace_x"}


def test_btf_of_this_kernel_has_the_floor() -> None:
    from exporter.check_host import NEEDS

    if not os.path.exists(btf.VMLINUX):
        pytest.skip("the kernel has no BTF")
    assert btf.find(Path(btf.VMLINUX).read_bytes(), NEEDS) == set(NEEDS)


@pytest.mark.parametrize("data", [b"", bytes(24), b"\x7fELF" + bytes(60)])
def test_btf_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(FlowtagError, match="reading BTF"):
        btf.find(data, ["x"])


@given(st.binary(max_size=200), st.binary(max_size=60))
def test_damaged_btf_finds_nothing_that_was_not_asked_for(types: bytes, strings: bytes) -> None:
    assert btf.find(btf_bytes(types, strings), ["a.b", "c"]) <= {"a.b", "c"}


def test_mount_that_holds_a_path_is_the_deepest() -> None:
    assert mount.holding("/proc/self/no/such").kind == "proc"
    assert mount.holding("/proc").place == "/proc"
    assert mount.holding("/processes").place == mount.holding("/").place


def test_maps_and_check_load_no_heavy_module() -> None:
    source = (
        "import sys, exporter.cli, exporter.maps_dump, exporter.maps_lookup, exporter.directories,"
        " exporter.check, exporter.check_host, exporter.check_state;"
        "print(*({'numpy', 'structlog', 'pyarrow'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
