# SPDX-License-Identifier: Apache-2.0
"""What users meet when the host is not as flowtag needs it: one clear line, a hint, and nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf import abi
from identity.pinned import open_map
from tests.rig.exporter import COMMAND

NEED_PRIVILEGE = (("maps", "create"), ("maps", "lookup", "192.0.2.1"), ("run", "--for", "1"))
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def config(pin_directory: Path, run_directory: Path, tmp_path: Path) -> Iterator[Path]:
    """Private pins and run directory, in a file that everybody may read."""
    path = Path(f"/tmp/flowtag-test-{os.getpid()}.toml")
    path.write_text(
        f'[host]\npin_directory = "{pin_directory}"\nrun_directory = "{run_directory}"\n'
        "[exporter]\nring_bytes = 65536\n",
        encoding="utf-8",
    )
    path.chmod(0o644)
    yield path
    path.unlink()


def call(*command: str) -> Done:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def in_private_mounts(change: str, *command: str) -> Done:
    """Run a command after `change` (shell) in a mount namespace that nobody else sees."""
    return call(
        "unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{change}; exec "$@"', "sh", *command
    )


def assert_one_line_and_a_hint(done: Done) -> str:
    """Exit 1, nothing on standard output, two lines on standard error; returns the first."""
    assert (done.returncode, done.stdout) == (1, "")
    message, hint = done.stderr.splitlines()
    assert message.startswith("flowtag: ")
    assert hint.startswith("hint: ")
    return message


@pytest.mark.parametrize("arguments", NEED_PRIVILEGE, ids=" ".join)
def test_no_root_is_a_clear_error(config: Path, arguments: tuple[str, ...]) -> None:
    call(COMMAND, "maps", "create", "--config", str(config))
    done = call(*NOBODY, COMMAND, *arguments, "--config", str(config))
    message = assert_one_line_and_a_hint(done)
    assert "ermi" in message  # not permitted, Operation not permitted, Permission denied
    assert done.stderr.splitlines()[1].startswith("hint: run as root")


def test_no_root_without_maps_makes_nothing(config: Path, pin_directory: Path) -> None:
    done = call(*NOBODY, COMMAND, "maps", "create", "--config", str(config))
    assert "making the pin directory" in assert_one_line_and_a_hint(done)
    assert not pin_directory.exists()


def test_no_root_in_a_user_namespace_is_a_clear_error(config: Path) -> None:
    """Root of a user namespace has every capability, but not over the host."""
    done = call("unshare", "--user", "--map-root-user", COMMAND, "run", "--for", "1", "--config", str(config))
    assert "ermi" in assert_one_line_and_a_hint(done)


def test_pin_directory_of_somebody_else_is_refused(config: Path, pin_directory: Path) -> None:
    """A bpf file system may be anybody's to write, so anybody may have been there first."""
    pin_directory.mkdir()
    os.chown(pin_directory, 65534, 65534)
    message = assert_one_line_and_a_hint(call(COMMAND, "maps", "create", "--config", str(config)))
    assert message == f"flowtag: using the directory {pin_directory}: it belongs to user 65534, not to root"


def test_no_root_check_says_which_rights_are_missing(config: Path) -> None:
    done = call(*NOBODY, COMMAND, "check", "--config", str(config))
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAIL  rights: this process has no CAP_BPF, " in done.stdout
    assert "      -> run as root\n" in done.stdout


def test_no_root_dump_says_which_maps_it_could_not_read(config: Path) -> None:
    call(COMMAND, "maps", "create", "--config", str(config))
    done = call(*NOBODY, COMMAND, "maps", "dump", "--config", str(config))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.count("  cannot be read: ") == len(abi.MAPS)


@pytest.mark.parametrize("arguments", [("maps", "create"), ("run", "--for", "1")], ids=" ".join)
def test_no_bpffs_is_a_clear_error(config: Path, arguments: tuple[str, ...]) -> None:
    done = in_private_mounts("umount /sys/fs/bpf", COMMAND, *arguments, "--config", str(config))
    assert "no bpf file system there" in assert_one_line_and_a_hint(done)
    assert done.stderr.splitlines()[1] == "hint: mount -t bpf bpf /sys/fs/bpf"


