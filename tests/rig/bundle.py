# SPDX-License-Identifier: Apache-2.0
"""An OCI bundle whose container runs a Python script on the machine's own /usr.

    bundle = make_bundle(
        tmp_path / "web",                  # made; holds config.json and rootfs/
        "print('hello')",                  # the payload: a Python script
        cgroup="/flowtag-test-7/web",      # linux.cgroupsPath, always absolute
        netns=net.namespace("web").path,   # or HOST (the machine's own), or NEW (an empty one)
        annotations={"a": "b"},
        hooks={"createRuntime": [...]},    # what `flowtag register --runtime runc --print` gives
    )

No image is needed: /usr, /lib* and /bin are bound read-only from the machine (or are the same
links), /proc is the container's, /tmp a tmpfs. The script runs as root by /usr/bin/python3 with the
rights to configure its network. `binds` adds mounts (source -> destination, read-write).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HOST = "host"
NEW = "new"

_CAPABILITIES = [
    "CAP_KILL",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
]


def make_bundle(
    directory: Path,
    script: str,
    *,
    cgroup: str,
    netns: str = NEW,
    annotations: Mapping[str, str] | None = None,
    hooks: Mapping[str, Any] | None = None,
    binds: Mapping[str, str] | None = None,
    args: Sequence[str] = ("/usr/bin/python3", "-I", "-u", "/payload.py"),
) -> Path:
    """Write config.json and rootfs below `directory`, which is returned."""
    if not cgroup.startswith("/"):
        raise ValueError(f"cgroup {cgroup!r}: a relative path lands in somebody else's cgroup")
    rootfs = directory / "rootfs"
    mounts = _system(rootfs)
    for source, destination in (binds or {}).items():
        (rootfs / destination.lstrip("/")).mkdir(parents=True, exist_ok=True)
        mounts.append(_bind(source, destination, "rw"))
    (rootfs / "payload.py").write_text(script, encoding="utf-8")
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    if netns == NEW:
        namespaces.append({"type": "network"})
    elif netns != HOST:
        namespaces.append({"type": "network", "path": netns})
    config: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": directory.name,
        "mounts": mounts,
        "annotations": dict(annotations or {}),
        "hooks": dict(hooks or {}),
        "linux": {"namespaces": namespaces, "cgroupsPath": cgroup},
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return directory


def _system(rootfs: Path) -> list[dict[str, Any]]:
    """Make the folders and links of a root file system; the mounts that fill it."""
    for name in ("proc", "dev", "tmp", "etc"):
        (rootfs / name).mkdir(parents=True)
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
    ]
    for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        here, there = Path("/", name), rootfs / name
        if here.is_symlink():  # merged /usr
            there.symlink_to(here.readlink())
        elif here.is_dir():
            there.mkdir()
            mounts.append(_bind(str(here), str(here), "ro"))
    return mounts


def _bind(source: str, destination: str, mode: str) -> dict[str, Any]:
    options = ["rbind", mode, "nosuid"]
    return {"destination": destination, "type": "bind", "source": source, "options": options}
