# SPDX-License-Identifier: Apache-2.0
"""A private Podman, and containers in it.

    with Podman() as podman:                       # the machine's; view=View(root=sid_root()) for the newest
        podman.run("web", puppet)                  # detached; its full id; waits until the puppet is up
        podman.run("web", puppet, "--network", "host")
        podman.command("stop", "--time", "1", "web")      # any command; stdout
        podman.inspect("web")["State"]["Pid"]
        podman.address("web")                      # IPv4, on the bridge
        podman.hooks                               # its hooks.d, the only one that it reads
        podman.directory, podman.bridge
    Podman(runtime="crun")                         # needs a view with cgroup v2 alone

Storage, state, configuration and leases lie below a folder of its own in /tmp, cgroups below
/flowtag-test-..., the network is `bridge`, which is made here. At the end all containers are removed.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.rig.bridge import Bridge
from tests.rig.image import make_image
from tests.rig.leavings import remove_cgroups, scratch, sweep
from tests.rig.puppet import Puppet
from tests.rig.view import View
from tests.rig.wrapper import make_wrapper

IMAGE = "flowtag.test/base:1"
_serial = itertools.count()


class Podman:
    """podman with everything of its own; there is no daemon."""

    def __init__(self, *, view: View | None = None, runtime: str = "runc") -> None:
        self.view = view or View()
        self.directory = scratch("ftp")
        self.hooks = self.directory / "hooks.d"
        self.hooks.mkdir()
        self.cgroup_root = f"flowtag-test-{os.getpid()}-p{next(_serial)}"
        self.bridge = Bridge()
        # It asks for more open files than root may have here, and for controllers that are not there.
        self.runtime = make_wrapper(
            self.directory, runtime, drop=["process.rlimits", "process.oomScoreAdj", "linux.resources"]
        )

    def _major(self) -> int:
        done = subprocess.run(
            self.view.command("podman", "--version"), capture_output=True, text=True, check=True
        )
        return int(done.stdout.split()[2].partition(".")[0])

    def _write_config(self) -> None:
        """containers.conf and the network: CNI's up to 4, netavark's from 5 on."""
        here = self.directory
        networks = here / "networks"
        networks.mkdir()
        backend = "cni"
        if self._major() < 5:
            self.bridge.write_cni(networks, "flowtag")
        else:
            backend = "netavark"
            self._write_netavark(networks / "flowtag.json")
        (here / "policy.json").write_text(
            '{"default": [{"type": "insecureAcceptAnything"}]}', encoding="ascii"
        )
        (here / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{here}/root"\nrunroot = "{here}/run"\n',
            encoding="ascii",
        )
        (here / "containers.conf").write_text(
            "[containers]\n"
            'cgroupns = "host"\nlog_driver = "k8s-file"\n'
            f"[engine]\n"
            f'cgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "{self.runtime}"\n'
            f'tmp_dir = "{here}/tmp"\n'
            f"[network]\n"
            f'network_backend = "{backend}"\nnetwork_config_dir = "{networks}"\n'
            f'default_network = "flowtag"\ncni_plugin_dirs = ["/usr/lib/cni"]\n'
            'firewall_driver = "none"\n',
            encoding="utf-8",
        )

    def _write_netavark(self, path: Path) -> None:
        """A bridge that netavark only plugs into: no addresses of its own, no forwarding, no firewall."""
        subnets = [{"subnet": self.bridge.subnet4, "gateway": self.bridge.ipv4}]
        network = {
            "name": "flowtag",
            "id": "f1" * 32,
            "driver": "bridge",
            "network_interface": self.bridge.name,
            "created": "2024-01-01T00:00:00Z",
            "subnets": subnets,
            "ipv6_enabled": False,
            "internal": False,
            "dns_enabled": False,
            "options": {"mode": "unmanaged"},
            "ipam_options": {"driver": "host-local"},
        }
        path.write_text(json.dumps(network), encoding="utf-8")

    def __enter__(self) -> Podman:
        try:
            self.bridge.__enter__()
            self._write_config()
            image = make_image(self.directory / "image.tar", IMAGE)
            self.command("load", "--input", str(image))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def command(self, *arguments: str, timeout: float = 60) -> str:
        """What it prints; RuntimeError if it fails."""
        here = self.directory
        argv = [
            "env",
            f"CONTAINERS_CONF={here}/containers.conf",
            f"CONTAINERS_STORAGE_CONF={here}/storage.conf",
            "podman",
            *("--hooks-dir", str(self.hooks)),
            *arguments,
        ]
        # Not to a pipe: what stays behind of a container would hold it open.
        with (
            open(here / "out", "w+", encoding="utf-8") as out,
            open(here / "err", "w+", encoding="utf-8") as err,
        ):
            status = subprocess.run(
                self.view.command(*argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=timeout,
                check=False,
            ).returncode
            out.seek(0)
            err.seek(0)
            if status:
                raise RuntimeError(f"podman {' '.join(arguments)}: {err.read().strip()}")
            return out.read()

    def run(self, name: str, puppet: Puppet, *options: str) -> str:
        """Run a container that is called `name`; its full id."""
        binds = ["--volume", "/usr:/usr:ro", "--volume", f"{puppet.directory}:/puppet"]
        parent = ["--cgroup-parent", f"/{self.cgroup_root}"]
        entry, *rest = puppet.argv
        words = ["run", "--detach", "--name", name, *parent, *binds, "--entrypoint", entry, *options]
        container = self.command(*words, IMAGE, *rest).strip()
        puppet.await_up()
        return container

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("inspect", name))[0]
        return found

    def address(self, name: str) -> str:
        networks = self.inspect(name)["NetworkSettings"]["Networks"]
        return next(str(network["IPAddress"]) for network in networks.values())

    def close(self) -> None:
        """Remove what is left; may be called twice."""
        if (self.directory / "containers.conf").exists():
            with suppress(RuntimeError):
                self.command("rm", "--all", "--force", "--time", "0")
        sweep(self.directory)
        self.bridge.close()
        remove_cgroups(self.cgroup_root)
