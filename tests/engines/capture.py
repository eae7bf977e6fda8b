# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.engines.capture DIRECTORY`: what every engine hands to a hook, as fixtures.

Runs each engine that the rig has, with a recording hook, and writes one JSON for each kind of container:
what tests/unit/fixtures/oci holds (its README.md says what is left out). The workload that identity/oci.py
should make of it is not told by the engines: it is written here, from the names that the containers get.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.rig import debian, versions
from tests.rig.container import Runc
from tests.rig.containerd import IMAGE, Containerd
from tests.rig.docker import Docker
from tests.rig.leavings import scratch
from tests.rig.podman import Podman
from tests.rig.puppet import Puppet
from tests.rig.recorder import Recorder
from tests.rig.view import View
from tests.rig.wrapper import make_wrapper

UID = "b2f6a0de-6f0c-4a3e-8a55-0d9a4f1f2f10"
# What a user may ask for who wants to pass for a pod of somebody else.
PRETENCE = {
    "io.container.manager": "cri-o",
    "io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.container.name": "payments",
    "io.kubernetes.pod.name": "payments-0",
    "io.kubernetes.pod.namespace": "prod",
    "io.kubernetes.pod.uid": "0c7e7d0e-7b1f-4c8e-9a51-1f0e3d2c4b5a",
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.container-name": "payments",
    "io.kubernetes.cri.sandbox-name": "payments-0",
    "io.kubernetes.cri.sandbox-namespace": "prod",
    "io.kubernetes.cri.sandbox-uid": "0c7e7d0e-7b1f-4c8e-9a51-1f0e3d2c4b5a",
    "nerdctl/name": "payments",
}
KEPT = ("ociVersion", "hostname", "annotations", "root")


