# SPDX-License-Identifier: Apache-2.0
"""What must be there before a container starts: the pinned maps, the run directory, the hook's settings.

`flowtag maps create` does this at boot, and the exporter again at its start; both may be repeated.
"""

from __future__ import annotations

import os

from bpf.error import FlowtagError, LoadError
from exporter import btf, mount
from exporter.config import Config
from exporter.programs import create_maps
from identity import cgroup, netns
from identity.claim import STRIPES


def prepare(config: Config) -> list[str]:
    """Make what is missing of it; returns what was made, as paths."""
    host = config.host
    if os.geteuid() != 0:
        raise FlowtagError(
            f"making the pin directory {host.pin_directory}: not permitted to user {os.geteuid()}",
            "run as root",
        )
    on = mount.holding(host.pin_directory)
    if on.kind != "bpf":
        raise FlowtagError(
            f"making the pin directory {host.pin_directory}: no bpf file system there, but {on.kind}",
            "mount -t bpf bpf /sys/fs/bpf",
        )
    btf.require()
    _root_owned(on.place, host.pin_directory)
    made = [os.path.join(host.pin_directory, name) for name in _maps(config)]
    try:
        _root_owned(host.run_directory, host.run_directory)
        made += _run_directory(host.run_directory)
        made += _hook_settings(config)
    except OSError as error:
        raise FlowtagError(
            f"making the run directory {host.run_directory}: {error.filename}: {error.strerror}",
            "run as root; nothing else may write there",
        ) from None
    return made


def _maps(config: Config) -> list[str]:
    try:
        return create_maps(config.host.pin_directory, config.exporter.ring_bytes)
    except LoadError as error:
        if not error.hint:
            raise
        raise FlowtagError(str(error), error.hint) from None  # rights: the log says nothing more


def _root_owned(top: str, path: str) -> None:
    """FlowtagError if a directory on the way is not root's: anybody may write to some bpf file systems."""
    place = os.path.realpath(path)
    while True:
        if os.path.isdir(place) and os.stat(place).st_uid != 0:
            raise FlowtagError(
                f"using the directory {place}: it belongs to user {os.stat(place).st_uid}, not to root",
                "see who made it, and remove it",
            )
        if len(place) <= len(os.path.realpath(top)):
            return
        place = os.path.dirname(place)


def _run_directory(directory: str) -> list[str]:
    made = []
    for path in (directory, *(os.path.join(directory, n) for n in ("live", "pending", "lock"))):
        if not os.path.isdir(path):
            os.makedirs(path, mode=0o700)
            made.append(path)
        os.chmod(path, 0o700)
    for stripe in range(STRIPES):
        path = os.path.join(directory, "lock", f"{stripe:02x}")
        os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    return made


def _hook_settings(config: Config) -> list[str]:
    """Lines `key value`: quick to read for the hook, which has no time for TOML."""
    values = {
        "pin_directory": config.host.pin_directory,
        "cgroup_mount": cgroup.mount_point() or "",
        "host_netns": str(netns.host_cookie()),
        "shared_addresses": " ".join(config.translation.shared_addresses),
        # For `flowtag status`. No cgroup has a slash in its name; some may have a line's end.
        "engine_roots": "/".join(filter(str.isprintable, config.host.engine_roots)),
    }
    text = "".join(f"{key} {value}\n" for key, value in values.items()).encode(errors="surrogateescape")
    path = os.path.join(config.host.run_directory, "hook")
    try:
        with open(path, "rb") as file:
            if file.read() == text:
                return []
    except FileNotFoundError:
        pass
    part = f"{path}.{os.getpid()}"
    with open(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(part, path)  # the hook reads the old settings or the new ones, never half
    return [path]
