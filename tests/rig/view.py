# SPDX-License-Identifier: Apache-2.0
"""Another view of the machine's files for an engine: a private mount namespace.

    with View(root=sid_root()) as view:            # another root file system; what is written to it is lost
    with View(only_cgroup2=True) as view:          # /sys/fs/cgroup is cgroup v2 alone
        subprocess.run(view.command("podman", "info"))
        view.path("/run/podman.sock")              # a file of the view, as seen from here
    View()                                         # as the machine is; command() adds nothing

In another root, /proc, /sys, /dev, /tmp and the checkout are the machine's, /run is empty. Nothing is
ever removed or made in /sys/fs/cgroup: that file system belongs to the machine, only our mounts differ.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

CHECKOUT = Path(__file__).resolve().parents[2]

_ONLY_CGROUP2 = """
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
"""
# $1 the root, $2 a folder for what is written, $3 the checkout. A plain chroot would not do: containers
# need a root that is a mount point of their namespace, for pivot_root.
_OTHER_ROOT = """
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
cd "$2/root"
for name in proc sys dev tmp; do mount --rbind "/$name" "$name"; done
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p "./$3" run/old run/lock
mount --rbind "$3" "./$3"
pivot_root . run/old
cd /
umount -l /run/old
rmdir /run/old
"""
_WAIT = """
echo ready
exec sleep infinity
"""


class View:
    """A mount namespace, held open by a process that sleeps in it."""

    def __init__(self, *, root: Path | None = None, only_cgroup2: bool = False) -> None:
        self._root = root
        self._only_cgroup2 = only_cgroup2
        self._holder: subprocess.Popen[str] | None = None
        self._written: Path | None = None

    def __enter__(self) -> View:
        script = "set -eu\n"
        if self._only_cgroup2:
            script += _ONLY_CGROUP2
        if self._root:
            script += _OTHER_ROOT
            self._written = Path(tempfile.mkdtemp(prefix="ftv", dir="/tmp"))
        if self._only_cgroup2 or self._root:
            places = [str(self._root), str(self._written), str(CHECKOUT)]
            self._holder = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", script + _WAIT, "sh", *places],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert self._holder.stdout
            said = self._holder.stdout.readline()
            if said != "ready\n":
                said += self._holder.stdout.read()
                self.close()
                raise RuntimeError(f"making a private view of the machine: {said.strip()}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; the namespace ends with the last process in it."""
        if self._holder:
            self._holder.kill()
            self._holder.wait()
            assert self._holder.stdout
            self._holder.stdout.close()
            self._holder = None
        if self._written:
            shutil.rmtree(self._written)
            self._written = None

    def command(self, *arguments: str) -> list[str]:
        """The arguments that run a command in the view."""
        if not self._holder:
            return list(arguments)
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", *arguments]

    def path(self, path: str) -> Path:
        """A path of the view, as this process reaches it."""
        return Path(f"/proc/{self._holder.pid}/root{path}") if self._holder else Path(path)
