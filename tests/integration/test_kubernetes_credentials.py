# SPDX-License-Identifier: Apache-2.0
"""Where credentials come from, and what happens when they change: TLS with a private CA, bearer tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf.error import FlowtagError
from identity.kubernetes import Kubernetes, open_source
from identity.kubernetes_client import Load, in_cluster, kubeconfig
from identity.workload import KIND_POD, Workload
from tests.integration.conftest import FAST, until
from tests.rig.kube_api import KubeApi
from tests.rig.kube_objects import NODE, pod
from tests.rig.kubeconfig import make_ca, write_kubeconfig


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A ServiceAccount's directory, with a CA."""
    directory = tmp_path / "serviceaccount"
    directory.mkdir()
    (directory / "token").write_text("first", encoding="utf-8")
    return directory


@pytest.fixture
def api(account: Path) -> Iterator[KubeApi]:
    _, server = make_ca(account)
    with KubeApi(tls=server) as running:
        running.accept_token("first")
        running.put(pod("web"))
        yield running


def load(api: KubeApi, account: Path) -> Load:
    return in_cluster(
        str(account), {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
    )


def knows(source: Kubernetes, name: str) -> bool:
    return source.names(Workload(kind=KIND_POD, runtime="containerd", pod_uid=f"uid-{name}")) is not None


def test_a_service_account_speaks_tls_with_the_clusters_ca(api: KubeApi, account: Path) -> None:
    source = Kubernetes(load(api, account), NODE, FAST)
    until(lambda: knows(source, "web"))
    assert api.last("list").headers["authorization"] == "bearer first"
    assert api.last("list").headers["user-agent"] == "flowtag"
    assert source.watch.health.errors == {}
    source.close()
    assert not source.watch._thread.is_alive()  # which waited in a read of TLS


def test_a_kubeconfig_speaks_tls_with_its_ca_and_is_not_written(
    api: KubeApi, account: Path, tmp_path: Path
) -> None:
    path = write_kubeconfig(tmp_path / "kubeconfig", api.url, account / "token", account / "ca.crt")
    before = path.read_bytes()
    source = Kubernetes(kubeconfig(str(path)), NODE, FAST)
    until(lambda: knows(source, "web"))
    source.close()
    assert path.read_bytes() == before


def test_a_server_of_another_ca_gets_no_token(api: KubeApi, account: Path) -> None:
    (account / "other").mkdir()
    authority, _ = make_ca(account / "other")
    (account / "ca.crt").write_bytes(authority.read_bytes())
    source = Kubernetes(load(api, account), NODE, FAST)
    until(lambda: source.watch.health.errors.get("tls", 0) > 1)
    assert api.requests == []
    assert "tls" in source.watch.health.problem
    source.close()


def test_a_token_that_was_rotated_is_read_again(api: KubeApi, account: Path) -> None:
    source = Kubernetes(load(api, account), NODE, FAST)
    until(lambda: source.watch.health.connected)
    api.accept_token("second")
    api.hang_up()
    until(lambda: source.watch.health.errors.get("http_401", 0) > 1)
    assert knows(source, "web")
    (account / "token").write_text("second", encoding="utf-8")
    api.put(pod("next"))
    until(lambda: knows(source, "next"))
    source.close()


def test_credentials_that_are_missing_are_waited_for(api: KubeApi, account: Path) -> None:
    (account / "token").unlink()
    source = Kubernetes(load(api, account), NODE, FAST)
    until(lambda: source.watch.health.errors.get("credentials", 0) > 1)
    assert "token" in source.watch.health.problem
    assert not knows(source, "web")
    (account / "token").write_text("first", encoding="utf-8")
    until(lambda: knows(source, "web"))
    source.close()


@pytest.mark.parametrize("content", [None, "", "{", "[]", "apiVersion: v1\nclusters: 7\n"])
def test_a_kubeconfig_that_is_no_good_is_waited_for(
    api: KubeApi, account: Path, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    source = Kubernetes(kubeconfig(str(path)), NODE, FAST)
    until(lambda: source.watch.health.errors.get("credentials", 0) > 1)
    write_kubeconfig(path, api.url, account / "token", account / "ca.crt")
    until(lambda: knows(source, "web"))
    source.close()


def test_auto_is_for_pods_only() -> None:
    assert open_source("auto", "", {}) is None
    assert open_source("off", "", {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}) is None


@pytest.mark.parametrize(
    ("node", "environment", "expected"),
    [("given", {"NODE_NAME": "other"}, "given"), ("", {"NODE_NAME": "other.example"}, "other.example")],
)
def test_the_node_is_the_one_named(
    tmp_path: Path, node: str, environment: dict[str, str], expected: str
) -> None:
    with KubeApi() as api:
        path = write_kubeconfig(tmp_path / "kubeconfig", api.url)
        source = open_source(str(path), node, environment)
        assert source is not None
        until(lambda: api.count("list"))
        assert api.last("list").query["fieldSelector"] == f"spec.nodeName={expected}"
        source.close()


@pytest.mark.parametrize("node", ["a,spec.nodeName!=a", "A", "a b", "-a", "x" * 254])
def test_a_node_name_that_would_change_the_selector_is_refused(node: str) -> None:
    with pytest.raises(FlowtagError, match="node's name"):
        open_source("/nowhere", node, {})