class Capture:
    """Writes fixtures below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(
        self, case: str, recorder: Recorder, container: str, places: dict[str, str], /, **workload: str
    ) -> None:
        """One container's createRuntime and poststop; `places` are private folders, by their usual ones."""
        seen = recorder.await_event(container, "createRuntime")
        last = recorder.await_event(container, "poststop")
        config = seen["config"]
        kept = {key: config[key] for key in KEPT if key in config}
        kept["linux"] = {key: config["linux"][key] for key in ("cgroupsPath", "namespaces")}
        kept["hooks"] = {
            event: entries
            for event, entries in config["hooks"].items()
            if not any(str(recorder.directory) in json.dumps(entry) for entry in entries)
        }
        fixture = {
            "state": seen["state"],
            "config": kept,
            "poststop": last["state"],
            "called_by": {"createRuntime": seen["runtime"], "poststop": last["runtime"]},
            "addresses_there": bool(seen["addresses"]),
            "in_final_cgroup": seen["cgroup"] == config["linux"]["cgroupsPath"],
            "workload": {"container_id": container, **workload},
        }
        text = json.dumps(fixture, indent=2)
        for private, usual in places.items():
            text = text.replace(private, usual)
        (self.directory / f"{case}.json").write_text(text + "\n", encoding="utf-8")
        print(case)

    def runc(self, name: str, **rig: Any) -> None:
        directory = scratch("ftr")
        recorder = Recorder(directory / "record")
        with Runc(directory, **rig) as runc:
            runc.run("web", "print('up')", hooks=recorder.hooks, annotations=PRETENCE).wait()
        self.save(
            name, recorder, "web", {str(directory): "/srv"}, runtime="runc", kind="container", name="web"
        )
        shutil.rmtree(directory)

    def containerd(self, name: str, **rig: Any) -> None:
        directory = scratch("ftr")
        recorder = Recorder(directory / "record")
        wrapper = make_wrapper(directory, "runc", name="runc-recorded", hooks=recorder.hooks)
        notes = {
            "kubernetes.io/config.seen": "2024-05-14T09:21:33Z",
            "io.kubernetes.cri.sandbox-name": "payments-0",
        }
        with Containerd(
            runc_options=f'BinaryName = "{wrapper}"\n',
            runtime_options='pod_annotations = ["*", "*/*"]\n',
            **rig,
        ) as engine:
            puppet = Puppet(engine.directory / "puppet", "web")
            pod = engine.run_pod("web-0", {"app": puppet}, namespace="shop", uid=UID, annotations=notes)
            pod.stop()
            pod.remove()
            here = str(engine.directory)
            places = {f"{here}/state": "/run/containerd", f"{here}/logs": "/var/log/pods"}
            names = {"runtime": "containerd", "pod": "web-0", "namespace": "shop", "pod_uid": UID}
            app = {"kind": "container", "container": "app", "image": IMAGE, "name": "shop/web-0/app"}
            self.save(f"{name}_container", recorder, pod.containers["app"], places, **names, **app)
            sandbox = {"kind": "pod", "container": "", "image": "", "name": "shop/web-0"}
            self.save(f"{name}_sandbox", recorder, pod.sandbox, places, **names, **sandbox)
        shutil.rmtree(directory)

    def docker(self, name: str, annotate: bool = True, **rig: Any) -> None:
        directory = scratch("ftr")
        recorder = Recorder(directory / "record")
        wrapper = make_wrapper(directory, "runc", name="runc-recorded", hooks=recorder.hooks)
        settings = {"runtimes": {"recorded": {"path": str(wrapper)}}, "default-runtime": "recorded"}
        with Docker(settings=settings, **rig) as engine:
            puppet = Puppet(engine.directory / "puppet", "web")
            container = engine.run("web", puppet, *(_annotations() if annotate else ()))
            engine.command("rm", "--force", "web")
            places = {f"{engine.directory}/exec": "/var/run/docker", str(engine.directory): "/var/lib/docker"}
            workload = {"runtime": "docker", "kind": "container", "pod": "", "name": container}
            self.save(name, recorder, container, places, **workload)
        shutil.rmtree(directory)

    def podman(self, name: str, options: Sequence[str] = (), **rig: Any) -> None:
        recorder = Recorder(scratch("ftr"))
        with Podman(**rig) as engine:
            recorder.write_hooks_d(engine.hooks)
            puppet = Puppet(engine.directory / "puppet", "web")
            container = engine.run("web", puppet, *options)
            engine.command("rm", "--force", "--time", "1", "web")
            places = {f"{engine.directory}/root": "/var/lib/containers/storage"}
            workload = {"runtime": "podman", "kind": "container", "pod": "", "name": container}
            self.save(name, recorder, container, places, **workload)
        shutil.rmtree(recorder.directory)


def _annotations() -> list[str]:
    return [word for key, value in PRETENCE.items() for word in ("--annotation", f"{key}={value}")]


def main(directory: Path) -> None:
    capture = Capture(directory)
    capture.runc("runc_1_1")
    capture.containerd("containerd_1_6")
    capture.containerd("containerd_1_7", binaries=versions.containerd_1_7())
    capture.docker("docker_20_10", annotate=False)
    capture.docker("docker_26_1_pretends_pod", programs=versions.docker_26())
    capture.podman("podman_4_3")
    capture.podman("podman_4_3_pretends_crio", _annotations())
    with View(root=debian.sid_root()) as view:
        capture.runc("runc_1_3", view=view)
        capture.containerd("containerd_2_1", view=view)
        capture.docker("docker_28_5_pretends_pod", view=view)
        capture.podman("podman_5_8", view=view)
        capture.podman("podman_5_8_pretends_crio", _annotations(), view=view)
    with View(only_cgroup2=True) as view:
        capture.runc("runc_as_crun_1_8", program="crun", view=view)
        capture.podman("podman_4_3_crun", view=view, runtime="crun")
    with View(root=debian.sid_root(), only_cgroup2=True) as view:
        capture.runc("runc_as_crun_1_28", program="crun", view=view)
        capture.podman("podman_5_8_crun", view=view, runtime="crun")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
