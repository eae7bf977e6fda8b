# SPDX-License-Identifier: Apache-2.0
"""The source of Docker's names against a daemon that fails in every way; tests/engines has the real one.

The server is ours, because the real daemon does not stall, garble or cut its answers on demand.
"""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from identity import docker as source
from identity import docker_api
from identity.docker import Docker
from identity.names import Names
from identity.workload import Workload
from tests.rig.docker_api import FakeDocker, Handler
from tests.rig.exporter import ROOT

# The SDK leaves a socket that it could not connect to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
A, B, C = ("a" * 64, "b" * 64, "c" * 64)
LABELS = {"flowtag.io/networks": "bridge"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with less patience, so that a fault takes no ten seconds."""
    monkeypatch.setattr(docker_api, "SECONDS", 0.5)
    monkeypatch.setattr(source, "WINDOW", 0.3)
    monkeypatch.setattr(source, "ABSENT_SECONDS", 0.05)
    monkeypatch.setattr(source, "AGAIN_SECONDS", (0.05, 0.2))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDocker]:
    with FakeDocker(tmp_path / "docker.sock") as daemon:
        yield daemon


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Docker]:
    docker = Docker(str(tmp_path / "docker.sock"))
    yield docker
    docker.close()
    docker._thread.join(10)
    assert not docker._thread.is_alive()


def names(docker: Docker, one: str, runtime: str = "docker") -> Names | None:
    """What a record gets; and getting it takes no time."""
    began = time.perf_counter()
    found = docker.names(Workload(runtime=runtime, container_id=one))
    assert time.perf_counter() - began < 0.05, "a record waited"
    return found


def await_names(docker: Docker, one: str, container: str, seconds: float = 20) -> Names:
    """What is known of a container, as soon as it is called `container`."""
    found = None

    def called() -> bool:
        nonlocal found
        found = names(docker, one)
        return found is not None and found.container == container

    until(called, seconds)
    assert found is not None
    return found


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_listed_and_started_and_renamed_containers_are_known(daemon: FakeDocker, docker: Docker) -> None:
    daemon.describe(A, "web", {"team": "shop"})
    assert await_names(docker, A, "web") == Names("web", image="shop:1", labels={"team": "shop", **LABELS})
    daemon.run(B, "db")
    await_names(docker, B, "db")
    daemon.describe(A, "shop")
    daemon.event("rename", A)
    await_names(docker, A, "shop")
    assert daemon.count("/containers/json") == 1


def test_other_runtimes_are_not_asked_for(daemon: FakeDocker, docker: Docker) -> None:
    daemon.describe(A, "web")
    await_names(docker, A, "web")
    assert names(docker, A, "podman") is None
    assert names(docker, A, "containerd") is None
    assert names(docker, A, "") is not None, "found by a cgroup that does not tell the runtime"
    until(lambda: not docker._asked)  # what await_names asked for before the list was there
    names(docker, B, "containerd")
    assert not docker._asked


def test_container_that_nobody_announced_is_asked_for(daemon: FakeDocker, docker: Docker) -> None:
    until(lambda: daemon.count("/events") > 0)
    daemon.describe(A, "web")
    assert names(docker, A) is None
    await_names(docker, A, "web")


def test_container_that_docker_does_not_know_is_asked_for_once(daemon: FakeDocker, docker: Docker) -> None:
    asked = f"/containers/{A}/json"
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        assert names(docker, A) is None
        time.sleep(0.02)
    assert daemon.count(asked) == 1


def test_id_that_is_none_is_not_asked_for(daemon: FakeDocker, docker: Docker) -> None:
    assert names(docker, "../info") is None
    until(lambda: not docker._asked and daemon.count("/events") > 0)
    assert not [path for path in daemon.asked if "info" in path]


def test_container_that_is_gone_at_once_is_known_by_its_creation(daemon: FakeDocker, docker: Docker) -> None:
    until(lambda: daemon.count("/events") > 0)
    daemon.event("create", A, name="job", image="job:2", team="shop")
    for action in ("start", "die", "destroy"):
        daemon.event(action, A)
    assert await_names(docker, A, "job") == Names("job", image="job:2", labels={"team": "shop"})


def test_daemon_that_was_restarted_is_listed_again(tmp_path: Path, docker: Docker) -> None:
    with FakeDocker(tmp_path / "docker.sock") as daemon:
        daemon.describe(A, "web")
        daemon.describe(B, "db")
        await_names(docker, A, "web")
    assert names(docker, A) is not None, "what was known stays"
    with FakeDocker(tmp_path / "docker.sock") as daemon:
        daemon.describe(A, "shop")
        daemon.describe(C, "new")
        await_names(docker, A, "shop")
        await_names(docker, C, "new")
        assert names(docker, B) is not None, "its last flows may close after it"
        until(lambda: B not in docker._known._living)


FAULTS = ("fail", "garble", "no_http", "cut", "end", "hang", "trickle", "endless")


@pytest.mark.parametrize("path", ["/version", "/containers/json", "/events"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_answer_delays_no_record_and_is_survived(
    daemon: FakeDocker, docker: Docker, fault: str, path: str
) -> None:
    daemon.faults[path] = getattr(daemon, fault)
    until(lambda: daemon.count(path) > 0)
    daemon.describe(A, "web")
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        names(docker, A)
        time.sleep(0.01)
    assert daemon.count(path) < 12, "asked again without a pause"
    del daemon.faults[path]
    await_names(docker, A, "web")
    daemon.run(B, "db")
    await_names(docker, B, "db")


def test_hostile_events_cost_no_others(daemon: FakeDocker, docker: Docker) -> None:
    until(lambda: daemon.count("/events") > 0)
    for line in (b"", b"{", b"[]", b'"start"', b"\xff", b'{"Actor": [], "Action": {}}', b"[" * 5000):
        daemon.say(line)
    daemon.say(b" " * (docker_api.ONE_LIMIT + docker_api.CHUNK))
    daemon.run(A, "web")
    await_names(docker, A, "web")
    assert daemon.count("/containers/json") == 1, "the connection was given up"


def test_event_is_looked_at_once(daemon: FakeDocker, docker: Docker) -> None:
    until(lambda: daemon.count("/events") > 0)
    daemon.run(A, "web")
    await_names(docker, A, "web")
    windows = daemon.count("/events")
    until(lambda: daemon.count("/events") > windows + 4)
    # Twice if a record asked for it before the event came.
    assert daemon.count(f"/containers/{A}/json") <= 2


def test_event_without_end_takes_no_memory(daemon: FakeDocker) -> None:
    daemon.faults["/events"] = daemon.endless
    with docker_api.Api(str(daemon.path)) as api:
        tracemalloc.start()
        with pytest.raises(docker_api.Failed):
            list(api.events("1.0", "2.0", 0.1))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * docker_api.ONE_LIMIT


def test_list_that_is_too_long_leaves_asking_for_each(daemon: FakeDocker, docker: Docker) -> None:
    def long(handler: Handler) -> None:
        handler.body(b"[" + b" " * docker_api.LIST_LIMIT + b"]")

    daemon.faults["/containers/json"] = long
    daemon.describe(A, "web")
    await_names(docker, A, "web")
    daemon.run(B, "db")
    await_names(docker, B, "db")
    assert daemon.count("/containers/json") == 1


def test_container_with_endless_labels_costs_no_other_its_names(daemon: FakeDocker, docker: Docker) -> None:
    until(lambda: daemon.count("/events") > 0)
    daemon.run(A, "web", {"x": "y" * docker_api.ONE_LIMIT})
    daemon.run(B, "db")
    await_names(docker, B, "db")
    assert names(docker, A) is None
    assert daemon.count("/containers/json") == 1


def test_source_starts_at_once_and_imports_nothing_without_a_socket(tmp_path: Path) -> None:
    script = f"""
import sys, time
from identity.docker import Docker
began = time.perf_counter()
docker = Docker({str(tmp_path / "absent")!r})
assert time.perf_counter() - began < 0.05
time.sleep(0.2)
assert docker._thread.is_alive()
assert not {{"docker", "requests", "urllib3"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=30)