def test_no_bpffs_check_fails_with_the_command_that_helps(config: Path) -> None:
    done = in_private_mounts("umount /sys/fs/bpf", COMMAND, "check", "--config", str(config))
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAIL  bpffs: none at " in done.stdout
    assert "      -> mount -t bpf bpf /sys/fs/bpf\n" in done.stdout


@pytest.mark.parametrize("arguments", [("maps", "create"), ("run", "--for", "1")], ids=" ".join)
def test_no_btf_is_a_clear_error(config: Path, arguments: tuple[str, ...]) -> None:
    hide = "mount --bind /dev/null /sys/kernel/btf/vmlinux"
    done = in_private_mounts(hide, COMMAND, *arguments, "--config", str(config))
    assert "the kernel has no BTF in /sys/kernel/btf/vmlinux" in assert_one_line_and_a_hint(done)


def test_no_btf_check_fails(config: Path) -> None:
    hide = "mount --bind /dev/null /sys/kernel/btf/vmlinux"
    done = in_private_mounts(hide, COMMAND, "check", "--config", str(config))
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAIL  kernel: " in done.stdout


def test_no_cgroup_v2_check_warns_and_run_works(config: Path) -> None:
    hide = "umount $(awk '$3 == \"cgroup2\" {print $2}' /proc/self/mounts)"
    done = in_private_mounts(hide, COMMAND, "check", "--config", str(config))
    assert done.stderr == ""
    assert "warn  cgroups: version 1 only: " in done.stdout
    assert in_private_mounts(hide, COMMAND, "run", "--for", "1", "--config", str(config)).returncode == 0


@pytest.mark.parametrize("arguments", [*NEED_PRIVILEGE, ("maps", "dump"), ("check",)], ids=" ".join)
def test_unknown_key_is_named_by_every_command(config: Path, arguments: tuple[str, ...]) -> None:
    with config.open("a", encoding="utf-8") as file:
        file.write("ring_byts = 1\n")
    message = assert_one_line_and_a_hint(call(COMMAND, *arguments, "--config", str(config)))
    assert message == f"flowtag: in the configuration {config}: unknown key exporter.ring_byts"


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", ""])
def test_no_time_to_run_is_a_usage_error(config: Path, seconds: str) -> None:
    done = call(COMMAND, "run", f"--for={seconds}", "--config", str(config))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith("is not a number of seconds above 0")


@pytest.mark.parametrize(
    "arguments",
    [("maps", "dump"), ("maps", "dump", "--json"), ("check",), ("check", "--json")],
    ids=" ".join,
)
def test_output_that_is_full_or_gone(config: Path, arguments: tuple[str, ...]) -> None:
    call(COMMAND, "maps", "create", "--config", str(config))
    command = [COMMAND, *arguments, "--config", str(config)]
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, "flowtag: No space left on device\n")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_run_into_a_full_device_keeps_the_records(config: Path, pin_directory: Path) -> None:
    """A record that could not be written comes out of the next run."""
    connect = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    )
    with open("/dev/full", "w", encoding="utf-8") as full:
        running = subprocess.Popen(
            [COMMAND, "run", "--output", "json", "--for", "20", "--config", str(config)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            while not (pin_directory / "link_state").exists() and running.poll() is None:
                time.sleep(0.02)
            call("/usr/bin/python3", "-c", connect)
            _, log = running.communicate(timeout=60)
        finally:
            running.kill()
            running.wait()
    assert running.returncode == 1
    assert "flowtag: writing records to standard output: No space left on device\nhint: " in log
    assert "Traceback" not in log
    with open_map("ft_count", str(pin_directory)) as count:
        value = count.get(abi.INDEX.pack(abi.COUNTERS.index("records"))) or b""
    before = sum(int.from_bytes(value[i : i + 8], "little") for i in range(0, len(value), 8))
    done = call(COMMAND, "run", "--output", "json", "--for", "1", "--config", str(config))
    assert done.returncode == 0
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) >= before >= 2
