# SPDX-License-Identifier: Apache-2.0
"""A container image made on the spot: busybox, and folders to bind the machine's /usr to.

    path = make_image(tmp_path / "image.tar", "flowtag.test/base:1")

The tar is in docker-archive form, which `docker load`, `podman load` and `ctr images import` take.
Its entry point sleeps, so it also serves as a pod's pause image. With /usr bound from the machine
the container runs the machine's programs, python3 above all: /bin and /lib are links into it.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
FOLDERS = ("dev", "etc", "proc", "puppet", "run", "sys", "tmp", "usr")
LINKS = {name: f"usr/{name}" for name in ("bin", "lib", "lib32", "lib64", "libx32", "sbin")}


def make_image(path: Path, name: str) -> Path:
    """Write the archive of an image called `name`, a reference with a tag, to `path`."""
    layer = _layer()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
            "Entrypoint": ["/busybox"],
            "Cmd": ["sleep", "2147483647"],
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    text = json.dumps(config).encode()
    digest = hashlib.sha256(text).hexdigest()
    manifest = [{"Config": f"{digest}.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        for file, data in (
            (f"{digest}.json", text),
            ("layer.tar", layer),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            archive.addfile(_entry(file, len(data)), io.BytesIO(data))
    return path


def _layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for name in FOLDERS:
            folder = _entry(name, 0)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            layer.addfile(folder)
        for name, target in LINKS.items():
            link = _entry(name, 0)
            link.type, link.linkname = tarfile.SYMTYPE, target
            layer.addfile(link)
        program = BUSYBOX.read_bytes()
        layer.addfile(_entry("busybox", len(program)), io.BytesIO(program))
    return buffer.getvalue()


def _entry(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o755
    return info
