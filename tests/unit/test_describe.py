# SPDX-License-Identifier: Apache-2.0
"""How what the hook wrote and what sources know become one, and that no source can do harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.config import Identity
from exporter.describe import Describer, open_sources
from identity.names import Names, Source
from identity.workload import KIND_CONTAINER, KIND_POD, Workload


class Told:
    """A source that knows what it was told."""

    def __init__(self, names: Names | None, name: str = "told") -> None:
        self.name = name
        self.known = names
        self.closed = False
        self.working = True

    def names(self, workload: Workload) -> Names | None:
        return self.known

    def close(self) -> None:
        self.closed = True


class Raising(Told):
    def names(self, workload: Workload) -> Names | None:
        raise KeyError(workload.name)


def describe(workload: Workload, *sources: Source, app_labels: tuple[str, ...] = ()) -> Names:
    return Describer(Identity(app_labels=app_labels), sources).describe(workload)


HOOKED = Workload(kind=KIND_CONTAINER, runtime="containerd", container="c", pod="p", namespace="n", image="i")
DOCKER = Workload(kind=KIND_CONTAINER, runtime="docker", container_id="ab" * 32)


def test_without_sources_it_is_what_the_hook_wrote() -> None:
    assert describe(HOOKED) == Names("c", "p", "n", "", "i")


def test_what_the_hook_wrote_stays() -> None:
    other = Names("other", "other", "other", "shop", "other", {"a": "b"})
    assert describe(HOOKED, Told(other)) == Names("c", "p", "n", "shop", "i", {"a": "b"})


def test_what_is_empty_is_filled_by_the_first_that_knows() -> None:
    first = Names("web", labels={"a": "1"})
    second = Names("k8s_web", "pod", "space", "", "image", {"a": "2", "b": "3"})
    found = describe(Workload(kind=KIND_CONTAINER), Told(None), Told(first), Told(second))
    assert found == Names("web", "pod", "space", "", "image", {"a": "1", "b": "3"})


def test_pod_is_not_taken_without_its_namespace() -> None:
    found = describe(HOOKED.replace(pod=""), Told(Names(pod="other", namespace="elsewhere")))
    assert (found.namespace, found.pod) == ("n", "")


@pytest.mark.parametrize("runtime", ["docker", "podman"])
def test_container_that_can_be_renamed_has_its_current_name(runtime: str) -> None:
    workload = DOCKER.replace(runtime=runtime, container="old")
    assert describe(workload, Told(Names("new"))).container == "new"
    assert describe(workload, Told(Names())).container == "old"


def test_name_is_current_with_every_call() -> None:
    source = Told(Names("web"))
    describer = Describer(Identity(), [source])
    assert describer.describe(DOCKER).container == "web"
    source.known = Names("shop")
    assert describer.describe(DOCKER).container == "shop"


def test_sandbox_has_no_container_and_no_image() -> None:
    pod = HOOKED.replace(kind=KIND_POD, container="", image="")
    found = describe(pod, Told(Names("pause", image="pause:3", labels={"a": "b"})))
    assert found == Names("", "p", "n", labels={"a": "b"})


def test_label_sets_no_app_unless_configured() -> None:
    source = Told(Names(labels={"app": "forged", "com.docker.compose.service": "web"}))
    assert describe(DOCKER, source).app == ""
    assert describe(DOCKER, source, app_labels=("absent", "com.docker.compose.service", "app")).app == "web"


def test_app_label_replaces_no_app_of_the_identity() -> None:
    source = Told(Names(app="deployment", labels={"app": "label"}))
    assert describe(DOCKER, source).app == "deployment"
    assert describe(DOCKER, source, app_labels=("app",)).app == "label"
    assert describe(DOCKER.replace(app="own"), source, app_labels=("app",)).app == "own"


def test_source_that_raises_costs_its_own_names_only(capsys: pytest.CaptureFixture[str]) -> None:
    describer = Describer(Identity(), [Raising(None, "broken"), Told(Names("web"))])
    assert describer.describe(DOCKER).container == "web"
    assert describer.describe(DOCKER).container == "web"
    assert capsys.readouterr().out.count("broken") == 1


def test_sources_are_closed() -> None:
    source = Told(None)
    with Describer(Identity(), [source]):
        assert not source.closed
    assert source.closed


def test_no_source_where_all_are_off() -> None:
    assert Describer(Identity(docker="off", podman="off"))._sources == []


def test_kubernetes_is_asked_before_docker_which_calls_its_containers_otherwise(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "none")
    sources = open_sources(
        Identity(docker=nowhere, podman="off", kubernetes=nowhere, kubernetes_node="node-1")
    )
    for source in sources:
        source.close()
    assert [source.name for source in sources] == ["kubernetes", "docker"]
