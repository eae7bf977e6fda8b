# SPDX-License-Identifier: Apache-2.0
"""Pods come, change and go, and the API server fails in every way: the real client against rig/kube_api."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.config import Identity
from exporter.describe import Describer
from identity.kubernetes import Kubernetes
from identity.kubernetes_client import Timing
from identity.names import Names
from identity.workload import KIND_CONTAINER, Workload
from tests.integration.conftest import Start, until
from tests.rig.kube_api import KubeApi, chunks_then_close, cut_short, refuse, send, silence
from tests.rig.kube_objects import NODE, pod, status
from tests.rig.kubeconfig import write_kubeconfig
from tests.rig.mangled import ANY, mangled_pods


def of(name: str, container: str = "main") -> Workload:
    """A container as the hook writes it."""
    return Workload(
        kind=KIND_CONTAINER, source=1, runtime="containerd", container_id="0" * 64, pod_uid=f"uid-{name}",
        pod=name, namespace="shop", container=container,
    )  # fmt: skip


def knows(source: Kubernetes, name: str) -> Names | None:
    return source.names(of(name))


def label(source: Kubernetes, name: str, key: str) -> str:
    names = knows(source, name)
    return names.labels.get(key, "") if names else ""


def watching(api: KubeApi, source: Kubernetes) -> None:
    until(lambda: source.watch.health.connected and api.count("watch"))


def test_pods_that_were_there_come_by_one_list_with_no_more_than_is_needed(
    api: KubeApi, start: Start
) -> None:
    api.put(pod("web", labels={"team": "red"}))
    api.put(pod("elsewhere", node="node-2"))
    source = start()
    watching(api, source)
    names = knows(source, "web")
    assert names is not None
    assert (names.pod, names.namespace, names.container, names.app) == ("web", "shop", "main", "")
    assert names.image == "registry.example/main:1"
    assert names.labels == {
        "team": "red",
        "flowtag.io/node": NODE,
        "flowtag.io/service-account": "default",
    }
    assert knows(source, "elsewhere") is None
    assert len(source.pods) == 1
    query = api.last("watch").query
    assert query["fieldSelector"] == "spec.nodeName=node-1"
    assert query["allowWatchBookmarks"] == "true"
    assert query["resourceVersion"] == "1002"  # the list's
    assert query["timeoutSeconds"] == "60"
    assert api.count("list") == 1


def test_pods_come_change_and_go_and_an_ended_one_keeps_its_names(api: KubeApi, start: Start) -> None:
    source = start()
    watching(api, source)
    api.put(pod("web", labels={"team": "red"}))
    until(lambda: label(source, "web", "team") == "red")
    api.put(pod("web", labels={"team": "blue"}))
    until(lambda: label(source, "web", "team") == "blue")
    api.delete("uid-web")
    api.put(pod("next"))
    until(lambda: knows(source, "next"))
    assert label(source, "web", "team") == "blue"
    assert api.count("list") == 1


def test_ended_pods_make_room_the_oldest_first_and_living_ones_stay(api: KubeApi, start: Start) -> None:
    source = start(room=3)
    watching(api, source)
    for name in ("a", "b", "c"):
        api.put(pod(name))
    api.delete("uid-b")
    api.delete("uid-a")
    api.put(pod("d"))
    until(lambda: knows(source, "d"))
    assert knows(source, "b") is None
    assert knows(source, "a") is not None
    api.put(pod("e"))
    api.put(pod("f"))  # a, ended, has gone for e: there is no room
    until(lambda: source.watch.health.left_out)
    assert [name for name in "abcdef" if knows(source, name)] == ["c", "d", "e"]


def test_pages_are_put_together_and_replace_the_cache_at_once(api: KubeApi, start: Start) -> None:
    api.page_size = 2
    for number in range(5):
        api.put(pod(f"p{number}"))
    source = start()
    watching(api, source)
    assert api.count("list") == 3
    assert all(knows(source, f"p{number}") for number in range(5))
    # The second page of the next list does not come: what was known stays.
    api.delete("uid-p0")
    stop = threading.Event()
    original = api._list

    def second_page_hangs(handler: Any, path: str, query: dict[str, str]) -> None:
        if "continue" in query:
            silence(stop)(handler)
        else:
            original(handler, path, query)

    api._list = second_page_hangs  # type: ignore[method-assign]
    api.compact()
    api.hang_up()
    before = api.count("list")
    until(lambda: api.count("list") >= before + 2)
    assert all(knows(source, f"p{number}") for number in range(1, 5))
    api._list = original  # type: ignore[method-assign]
    stop.set()
    until(lambda: source.watch.health.lists == 2)
    assert all(knows(source, f"p{number}") for number in range(5))  # p0 has ended, and is remembered


def test_a_lost_connection_is_taken_up_at_the_last_bookmark_without_a_list(
    api: KubeApi, start: Start
) -> None:
    source = start()
    watching(api, source)
    version = api.bookmark()
    until(lambda: source.watch.health.bookmarks == 1)
    api.hang_up()
    until(lambda: api.count("watch") == 2)
    assert api.last("watch").query["resourceVersion"] == str(version)
    api.put(pod("web"))
    until(lambda: knows(source, "web"))
    assert api.count("list") == 1
    assert source.watch.health.errors == {"disconnected": 1}


def test_what_happened_while_the_connection_was_lost_comes_afterwards(api: KubeApi, start: Start) -> None:
    source = start()
    watching(api, source)
    api.fail("watch", *[refuse(503, "ServiceUnavailable")] * 2)
    api.hang_up()
    api.put(pod("web"))
    until(lambda: knows(source, "web"))
    assert api.count("list") == 1


@pytest.mark.parametrize("way", ["status", "event", "reason"])
def test_410_makes_another_list(api: KubeApi, start: Start, way: str) -> None:
    api.put(pod("gone"))
    source = start()
    watching(api, source)
    if way == "event":
        api.event("ERROR", status(410, "Gone", "too old resource version: 1 (1000)"))
    elif way == "reason":
        api.event("ERROR", status(500, "Expired"))
    else:
        api.compact()
        api.hang_up()
    until(lambda: source.watch.health.lists == 2)
    until(lambda: source.watch.health.relists_gone == 1)
    api.put(pod("web"))
    until(lambda: knows(source, "web"))


def test_410_at_a_page_begins_the_list_anew(api: KubeApi, start: Start) -> None:
    for name in ("a", "b"):
        api.put(pod(name))
    first = json.dumps(
        {
            "kind": "PodList",
            "metadata": {"resourceVersion": "5", "continue": "1.5"},
            "items": [pod("stale")],
        }
    ).encode()
    api.fail("list", send(first), refuse(410, "Expired"))
    source = start()
    watching(api, source)
    assert [request.query.get("continue") for request in api.requests if request.kind == "list"] == [
        None, "1.5", None,
    ]  # fmt: skip
    assert knows(source, "stale") is None
    assert knows(source, "a")
    assert knows(source, "b")


def test_500s_are_tried_again_with_growing_waits(api: KubeApi, start: Start) -> None:
    api.put(pod("web"))
    api.fail("list", *[refuse(500, "InternalError")] * 6)
    source = start()
    until(lambda: knows(source, "web"))
    assert source.watch.health.errors == {"http_500": 6}
    assert api.count("list") == 7


def test_a_version_that_never_gets_an_answer_is_given_up(api: KubeApi, start: Start) -> None:
    source = start()
    watching(api, source)
    api.fail("watch", *[refuse(504, "Timeout")] * 3)  # "Too large resource version" looks like this
    api.hang_up()
    until(lambda: source.watch.health.lists == 2)
    assert api.count("watch") >= 4


def test_429_waits_as_long_as_is_asked(api: KubeApi, start: Start) -> None:
    api.fail("list", refuse(429, "TooManyRequests", Retry_After="1"))
    began = time.monotonic()
    source = start()
    until(lambda: source.watch.health.lists)
    assert time.monotonic() - began > 1
    assert source.watch.health.errors == {"http_429": 1}


def test_close_does_not_wait_for_a_retry_after(api: KubeApi, start: Start) -> None:
    api.fail("list", refuse(503, "ServiceUnavailable", Retry_After="3600"))
    source = start()
    until(lambda: source.watch.health.errors)
    began = time.monotonic()
    source.close()
    assert time.monotonic() - began < 1
    assert not source.watch._thread.is_alive()


def test_close_ends_a_watch_that_says_nothing(api: KubeApi, start: Start) -> None:
    source = start()
    watching(api, source)
    began = time.monotonic()
    source.close()
    assert time.monotonic() - began < 1
    assert not source.watch._thread.is_alive()
    assert not source.owners._thread.is_alive()


@pytest.mark.parametrize("kind", ["list", "watch"])
def test_a_first_byte_that_does_not_come_holds_up_neither_names_nor_close(
    api: KubeApi, start: Start, kind: str
) -> None:
    stop = threading.Event()
    api.fail(kind, *[silence(stop)] * 5)
    source = start(Timing(connect=2, answer=30, list=30))
    until(lambda: api.count(kind))
    began = time.monotonic()
    assert knows(source, "web") is None
    assert time.monotonic() - began < 0.1
    source.close()
    assert time.monotonic() - began < 3
    stop.set()


def test_a_slow_first_byte_times_out_and_is_tried_again(api: KubeApi, start: Start) -> None:
    stop = threading.Event()
    api.put(pod("web"))
    api.fail("list", silence(stop))
    source = start()
    until(lambda: knows(source, "web"))
    assert source.watch.health.errors == {"timeout": 1}
    stop.set()


def test_a_list_that_drips_is_given_up(api: KubeApi, start: Start) -> None:
    def drip(handler: Any) -> None:
        handler.begin_chunks()
        for _ in range(100):
            handler.send_chunk(b" ")
            time.sleep(0.1)

    api.put(pod("web"))
    api.fail("list", drip)
    source = start(Timing(connect=2, answer=1, list=0.5, first_delay=0.01))
    until(lambda: knows(source, "web"), 5)
    assert source.watch.health.errors == {"slow": 1}


def test_half_a_line_and_a_close_is_no_event(api: KubeApi, start: Start) -> None:
    line = json.dumps({"type": "ADDED", "object": pod("half")}).encode()
    source = start()
    watching(api, source)
    api.raw(line[: len(line) // 2])
    api.hang_up()
    until(lambda: api.count("watch") == 2)
    api.put(pod("web"))
    until(lambda: knows(source, "web"))
    assert knows(source, "half") is None
    assert "bad_json" not in source.watch.health.errors


def test_an_event_may_come_in_pieces(api: KubeApi, start: Start) -> None:
    thing = pod("web")
    thing["metadata"]["resourceVersion"] = "2000"
    line = json.dumps({"type": "ADDED", "object": thing}).encode() + b"\n"
    source = start()
    watching(api, source)
    for at in range(0, len(line), 50):
        api.raw(line[at : at + 50])
    until(lambda: knows(source, "web"))


@pytest.mark.parametrize("fault", [cut_short, chunks_then_close])
def test_a_list_that_is_cut_off_is_not_believed(api: KubeApi, start: Start, fault: Any) -> None:
    body = json.dumps({"kind": "PodList", "metadata": {"resourceVersion": "9"}, "items": [pod("lie")]})
    api.put(pod("web"))
    api.fail("list", fault(body[:-2].encode()))
    source = start()
    until(lambda: knows(source, "web"))
    assert knows(source, "lie") is None
    assert source.watch.health.errors == {"disconnected": 1}


def test_a_giant_object_is_left_out_and_the_rest_is_not(api: KubeApi, start: Start) -> None:
    giant = pod("giant")
    giant["metadata"]["annotations"]["tenant.example/fills"] = "x" * (5 << 20)
    api.put(giant)
    api.put(pod("web"))
    source = start()
    watching(api, source)
    assert knows(source, "web")
    assert knows(source, "giant") is None
    api.put(giant)
    api.put(pod("next"))
    until(lambda: knows(source, "next"))
    assert source.watch.health.oversized == 2


def test_events_of_an_unknown_type_and_nonsense_are_counted_and_move_nothing(
    api: KubeApi, start: Start
) -> None:
    source = start()
    watching(api, source)
    strange = pod("strange")
    strange["metadata"]["resourceVersion"] = "999999"
    api.event("PATCHED", strange)
    api.raw(b'not json\n[]\n{}\n{"type":"ADDED","object":7}\n{"type":"MODIFIED"}\n\n')
    api.put(pod("web"))
    until(lambda: knows(source, "web"))
    assert knows(source, "strange") is None
    assert source.watch.health.unknown == 6  # PATCHED, not JSON, [], {}, and two without a pod
    assert source.watch.health.errors == {"bad_json": 1}
    api.hang_up()
    until(lambda: api.count("watch") == 2)
    assert int(api.last("watch").query["resourceVersion"]) < 2000


def test_an_error_event_of_another_kind_is_taken_up_again(api: KubeApi, start: Start) -> None:
    source = start()
    watching(api, source)
    api.event("ERROR", status(500, "InternalError"))
    until(lambda: source.watch.health.errors == {"http_500": 1})
    api.put(pod("web"))
    until(lambda: knows(source, "web"))


def test_a_pod_that_leaves_the_node_has_ended(api: KubeApi, start: Start) -> None:
    source = start(room=1)
    watching(api, source)
    api.put(pod("web"))
    until(lambda: knows(source, "web"))
    api.put(pod("web", node="node-2"))
    api.put(pod("next"))  # takes the room of what has ended
    until(lambda: knows(source, "next"))
    assert knows(source, "web") is None


def test_a_server_that_ignores_the_selector_fills_nothing(api: KubeApi, start: Start) -> None:
    body = {"kind": "PodList", "metadata": {"resourceVersion": "9"}, "items": [pod("far", node="node-2")]}
    api.fail("list", send(json.dumps(body).encode()))
    source = start()
    watching(api, source)
    api.event("ADDED", pod("farther", node="node-3"))
    api.put(pod("web"))
    until(lambda: knows(source, "web"))
    assert len(source.pods) == 1


def test_a_redirect_is_not_followed(api: KubeApi, start: Start) -> None:
    api.fail("list", refuse(302, "Found", Location=f"{api.url}/elsewhere"))
    source = start()
    until(lambda: source.watch.health.lists)
    assert source.watch.health.errors == {"http_302": 1}
    assert not api.count("get")


def test_a_server_that_ends_every_watch_at_once_is_not_hammered(api: KubeApi, start: Start) -> None:
    api.fail("watch", *[send(b"")] * 1000)
    source = start(Timing(first_delay=0.4, longest_delay=60))
    until(lambda: api.count("watch") > 3)
    time.sleep(1)
    assert api.count("watch") < 20
    assert not source.watch.health.working


def test_health_is_logged_once_a_change(api: KubeApi, start: Start) -> None:
    with structlog.testing.capture_logs() as told:
        api.fail("list", *[refuse(500, "InternalError")] * 8)
        source = start()
        watching(api, source)
        api.put(pod("web"))
        until(lambda: knows(source, "web"))
        api.hang_up()
        until(lambda: api.count("watch") == 2)
        api.put(pod("next"))
        until(lambda: knows(source, "next"))
    assert [(line["log_level"], line.get("kind")) for line in told] == [
        ("warning", "http_500"),
        ("info", None),
    ]
    health = source.watch.health
    assert health.working
    assert (health.lists, health.watches) == (1, 2)
    assert health.age is not None
    assert health.age < 10


def test_a_server_that_is_gone_leaves_the_names_and_comes_back(api: KubeApi, start: Start) -> None:
    api.put(pod("web"))
    source = start()
    watching(api, source)
    api.close()
    until(lambda: source.watch.health.errors.get("unreachable", 0) > 3)
    assert knows(source, "web")
    assert not source.watch.health.working


def test_hostile_pods_do_not_end_the_thread(api: KubeApi, start: Start) -> None:
    source = start()
    watching(api, source)

    @settings(max_examples=100, deadline=None)
    @given(
        kind=st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "HUH"]), thing=ANY | mangled_pods()
    )
    def send_it(kind: str, thing: Any) -> None:
        api.event(kind, thing)

    send_it()
    api.put(pod("last"))
    until(lambda: knows(source, "last"))
    assert set(source.watch.health.errors) <= {"bad_json"}  # NaN is none
    assert source.watch._thread.is_alive()
    assert source.owners._thread.is_alive()


def test_a_fault_of_our_own_does_not_end_the_thread(
    api: KubeApi, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = start()
    watching(api, source)
    with monkeypatch.context() as patch:
        patch.setattr(source.pods, "put", lambda pod: 1 / 0)
        api.put(pod("web"))
        until(lambda: source.watch.health.errors.get("internal"))
    until(lambda: knows(source, "web"))


def test_a_container_without_a_hook_gets_all_its_names_in_a_record(api: KubeApi, tmp_path: Path) -> None:
    api.put(pod("web", labels={"team": "red"}, containers={"main": "a" * 64}))
    path = write_kubeconfig(tmp_path / "kubeconfig", api.url)
    config = Identity(docker="off", podman="off", kubernetes=str(path), kubernetes_node=NODE)
    found = Workload(kind=KIND_CONTAINER, runtime="containerd", container_id="a" * 64)
    with Describer(config) as describer:
        until(lambda: describer.describe(found).pod)
        names = describer.describe(found)
    assert (names.namespace, names.pod, names.container) == ("shop", "web", "main")
    assert (names.image, names.labels["team"]) == ("registry.example/main:1", "red")
