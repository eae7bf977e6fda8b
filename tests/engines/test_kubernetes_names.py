# SPDX-License-Identifier: Apache-2.0
"""A flow of a real container that no hook announced, in a record with its pod's names from the API server."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.rig.container import Runc
from tests.rig.exporter import Exporter
from tests.rig.kube_api import KubeApi
from tests.rig.kube_objects import NODE, pod, reference
from tests.rig.kubeconfig import write_kubeconfig
from tests.rig.network import Network

ID = "5e" * 16  # runc makes it the host name, which has 64 bytes at most
PAYLOAD = """
import socket
for line in iter(input, "end"):
    listener = socket.create_server(("127.0.0.1", 8080))
    socket.create_connection(("127.0.0.1", 8080)).close()
    listener.close()
    print("done", line, flush=True)
"""


def test_an_unhooked_containers_flow_has_its_pods_names_labels_and_deployment(
    tmp_path: Path, pin_directory: Path
) -> None:
    apps = "/apis/apps/v1/namespaces/shop"
    with KubeApi() as api, Runc(tmp_path / "runc") as runc, Network() as net:
        config = write_kubeconfig(tmp_path / "kubeconfig", api.url)
        up = reference("ReplicaSet", "web-5d4f8c", "rs-1")
        api.owners[f"{apps}/replicasets/web-5d4f8c"] = {
            "uid": "rs-1",
            "ownerReferences": [reference("Deployment", "web", "dep-1")],
        }
        api.owners[f"{apps}/deployments/web"] = {"uid": "dep-1"}
        api.put(pod("web-5d4f8c-x", labels={"team": "red"}, owners=[up], containers={"main": ID}))
        tables = (
            f'[identity]\ndocker = "off"\npodman = "off"\n'
            f"kubernetes = {json.dumps(str(config))}\nkubernetes_node = {json.dumps(NODE)}\n"
        )
        with Exporter(
            tmp_path / "exporter", pin_directory, engine_roots=[runc.cgroup_root.strip("/")], tables=tables
        ) as exporter:
            container = runc.run(ID, PAYLOAD, netns=net.namespace("pod").path)
            # The first flows may open before the container is found, within a second, and are nobody's.
            for turn in range(30):
                container.say(str(turn))
                container.await_line(f"done {turn}")
                if any(record["app"] for record in exporter.records):
                    break
                time.sleep(0.1)
            container.say("end")
            record = exporter.await_record(lambda record: record["app"] == "web")
    assert record["workload"] == "shop/web-5d4f8c-x/main"
    assert (record["namespace"], record["pod"], record["container"]) == ("shop", "web-5d4f8c-x", "main")
    assert (record["container_id"], record["identity_source"]) == (ID, "reconciled")
    assert record["image"] == "registry.example/main:1"
    assert record["labels"] == {
        "team": "red",
        "flowtag.io/node": NODE,
        "flowtag.io/owner": "web",
        "flowtag.io/owner-kind": "Deployment",
        "flowtag.io/service-account": "default",
    }
