# SPDX-License-Identifier: Apache-2.0
"""A private containerd with its CRI service, and pods in it.

    with Containerd() as containerd:               # the machine's; binaries=Path(...) for another's
        pod = containerd.run_pod(
            "web-0", namespace="shop", uid="6f0c...", containers={"app": puppet, "side": other}
        )
        pod.sandbox, pod.containers["app"]         # their ids
        pod.address                                # IPv4, on the bridge
        pod.stop(), pod.remove()                   # the whole pod
        containerd.cri.runtime("StopContainer", container_id=pod.containers["app"], timeout=1)
        containerd.restart()                       # its containers go on
        containerd.stop(); containerd.config.write_text(...); containerd.start()
        containerd.configure(runc_options='BinaryName = "/x"\n')     # made anew, and a restart
        containerd.directory, containerd.config, containerd.socket, containerd.bridge
        containerd.ctr("namespaces", "list")       # the command line client

The configuration has version 2 (3 with containerd 2.x). More TOML: `cri` for the CRI runtime's section,
`runtime_options` for runc's (base_runtime_spec, pod_annotations), `runc_options` for the options in it
(BinaryName), `plugins` for other sections. Everything lies below a folder of its own in
/tmp; cgroups below /flowtag-test-...; a pod's network is a port of `bridge`. At the end pods are removed
and the daemon ends.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.rig.bridge import Bridge
from tests.rig.cri import Cri
from tests.rig.daemon import Daemon
from tests.rig.image import make_image
from tests.rig.leavings import remove_cgroups, remove_namespace, scratch, sweep
from tests.rig.puppet import Puppet
from tests.rig.view import View

IMAGE = "flowtag.test/base:1"
_serial = itertools.count()


@dataclass(slots=True)
class Pod:
    """One pod: the sandbox's id, its containers' by name, the path of its network namespace."""

    engine: Containerd
    name: str
    sandbox: str
    config: Any
    containers: dict[str, str] = field(default_factory=dict)
    namespace: str = ""

    @property
    def address(self) -> str:
        status = self.engine.cri.runtime("PodSandboxStatus", pod_sandbox_id=self.sandbox).status
        return str(status.network.ip)

    def add(self, name: str, puppet: Puppet) -> str:
        """Create and start one more container; its id."""
        cri = self.engine.cri
        mounts = [
            cri.message("Mount", host_path="/usr", container_path="/usr", readonly=True),
            cri.message("Mount", host_path=str(puppet.directory), container_path="/puppet"),
        ]
        config = cri.message(
            "ContainerConfig",
            metadata=cri.message("ContainerMetadata", name=name),
            image=cri.message("ImageSpec", image=IMAGE),
            command=puppet.argv,
            mounts=mounts,
            linux=cri.message("LinuxContainerConfig"),
            log_path=f"{name}.log",
        )
        made = cri.runtime(
            "CreateContainer", pod_sandbox_id=self.sandbox, config=config, sandbox_config=self.config
        )
        self.containers[name] = str(made.container_id)
        cri.runtime("StartContainer", container_id=made.container_id)
        return self.containers[name]

    def stop(self) -> None:
        self.engine.cri.runtime("StopPodSandbox", pod_sandbox_id=self.sandbox)

    def remove(self) -> None:
        self.engine.cri.runtime("RemovePodSandbox", pod_sandbox_id=self.sandbox)


class Containerd:
    """containerd as a process, with everything of its own."""

    def __init__(
        self,
        *,
        binaries: Path = Path("/usr/bin"),
        view: View | None = None,
        **more: str,
    ) -> None:
        self.view = view or View()
        self._binaries = binaries
        self.directory = scratch("ftc")
        self.config = self.directory / "config.toml"
        self.socket = self.directory / "containerd.sock"
        self.cgroup_root = f"flowtag-test-{os.getpid()}-c{next(_serial)}"
        self.bridge = Bridge()
        self.pods: list[Pod] = []
        path = f"{binaries}:/usr/sbin:/usr/bin:/sbin:/bin"  # where it finds its shim and runc
        self.daemon = Daemon(
            "containerd",
            self.view.command(
                "env", f"PATH={path}", str(binaries / "containerd"), "--config", str(self.config)
            ),
            self.directory / "containerd.log",
        )
        self.cri: Cri
        self.config.write_text(self._config(**more), encoding="utf-8")

    def version(self) -> tuple[int, int]:
        done = subprocess.run(
            self.view.command(str(self._binaries / "containerd"), "--version"),
            capture_output=True,
            text=True,
            check=True,
        )
        major, minor, *_ = done.stdout.split()[2].split(".")
        return int(major), int(minor)

    def _config(
        self, cri: str = "", runc_options: str = "", runtime_options: str = "", plugins: str = ""
    ) -> str:
        """A whole configuration; CRI's sections have other names from 2.0 on."""
        here = self.directory
        newer = self.version() >= (2, 0)
        runtime = '"io.containerd.cri.v1.runtime"' if newer else '"io.containerd.grpc.v1.cri"'
        if newer:
            pause = (
                '[plugins."io.containerd.cri.v1.images"]\n'
                'snapshotter = "native"\n'
                '[plugins."io.containerd.cri.v1.images".pinned_images]\n'
                f'sandbox = "{IMAGE}"\n'
            )
        else:
            pause = f'[plugins.{runtime}.containerd]\nsnapshotter = "native"\n'
        return (
            f"version = {3 if newer else 2}\n"
            f'root = "{here}/root"\nstate = "{here}/state"\n'
            f'[grpc]\naddress = "{self.socket}"\n'
            f'[ttrpc]\naddress = "{self.socket}.ttrpc"\n'
            '[plugins."io.containerd.internal.v1.opt"]\n'
            f'path = "{here}/opt"\n'
            + plugins
            + f"[plugins.{runtime}]\n"
            # Root has no right here to make a process less killable than it is itself.
            + "restrict_oom_score_adj = true\n"
            + ("" if newer else f'sandbox_image = "{IMAGE}"\n')
            + cri
            + f"[plugins.{runtime}.cni]\n"
            f'bin_dir = "/usr/lib/cni"\nconf_dir = "{here}/cni"\n'
            + pause
            + f"[plugins.{runtime}.containerd.runtimes.runc]\n"
            'runtime_type = "io.containerd.runc.v2"\n'
            + runtime_options
            + f"[plugins.{runtime}.containerd.runtimes.runc.options]\n"
            f'Root = "{here}/runc"\n' + runc_options
        )

    def __enter__(self) -> Containerd:
        try:
            self.bridge.__enter__()
            self.bridge.write_cni(self.directory / "cni", "flowtag")
            self.start()
            image = make_image(self.directory / "image.tar", IMAGE)
            # 2.x would unpack through a service that does not know this snapshotter.
            local = ["--local"] if self.version() >= (2, 0) else []
            options = ["--snapshotter", "native", *local]
            self.ctr("--namespace", "k8s.io", "images", "import", *options, str(image))
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

    def configure(self, **more: str) -> None:
        """Write the configuration anew, with this TOML in it, and restart."""
        self.config.write_text(self._config(**more), encoding="utf-8")
        self.restart()

    def start(self) -> None:
        """Start the daemon; returns when CRI says that runtime and network are ready."""

        def ready() -> bool:
            return self.socket.exists() and self.cri.ready()

        self.cri = Cri(str(self.socket))
        self.daemon.start(ready)

    def stop(self) -> None:
        """End the daemon; its containers go on."""
        self.cri.close()
        self.daemon.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def ctr(self, *arguments: str) -> str:
        """What `ctr` says; RuntimeError if it fails."""
        command = [str(self._binaries / "ctr"), "--address", str(self.socket), *arguments]
        done = subprocess.run(self.view.command(*command), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ctr {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def run_pod(
        self,
        name: str,
        containers: Mapping[str, Puppet],
        *,
        namespace: str = "default",
        uid: str = "",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        host_network: bool = False,
    ) -> Pod:
        """Run a pod as the kubelet does: sandbox, then each container; waits until the puppets are up."""
        cri = self.cri
        modes = {"network": 2} if host_network else {}  # NODE
        security = cri.message(
            "LinuxSandboxSecurityContext", namespace_options=cri.message("NamespaceOption", **modes)
        )
        uid = uid or f"00000000-0000-4000-8000-{len(self.pods):012x}"
        config = cri.message(
            "PodSandboxConfig",
            metadata=cri.message("PodSandboxMetadata", name=name, namespace=namespace, uid=uid),
            hostname=name,
            log_directory=str(self.directory / "logs" / uid),
            labels={"io.kubernetes.pod.name": name, **(labels or {})},
            annotations=dict(annotations or {}),
            linux=cri.message(
                "LinuxPodSandboxConfig",
                cgroup_parent=f"/{self.cgroup_root}/pod{uid}",
                security_context=security,
            ),
        )
        made = cri.runtime("RunPodSandbox", config=config)
        pod = Pod(self, name, str(made.pod_sandbox_id), config)
        self.pods.append(pod)
        status = cri.runtime("PodSandboxStatus", pod_sandbox_id=pod.sandbox, verbose=True)
        spaces = json.loads(status.info["info"])["runtimeSpec"]["linux"]["namespaces"]
        pod.namespace = next((one.get("path", "") for one in spaces if one["type"] == "network"), "")
        for container, puppet in containers.items():
            pod.add(container, puppet)
        for puppet in containers.values():
            puppet.await_up()
        return pod

    def close(self) -> None:
        """Remove what is left; may be called twice."""
        if self.daemon.runs:
            for pod in self.pods:
                with suppress(RuntimeError):
                    pod.stop()
                with suppress(RuntimeError):
                    pod.remove()
        if hasattr(self, "cri"):
            self.cri.close()
        self.daemon.stop()
        for pod in self.pods:
            remove_namespace(pod.namespace)
        sweep(self.directory)
        self.bridge.close()
        remove_cgroups(self.cgroup_root)
