# SPDX-License-Identifier: Apache-2.0
"""Who a pod belongs to, as the API server confirms it: through the real client against rig/kube_api."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import structlog

from identity.kubernetes import Kubernetes
from identity.names import Names
from identity.workload import KIND_POD, Workload
from tests.integration.conftest import Start, until
from tests.rig.kube_api import KubeApi, refuse, send, silence
from tests.rig.kube_objects import pod, reference

APPS = "/apis/apps/v1/namespaces/shop"
BATCH = "/apis/batch/v1/namespaces/shop"


def knows(source: Kubernetes, name: str) -> Names | None:
    return source.names(Workload(kind=KIND_POD, runtime="containerd", pod_uid=f"uid-{name}"))


def owner(source: Kubernetes, name: str) -> tuple[str, str, str]:
    """app, owner's kind and owner of a pod; ("?", "?", "?") before the pod is known."""
    names = knows(source, name)
    if names is None:
        return "?", "?", "?"
    return names.app, names.labels.get("flowtag.io/owner-kind", ""), names.labels.get("flowtag.io/owner", "")


def settled(source: Kubernetes, name: str) -> tuple[str, str, str]:
    """The same, as soon as nothing about owners is asked for any more."""
    until(lambda: knows(source, name) and not source.owners._wanted)
    return owner(source, name)


def exists(api: KubeApi, path: str, uid: str, *owners: dict[str, Any]) -> None:
    api.owners[path] = {"name": path.rpartition("/")[2], "namespace": "shop", "uid": uid} | (
        {"ownerReferences": list(owners)} if owners else {}
    )


def deployed(api: KubeApi) -> dict[str, Any]:
    """A Deployment and its ReplicaSet; the reference for pods."""
    exists(api, f"{APPS}/replicasets/web-5d4f8c", "rs-1", reference("Deployment", "web", "dep-1"))
    exists(api, f"{APPS}/deployments/web", "dep-1")
    return reference("ReplicaSet", "web-5d4f8c", "rs-1")


def test_a_deployments_pods_are_its_own_for_two_requests_in_all(api: KubeApi, start: Start) -> None:
    up = deployed(api)
    for name in ("a", "b", "c"):
        api.put(pod(name, owners=[up]))
    source = start()
    assert settled(source, "c") == ("web", "Deployment", "web")
    assert owner(source, "a") == owner(source, "b") == owner(source, "c")
    api.put(pod("d", owners=[up]))
    assert settled(source, "d") == ("web", "Deployment", "web")
    assert api.count("get") == 2
    accept = api.last("get").headers["accept"]
    assert accept.startswith("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")


def test_other_workloads_are_named_by_their_top_owner(api: KubeApi, start: Start) -> None:
    exists(api, f"{APPS}/statefulsets/db", "sts-1")
    exists(api, f"{APPS}/daemonsets/agent", "ds-1")
    exists(api, f"{BATCH}/jobs/night-28", "job-1", reference("CronJob", "night", "cron-1", "batch/v1"))
    exists(api, f"{BATCH}/cronjobs/night", "cron-1")
    exists(api, f"{BATCH}/jobs/once", "job-2")
    api.put(pod("db-0", owners=[reference("StatefulSet", "db", "sts-1")]))
    api.put(pod("agent-x", owners=[reference("DaemonSet", "agent", "ds-1")]))
    api.put(pod("night-28-x", owners=[reference("Job", "night-28", "job-1", "batch/v1")]))
    api.put(pod("once-x", owners=[reference("Job", "once", "job-2", "batch/v1")]))
    api.put(pod("bare"))
    source = start()
    assert settled(source, "bare") == ("", "", "")
    assert settled(source, "db-0") == ("db", "StatefulSet", "db")
    assert settled(source, "agent-x") == ("agent", "DaemonSet", "agent")
    assert settled(source, "night-28-x") == ("night", "CronJob", "night")
    assert settled(source, "once-x") == ("once", "Job", "once")


def test_only_the_controller_counts(api: KubeApi, start: Start) -> None:
    up = deployed(api)
    api.put(pod("a", owners=[reference("StatefulSet", "other", "x", controls=False), up]))
    api.put(pod("b", owners=[up | {"controller": False}]))
    api.put(pod("c", owners=[up, reference("StatefulSet", "other", "x")]))
    source = start()
    assert settled(source, "a") == ("web", "Deployment", "web")
    assert owner(source, "b") == owner(source, "c") == ("", "", "")


def test_an_owner_that_a_tenant_made_up_is_not_believed(api: KubeApi, start: Start) -> None:
    deployed(api)
    exists(api, f"{APPS}/replicasets/mine", "rs-2", reference("Deployment", "payments", "dep-9"))
    api.put(pod("absent", owners=[reference("ReplicaSet", "payments-1", "rs-1")]))
    api.put(pod("uid", owners=[reference("ReplicaSet", "web-5d4f8c", "rs-8")]))
    api.put(pod("skip", owners=[reference("Deployment", "web", "rs-1")]))
    api.put(pod("above", owners=[reference("ReplicaSet", "mine", "rs-2")]))
    api.put(pod("far", namespace="evil", owners=[reference("ReplicaSet", "web-5d4f8c", "rs-1")]))
    source = start()
    assert settled(source, "absent") == ("", "", "")
    assert settled(source, "uid") == ("", "", "")
    assert settled(source, "skip") == ("", "", "")
    assert settled(source, "above") == ("mine", "ReplicaSet", "mine")  # it is there; the one above is not
    assert settled(source, "far") == ("", "", "")
    before = api.count("get")
    for name in ("absent", "uid", "skip", "above", "far"):
        owner(source, name)
    assert settled(source, "far") == ("", "", "")
    assert api.count("get") == before  # negative answers are remembered


