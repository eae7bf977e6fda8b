# SPDX-License-Identifier: Apache-2.0
"""A private Docker daemon, and containers in it.

    with Docker() as docker:                       # the machine's; programs=[folders] for another's
        docker.run("web", puppet)                  # detached; its full id; waits until the puppet is up
        docker.run("web", puppet, "--runtime", "runc", "--network", "host")
        docker.command("stop", "--time", "1", "web")      # any command of the client; stdout
        docker.inspect("web")["State"]["Pid"]
        docker.address("web")                      # IPv4, on the bridge
        docker.restart()                           # containers go on if live-restore is on
        docker.stop(); docker.start()
        docker.reload()                            # SIGHUP
        docker.directory, docker.config, docker.socket, docker.bridge, docker.settings

`settings` are more keys of daemon.json; write `docker.config` and reload() or restart() to change them.
Firewall rules and forwarding are switched off, cgroups lie below /flowtag-test-..., the network is `bridge`,
which is made here. At the end all containers are removed and the daemon, with its own containerd, ends.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.rig.bridge import Bridge
from tests.rig.daemon import Daemon
from tests.rig.image import make_image
from tests.rig.leavings import remove_cgroups, scratch, sweep
from tests.rig.puppet import Puppet
from tests.rig.view import View

IMAGE = "flowtag.test/base:1"
_serial = itertools.count()


class Docker:
    """dockerd as a process, with everything of its own."""

    def __init__(
        self,
        *,
        programs: Sequence[Path] = (),
        view: View | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.view = view or View()
        self.directory = scratch("ftd")
        self.config = self.directory / "daemon.json"
        self.socket = self.directory / "docker.sock"
        self.cgroup_root = f"flowtag-test-{os.getpid()}-d{next(_serial)}"
        self.bridge = Bridge()
        here = str(self.directory)
        self.settings: dict[str, Any] = {
            "data-root": f"{here}/data",
            "exec-root": f"{here}/exec",
            "pidfile": f"{here}/docker.pid",
            "hosts": [f"unix://{self.socket}"],
            "bridge": self.bridge.name,
            "iptables": False,
            "ip6tables": False,
            "ip-forward": False,
            "ip-masq": False,
            "userland-proxy": False,
            "cgroup-parent": f"/{self.cgroup_root}",
            "live-restore": True,
            "storage-driver": "vfs",
            **(settings or {}),
        }
        path = ":".join([*map(str, programs), "/usr/sbin:/usr/bin:/sbin:/bin"])
        self._environment = ["env", f"PATH={path}", f"DOCKER_CONFIG={here}/client"]
        argv = [*self._environment, "dockerd", "--config-file", str(self.config)]
        self.daemon = Daemon("dockerd", self.view.command(*argv), self.directory / "dockerd.log")
        self.write_config()

    def write_config(self) -> None:
        """Write `settings` as daemon.json."""
        self.config.write_text(json.dumps(self.settings, indent=2), encoding="utf-8")

    def __enter__(self) -> Docker:
        try:
            self.bridge.__enter__()
            self.start()
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

    def start(self) -> None:
        """Start the daemon; returns when it answers."""

        def ready() -> bool:
            if not self.socket.exists():
                return False
            with suppress(RuntimeError):
                self.command("version")
                return True
            return False

        self.daemon.start(ready)

    def stop(self) -> None:
        """End the daemon: containers go on with live-restore, else they are stopped."""
        self.daemon.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def reload(self) -> None:
        """Let it read its configuration again; returns when it has."""
        said = self.daemon.text.count("Reloaded configuration")
        self.daemon.signal(signal.SIGHUP)
        self.daemon.await_text("Reloaded configuration", said + 1)

    def command(self, *arguments: str, timeout: float = 60) -> str:
        """What the client prints; RuntimeError if it fails."""
        argv = [*self._environment, "docker", "--host", f"unix://{self.socket}", *arguments]
        done = subprocess.run(
            self.view.command(*argv), capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def run(self, name: str, puppet: Puppet, *options: str) -> str:
        """Run a container that is called `name`; its full id."""
        binds = ["--volume", "/usr:/usr:ro", "--volume", f"{puppet.directory}:/puppet"]
        entry, *rest = puppet.argv
        words = ["run", "--detach", "--name", name, *binds, "--entrypoint", entry, *options, IMAGE, *rest]
        container = self.command(*words).strip()
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
        if self.daemon.runs:
            with suppress(RuntimeError):
                if names := self.command("ps", "--all", "--quiet").split():
                    self.command("rm", "--force", *names)
            with suppress(RuntimeError):
                self.command("network", "prune", "--force")
        self.daemon.stop()
        sweep(self.directory)
        self.bridge.close()
        remove_cgroups(self.cgroup_root)
