# SPDX-License-Identifier: Apache-2.0
"""Programs of other Debian releases, downloaded once into /var/cache/flowtag-tests.

    folder = unpacked("trixie", "containerd")      # <folder>/usr/bin/containerd runs here as it is
    root = sid_root()                              # a root file system with the newest engines, see view.py

apt gets lists, cache and state of its own; /etc/apt and what is installed stay as they are. What
cannot be had (no network, nothing kept) is a RuntimeError. FLOWTAG_TEST_CACHE names another folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(os.environ.get("FLOWTAG_TEST_CACHE", "/var/cache/flowtag-tests"))
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# iproute2: the networks of the tests; python3: the hook and the containers' payloads.
SID_PACKAGES = (
    "busybox-static",
    "ca-certificates",
    "containerd",
    "containernetworking-plugins",
    "crun",
    "docker-cli",
    "docker.io",
    "iproute2",
    "iptables",
    "netavark",
    "podman",
    "python3",
    "runc",
)


def unpacked(suite: str, package: str) -> Path:
    """The folder into which the package of that release is unpacked; without what it depends on."""
    with _locked():
        folder = CACHE / suite / package
        if not folder.exists():
            part = folder.with_name(f"{package}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            options = _apt_options(suite)
            _run(["apt-get", "-q", *options, "update"])
            _run(["apt-get", "-q", *options, "download", package], part)
            (archive,) = part.glob("*.deb")
            _run(["dpkg-deb", "-x", str(archive), str(part)])
            archive.unlink()
            part.rename(folder)
        return folder


def sid_root() -> Path:
    """A root file system of Debian unstable with the newest engines; made in about 75 seconds, 700 MB.

    It is kept as it was made: views lay a file system of their own over it.
    """
    with _locked():
        root, made_of = CACHE / "sid/root", CACHE / "sid/root.packages"
        wanted = ",".join(SID_PACKAGES)
        if not root.exists() or not made_of.exists() or made_of.read_text(encoding="ascii") != wanted:
            part = CACHE / "sid/root.part"
            for old in (root, part):
                shutil.rmtree(old, ignore_errors=True)
            part.mkdir(parents=True)
            _run(["debootstrap", "--variant=minbase", f"--include={wanted}", "sid", str(part), mirror()])
            for archive in (part / "var/cache/apt/archives").glob("*.deb"):
                archive.unlink()
            made_of.write_text(wanted, encoding="ascii")
            part.rename(root)
        return root


def mirror() -> str:
    """The mirror of Debian that this machine's apt uses; FLOWTAG_TEST_MIRROR names one where it uses none."""
    named = os.environ.get("FLOWTAG_TEST_MIRROR")
    if named:
        return named
    form = "$(SITE) $(ORIGIN) $(LABEL)"
    sites = _run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    for line in sites.splitlines():
        site, _, whose = line.partition(" ")
        if whose == "Debian Debian":  # not the security archive, which has no other releases
            return site
    raise RuntimeError("apt uses no mirror of Debian: name one in FLOWTAG_TEST_MIRROR")


@contextmanager
def _locked() -> Iterator[None]:
    """One test run at a time fills the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _apt_options(suite: str) -> list[str]:
    """Options that give apt a private world with this release's list in it."""
    world = CACHE / suite / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (world / name).mkdir(parents=True, exist_ok=True)
    (world / "status").touch()
    (world / "sources.list").write_text(
        f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n", encoding="ascii"
    )
    values = {
        "Dir::Etc::sourcelist": world / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": world / "lists",
        "Dir::State::status": world / "status",
        "Dir::Cache": world / "cache",
        "APT::Sandbox::User": "root",  # the cache may be below a folder that _apt cannot enter
    }
    return [word for key, value in values.items() for word in ("-o", f"{key}={value}")]


def _run(command: list[str], directory: Path | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=directory or "/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:].strip()}")
    return done.stdout