def test_names_that_would_change_the_path_are_never_sent(api: KubeApi, start: Start) -> None:
    for number, name in enumerate(("..", "a/../../secrets/x", "a?b", "A", "", "a%2fb", "x" * 300)):
        api.put(pod(f"p{number}", owners=[reference("ReplicaSet", name, "u")]))
    source = start()
    assert settled(source, "p6") == ("", "", "")
    assert api.count("get") == 0


def test_forbidden_replicasets_name_the_owner_unchecked_and_no_app_and_warn_once(
    api: KubeApi, start: Start
) -> None:
    api.fail("get", *[refuse(403, "Forbidden")] * 2)
    with structlog.testing.capture_logs() as told:
        api.put(pod("a", owners=[deployed(api)]))
        api.put(pod("b", owners=[reference("ReplicaSet", "other-1", "rs-7")]))
        source = start()
        assert settled(source, "b") == ("", "ReplicaSet", "other-1")
        assert owner(source, "a") == ("", "ReplicaSet", "web-5d4f8c")
    names = knows(source, "a")
    assert names is not None
    assert names.labels["flowtag.io/owner-checked"] == "false"
    assert [(line["log_level"], line["kind"]) for line in told] == [("warning", "ReplicaSet")]
    assert "docs/kubernetes.md" in told[0]["hint"]
    assert source.owners.health.errors == {"http_403": 2}


def test_forbidden_deployments_leave_the_replicaset_as_the_owner(api: KubeApi, start: Start) -> None:
    up = deployed(api)
    path = f"{APPS}/deployments/web"
    original = api._get

    def forbid(handler: Any, asked: str, query: dict[str, str]) -> None:
        if asked == path:
            refuse(403, "Forbidden")(handler)
        else:
            original(handler, asked, query)

    api._get = forbid  # type: ignore[method-assign,assignment]
    api.put(pod("a", owners=[up]))
    source = start()
    assert settled(source, "a") == ("web-5d4f8c", "ReplicaSet", "web-5d4f8c")


def test_an_owner_of_a_foreign_kind_is_named_unchecked(api: KubeApi, start: Start) -> None:
    up = deployed(api)
    api.owners[f"{APPS}/replicasets/web-5d4f8c"]["ownerReferences"] = [
        reference("Rollout", "web", "ro-1", "argoproj.io/v1alpha1")
    ]
    api.put(pod("rollout", owners=[up]))
    api.put(pod("static", owners=[reference("Node", "node-1", "n", "v1")]))
    source = start()
    assert settled(source, "rollout") == ("web-5d4f8c", "ReplicaSet", "web-5d4f8c")
    assert settled(source, "static") == ("", "Node", "node-1")
    assert api.count("get") == 1


def test_owners_that_do_not_answer_hold_up_neither_pods_nor_names(api: KubeApi, start: Start) -> None:
    stop = threading.Event()
    api.fail("get", silence(stop), refuse(500, "InternalError"), refuse(429, "TooManyRequests"))
    up = deployed(api)
    api.put(pod("a", owners=[up]))
    source = start()
    until(lambda: api.count("get"))
    api.put(pod("b", owners=[reference("StatefulSet", "gone", "sts")]))
    until(lambda: knows(source, "b"))
    assert owner(source, "a") == ("", "", "")  # no half of a chain
    until(lambda: owner(source, "a") == ("web", "Deployment", "web"))
    assert settled(source, "b") == ("", "", "")
    assert source.owners.health.errors == {"timeout": 1, "http_500": 1, "http_429": 1}
    stop.set()


def test_an_owner_that_always_fails_holds_up_no_other(api: KubeApi, start: Start) -> None:
    original = api._get

    def fail_one(handler: Any, asked: str, query: dict[str, str]) -> None:
        if asked.endswith("/bad"):
            refuse(500, "InternalError")(handler)
        else:
            original(handler, asked, query)

    api._get = fail_one  # type: ignore[method-assign,assignment]
    api.put(pod("a", owners=[reference("StatefulSet", "bad", "b")]))
    api.put(pod("b", owners=[deployed(api)]))
    source = start()
    until(lambda: owner(source, "b") == ("web", "Deployment", "web"))
    assert owner(source, "a") == ("", "", "")


@pytest.mark.parametrize("answer", [b"{}", b"[", b'{"metadata": {"uid": 7}}', b" " * (3 << 20)])
def test_an_answer_that_makes_no_sense_confirms_and_denies_nothing(
    api: KubeApi, start: Start, answer: bytes
) -> None:
    api.fail("get", send(answer))
    api.put(pod("a", owners=[deployed(api)]))
    source = start()
    assert settled(source, "a") == ("", "ReplicaSet", "web-5d4f8c")


def test_a_circle_of_owners_ends(api: KubeApi, start: Start) -> None:
    one, two = reference("ReplicaSet", "one", "1"), reference("ReplicaSet", "two", "2")
    exists(api, f"{APPS}/replicasets/one", "1", two)
    exists(api, f"{APPS}/replicasets/two", "2", one)
    api.put(pod("a", owners=[one]))
    source = start()
    assert settled(source, "a")[0] in ("one", "two")
    assert api.count("get") == 2


def test_the_memory_of_owners_is_bounded(api: KubeApi, start: Start) -> None:
    source = start()
    source.owners._room = 8
    for number in range(40):
        api.put(pod(f"p{number}", owners=[reference("Job", f"j{number}", "u", "batch/v1")]))
    until(lambda: knows(source, "p39") and not source.owners._wanted)
    assert len(source.owners._known) <= 8
