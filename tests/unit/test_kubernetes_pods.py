# SPDX-License-Identifier: Apache-2.0
"""A pod's JSON, whatever it is, and the bounded cache of pods."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.kubernetes import Kubernetes
from identity.kubernetes_client import kubeconfig
from identity.kubernetes_owners import controller
from identity.kubernetes_pods import Container, Pods, parse
from identity.names import Names
from identity.workload import KIND_CONTAINER, SOURCE_HOOK, Workload
from tests.rig.kube_objects import pod
from tests.rig.mangled import ANY, mangled_pods


@settings(max_examples=50, deadline=None)
@given(thing=ANY | mangled_pods())
def test_no_pod_raises_and_every_name_is_clean(thing: Any) -> None:
    found = parse(thing)
    if found is None:
        return
    store = Pods(4)
    assert store.put(found)
    assert store.by_uid(found.uid) == found
    texts = [found.uid, found.namespace, found.name, found.node, found.service_account]
    texts += [*found.labels, *found.labels.values()]
    texts += [value for container in found.containers for value in container]
    assert all(c >= " " for value in texts for c in value)


@settings(max_examples=50, deadline=None)
@given(metadata=st.dictionaries(st.just("ownerReferences"), st.lists(ANY) | ANY))
def test_no_owner_references_raise(metadata: dict[str, object]) -> None:
    assert controller(metadata, "shop") is None


def test_annotations_are_not_read() -> None:
    found = parse(pod("web"))
    assert found is not None
    assert "anything" not in repr(found)


def test_a_tenants_labels_never_come_under_our_keys() -> None:
    labels = {
        "flowtag.io/owner": "payments",
        "flowtag\x00.io/owner": "payments",
        "\x7fflowtag.io/node": "n",
        "app": "shop\n",
        "flowtag.io": "theirs",
    }
    found = parse(pod("web", labels=labels))
    assert found is not None
    assert found.labels == {"app": "shop", "flowtag.io": "theirs"}


def test_container_ids_come_from_every_kind_of_container_and_from_the_start_before() -> None:
    thing = pod("web", containers={"main": "a" * 64})
    status = thing["status"]
    status["containerStatuses"][0]["lastState"] = {"terminated": {"containerID": "containerd://" + "b" * 64}}
    status["initContainerStatuses"] = [
        {"name": "init", "image": "i", "state": {"terminated": {"containerID": "cri-o://" + "c" * 64}}}
    ]
    status["ephemeralContainerStatuses"] = [{"name": "debug", "containerID": "docker://" + "d" * 64}]
    status["containerStatuses"].append({"name": "odd", "containerID": "unheard-of://" + "e" * 64})
    status["containerStatuses"].append({"name": "waiting", "containerID": ""})
    found = parse(thing)
    assert found is not None
    assert found.containers == (
        Container("a" * 64, "containerd", "main", "registry.example/main:1"),
        Container("b" * 64, "containerd", "main", "registry.example/main:1"),
        Container("c" * 64, "crio", "init", "i"),
        Container("d" * 64, "docker", "debug", ""),
    )


def put(store: Pods, thing: dict[str, Any]) -> bool:
    found = parse(thing)
    assert found is not None
    return store.put(found)


def test_a_restarted_container_is_known_by_both_ids_and_not_by_all_there_ever_were() -> None:
    store = Pods()
    for number in range(500):
        put(store, pod("web", containers={"main": f"{number:064}"}))
    for number in (499, 498, 440):
        found = store.by_container(f"{number:064}")
        assert found is not None
        assert found.name == "web"
    assert store.by_container(f"{1:064}") is None
    assert len(store._by_container) < 100


def test_a_container_that_two_pods_claim_is_nobodys() -> None:
    store = Pods()
    put(store, pod("web", containers={"main": "a" * 64}))
    put(store, pod("thief", containers={"main": "a" * 64}))
    put(store, pod("web", containers={"main": "a" * 64}))
    assert store.by_container("a" * 64) is None


def test_what_leaves_the_cache_leaves_no_ids_behind() -> None:
    store = Pods(8)
    for number in range(100):
        put(store, pod(f"p{number}"))
        store.end(f"uid-p{number}")
    assert len(store) == len(store._by_container) == 8
    assert store.replace([]) == 0
    assert len(store._ended) == 8


def test_a_pod_that_comes_back_makes_no_room_for_others() -> None:
    store = Pods(2)
    put(store, pod("web"))
    store.end("uid-web")
    put(store, pod("web"))
    assert put(store, pod("next"))
    assert not put(store, pod("more"))
    assert store.by_uid("uid-web") is not None


def workload(**values: int | str) -> Workload:
    return Workload(**{"kind": KIND_CONTAINER, "container_id": "a" * 64, **values})


@pytest.mark.parametrize(
    ("asked", "container"),
    [
        (workload(runtime="containerd"), "main"),  # found by its cgroup
        (workload(runtime=""), "main"),
        (workload(runtime="containerd", container_id="b" * 64), "side"),
        (workload(runtime="containerd", source=SOURCE_HOOK, pod_uid="uid-web", container="side"), "side"),
        # A static pod's uid is another in the API than in the engine.
        (
            workload(
                runtime="containerd", source=SOURCE_HOOK, pod_uid="f00", pod="web", namespace="shop",
                container="main",
            ),
            "main",
        ),
        (workload(runtime="containerd", source=SOURCE_HOOK, pod="web", namespace="other"), None),
        (workload(runtime="containerd", source=SOURCE_HOOK), None),  # `ctr run` with an id of its choice
        (workload(runtime="crio"), None),  # the kubelet says that it is containerd's
        (workload(runtime="podman"), None),
        (workload(runtime="runc"), None),
        (workload(runtime="containerd", container_id="c" * 64), None),
        (workload(runtime="containerd", container_id=""), None),
        (workload(kind=3, container_id="", host="node-1"), None),
    ],
)  # fmt: skip
def test_a_workload_is_found_by_uid_or_by_its_containers_id(asked: Workload, container: str | None) -> None:
    source = Kubernetes(kubeconfig("/nowhere"), "node-1")
    source.close()
    put(source.pods, pod("web", containers={"main": "a" * 64, "side": "b" * 64}))
    names = source.names(asked)
    if container is None:
        assert names is None
        return
    assert isinstance(names, Names)
    assert (names.namespace, names.pod, names.container) == ("shop", "web", container)
    assert names.image == f"registry.example/{container}:1"
