# SPDX-License-Identifier: Apache-2.0
"""What `flowtag check` says about the host: kernel, rights, file systems, cgroups, libbpf, clock."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator

from bpf import libbpf
from bpf.error import FlowtagError
from exporter import btf, mount
from exporter.check import FAIL, OK, WARN, Check, Finding
from exporter.config import Config
from identity import cgroup

# The floor, by what the programs use. Each: the release that brought it, and what it is for.
NEEDS = {
    "btf_trace_inet_sock_set_state": ("5.5", "flows are seen by it"),
    "btf_trace_tcp_destroy_sock": ("5.5", "the backup for closes that the first program missed"),
    "btf_trace_cgroup_mkdir": ("5.5", "new cgroups inherit their owner"),
    "btf_trace_cgroup_rmdir": ("5.5", "removed cgroups lose their owner"),
    "net.net_cookie": ("5.12", "network namespaces are told apart"),
    "sock_cgroup_data.cgroup": ("5.15", "a socket's cgroup"),
}
CAPABILITIES = {
    "CAP_BPF": 39,
    "CAP_PERFMON": 38,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_PTRACE": 19,
}
# Their containers' sockets live in a network stack that is not the host's.
OUT_OF_REACH = {
    "gVisor": ("runsc", "containerd-shim-runsc-v1"),
    "kata": ("kata-runtime", "containerd-shim-kata-v2"),
}


def kernel(config: Config) -> Iterator[Finding]:
    release = os.uname().release
    try:
        with open(btf.VMLINUX, "rb") as file:
            found = btf.find(file.read(), NEEDS)
    except FileNotFoundError:
        yield Finding(
            FAIL,
            "kernel",
            f"{release} has no BTF ({btf.VMLINUX})",
            btf.HINT,
        )
        return
    except FlowtagError as error:
        yield Finding(
            FAIL,
            "kernel",
            f"{release}: {btf.VMLINUX}: {error}",
            btf.HINT,
        )
        return
    missing = [name for name in NEEDS if name not in found]
    for name in missing:
        since, purpose = NEEDS[name]
        yield Finding(
            FAIL,
            "kernel",
            f"{release} has no {name}: {purpose}",
            f"Linux {since} brought it; 5.15 has all that flowtag needs",
        )
    if not missing:
        yield Finding(OK, "kernel", f"{release} with BTF has every field that the programs use")


def rights(config: Config) -> Iterator[Finding]:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        line = next(line for line in file if line.startswith("CapEff:"))
    held = int(line.split()[1], 16)
    missing = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        yield Finding(FAIL, "rights", f"this process has no {', '.join(missing)}", "run as root")
    else:
        who = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
        yield Finding(OK, "rights", f"{who} with {', '.join(CAPABILITIES)}")


def file_systems(config: Config) -> Iterator[Finding]:
    pins = config.host.pin_directory
    on = mount.holding(pins)
    if on.kind == "bpf":
        yield Finding(OK, "bpffs", f"mounted at {on.place}")
    else:
        yield Finding(
            FAIL,
            "bpffs",
            f"none at {pins}, which lies on {on.kind} at {on.place}",
            "mount -t bpf bpf /sys/fs/bpf",
        )
    traces = [m.place for m in mount.mounts() if m.kind == "tracefs"]
    text = f"mounted at {traces[0]}" if traces else "not mounted; the programs do not need it"
    yield Finding(OK, "tracefs", text)


def cgroups(config: Config) -> Iterator[Finding]:
    place = cgroup.mount_point()
    first = [m.place for m in mount.mounts() if m.kind == "cgroup"]
    if place is None:
        promise = not config.host.host_network_containers
        yield Finding(
            WARN,
            "cgroups",
            "version 1 only: sockets carry no container's cgroup, so containers are told by their"
            " network namespace"
            + (", as configured without any in the host's" if promise else ", the host's flows are nobody's"),
            ""
            if promise
            else "boot with systemd.unified_cgroup_hierarchy=1, or, if no container uses"
            " the host's network, set host.host_network_containers = false",
        )
    elif first:
        yield Finding(
            OK,
            "cgroups",
            f"hybrid: version 2 at {place} beside {len(first)} of version 1; containers are told by"
            " their cgroup where the engine makes one in version 2 (runc does)",
        )
    else:
        yield Finding(OK, "cgroups", f"version 2 at {place}: containers are told by their cgroup")


def library(config: Config) -> Iterator[Finding]:
    try:
        major, minor = libbpf.version()
    except FlowtagError as error:
        yield Finding(FAIL, "libbpf", str(error), error.hint)
    else:
        yield Finding(OK, "libbpf", f"{major}.{minor}")


def clock(config: Config) -> Iterator[Finding]:
    with open("/sys/devices/system/clocksource/clocksource0/current_clocksource", encoding="ascii") as file:
        source = file.read().strip()
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(booted))
    if booted < 1_600_000_000:  # 2020: older than any kernel that can run the programs
        yield Finding(
            WARN,
            "clock",
            f"booted at {when} by the wall clock, which cannot be",
            "set the clock: records join kernel times with it",
        )
    elif source in ("hpet", "acpi_pm", "jiffies"):
        yield Finding(WARN, "clock", f"{source}: slow to read, every flow pays for it")
    else:
        yield Finding(OK, "clock", f"{source}; booted at {when} by the wall clock")


def reach(config: Config) -> Iterator[Finding]:
    for runtime, programs in OUT_OF_REACH.items():
        if any(shutil.which(program) for program in programs):
            yield Finding(
                WARN,
                "reach",
                f"{runtime} is installed: its containers' sockets are not the host's, so their flows"
                " are not seen",
            )
    yield Finding(
        OK,
        "reach",
        "sockets of this kernel; gVisor's own network stack and kata's guests are out of reach",
    )


CHECKS: tuple[Check, ...] = (kernel, rights, file_systems, cgroups, library, clock, reach)
