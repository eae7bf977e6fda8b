# SPDX-License-Identifier: Apache-2.0
"""What `flowtag status` makes of what it found: why, what needs a hand, the page and the object."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bpf import abi
from bpf.error import FlowtagError
from hooks import cli, status, why
from hooks.bundles import Known
from hooks.register import choose
from hooks.runs import Event, Runs
from hooks.runtime import Options, Reference, State
from hooks.runtimes import adapters
from hooks.status import Engine, Hook, Maps, Running, Status
from hooks.status_problems import problems
from hooks.status_text import MOST, clean, document, text
from identity import census
from identity.census import Container
from tests.rig.exporter import COMMAND

NOW = time.time()
BOOT = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
ON, OFF = State(True, True), State(False, False)
NONE = Runs({}, False)
EVIDENCE = why.Evidence({"docker": ON}, {"docker": NOW - 100}, None, True, NONE)
LATE = Container("c1", "docker", "web", census.NONE, "/docker/c1", 7, BOOT - 10 * 10**9)
EARLY = replace(LATE, started=BOOT - 1000 * 10**9)
CALLS = Known("docker", "c1", "web", "/f", 7, True, "/f", True)
PLAIN = CALLS._replace(refers="", hooked=False)
FAILED = Runs({"createRuntime": Event({}, {"killed": 2}, 500.0, 500.0)}, False, 2)
TWICE = Runs(
    {"inject": Event({}, {"killed": 1, "error": 1}, None, None), "poststop": Event({}, {"x": 1}, 1, 1)}, False
)


@pytest.mark.parametrize("state", [census.HOOK, census.NAMESPACE, census.TRANSLATOR])
def test_container_with_its_hooks_identity_needs_no_reason(state: str) -> None:
    assert why.reason(replace(LATE, state=state), None, EVIDENCE) == ""


@pytest.mark.parametrize(
    ("container", "known", "changes", "said"),
    [
        (EARLY, PLAIN, {}, why.BEFORE),
        (LATE, PLAIN, {}, why.UNKNOWN),
        (replace(EARLY, started=0), PLAIN, {}, why.UNKNOWN),
        (EARLY, None, {}, why.BEFORE),
        (EARLY, PLAIN, {"states": {"docker": OFF}}, why.NOT_REGISTERED),
        (EARLY, PLAIN, {"states": {}}, why.UNKNOWN),
        (
            LATE,
            PLAIN,
            {"states": {"docker": State(True, False, "reload it")}},
            "registered but not yet effective: reload it",
        ),
        (LATE, PLAIN, {"disabled": NOW - 50}, why.DISABLED),
        (LATE, CALLS, {"disabled": NOW - 50}, why.DISABLED),
        (EARLY, PLAIN, {"disabled": NOW - 50}, why.BEFORE),
        (LATE, CALLS, {"application": False}, why.GONE),
        (LATE, PLAIN, {"application": False}, why.GONE),
        (LATE, CALLS, {"runs": FAILED}, "hook failed: killed"),
        (LATE, CALLS, {"runs": TWICE}, "hook failed: one of error, killed"),
        (LATE, CALLS, {}, "it calls the hook, which left no trace: disabled at that time, or not run"),
        (replace(LATE, state=census.CONTESTED), CALLS, {}, "two living containers claim its cgroup"),
        (replace(LATE, state=census.ENDED), CALLS, {}, "its claim was ended, though a process of it lives"),
        (
            replace(LATE, state=census.UNREADABLE),
            CALLS,
            {"problem": "no maps"},
            "the maps cannot be read: no maps",
        ),
        (
            replace(LATE, state=census.PENDING, detail="no room"),
            CALLS,
            {},
            "hook could not write: no room",
        ),
        (
            replace(EARLY, believed=False),
            PLAIN,
            {},
            f"name not believed: its cgroup's parent is not root's; {why.BEFORE}",
        ),
        (replace(EARLY, state=census.RECONCILED), PLAIN, {}, why.BEFORE),
    ],
)
def test_reason_follows_the_evidence(
    container: Container, known: Known | None, changes: dict[str, object], said: str
) -> None:
    assert why.reason(container, known, replace(EVIDENCE, **changes)) == said  # type: ignore[arg-type]


def test_reason_of_containerd_knows_what_its_registration_reaches() -> None:
    tasks = "/run/containerd/io.containerd.runtime.v2.task"
    one = replace(EARLY, runtime="containerd")
    by_ctr = PLAIN._replace(engine="containerd", file=f"{tasks}/default/c1/config.json")
    by_cri = by_ctr._replace(file=f"{tasks}/k8s.io/c1/config.json")
    evidence = replace(
        EVIDENCE, states={"containerd": ON}, since={"containerd": NOW - 100, "runc": NOW - 100}
    )
    assert why.reason(one, by_cri, evidence) == why.BEFORE
    assert "no registration with containerd" in why.reason(one, by_ctr, evidence)
    evidence = replace(evidence, states={"containerd": ON, "runc": ON})
    assert why.reason(one, by_ctr, evidence) == why.BEFORE
    base_spec = ON._replace(detail="runc: base_runtime_spec; base-spec does not reach pause containers: ...")
    evidence = replace(evidence, states={"containerd": base_spec})
    pause = by_cri._replace(sandbox=True)
    assert why.reason(one, pause, evidence) == "base-spec does not reach pause containers"


WELL = Status(
    [Engine("docker", "/run/docker.sock", ON._replace(detail="/etc/docker/daemon.json"))],
    Hook("/h", True, "/usr/lib/flowtag", True, None, ""),
    Maps("/pins/v1", tuple(abi.MAPS), (), "", ()),
    Runs({"createRuntime": Event({"claimed": 3}, {}, 14.0, 21.5)}, False),
    0,
    False,
    0,
    [Running(replace(LATE, state=census.HOOK), "docker", "")],
    [Reference("docker", "old", "/f", "c0", False)],
)
NOTHING = replace(
    WELL,
    engines=[Engine("docker", "/usr/sbin/dockerd", OFF)],
    hook=Hook("/h", False, "", True, None, None),
    maps=Maps("/pins/v1", (), tuple(abi.MAPS), "", ()),
    containers=[Running(LATE, "docker", why.NOT_REGISTERED)],
)


def test_nothing_needs_a_hand_where_all_is_well_or_nothing_was_registered() -> None:
    assert problems(WELL) == []
    assert problems(NOTHING) == []


def engine(name: str, state: State) -> Engine:
    return Engine(name, "here", state)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"engines": [engine("docker", State(True, False, "reload"))]},
            "docker: registered, not yet effective: reload",
        ),
        (
            {"engines": [engine("docker", State(False, True, "reload"))]},
            "docker: still calls the hook: reload",
        ),
        ({"engines": [engine("docker", State(True, None, problem="torn"))]}, "docker: torn"),
        (
            {"engines": [engine("runc", State(True, False, detail="/link"))]},
            "runc: registered, but not effective: something comes before /link",
        ),
        (
            {
                "engines": [*WELL.engines, engine("podman", OFF)],
                "containers": [Running(LATE, "podman", why.NOT_REGISTERED)] * 2,
            },
            "podman: not registered, and runs 2 containers: flowtag register --runtime podman",
        ),
        ({"hook": replace(WELL.hook, installed=False)}, "hook: /h/flowtag-hook is missing: flowtag register"),
        ({"hook": replace(WELL.hook, disabled=NOW)}, "hook: disabled: flowtag enable"),
        ({"hook": replace(WELL.hook, self_test="it fails", hint="mend it")}, "hook: it fails: mend it"),
        (
            {"hook": replace(WELL.hook, application_there=False, self_test="it fails")},
            "hook: /usr/lib/flowtag is gone: install flowtag again, or flowtag unregister",
        ),
        ({"runs": FAILED}, "hook runs: 2 of the last 2 failed"),
        ({"maps": replace(WELL.maps, problem="another layout")}, "maps: another layout"),
        (
            {"maps": replace(WELL.maps, missing=("ft_gap",))},
            "maps: 1 of 11 are not in /pins/v1: flowtag maps create",
        ),
        ({"gap": 5}, "maps: a claim is missing, so the host's own flows are nobody's: flowtag run"),
        (
            {"gap": 5, "lost": True},
            "maps: a claim is missing, so the host's own flows are nobody's: "
            "end the containers on the host's network, remove the maps",
        ),
        ({"pending": 2}, "containers: 2 identities could not be written: flowtag run writes them"),
        (
            {"containers": [Running(replace(LATE, state=census.CONTESTED), "docker", "x")]},
            "containers: 1 contested: give each a cgroup of its own",
        ),
    ],
)
def test_problem_is_one_line_with_what_to_do(changes: dict[str, object], said: str) -> None:
    assert problems(replace(WELL, **changes)) == [said]  # type: ignore[arg-type]


def test_runc_beside_a_registered_engine_is_not_missed() -> None:
    containers = [Running(LATE, "runc", why.NOT_REGISTERED)]
    assert problems(replace(WELL, engines=[*WELL.engines, engine("runc", OFF)], containers=containers)) == []


def test_page_of_a_host_where_all_is_well() -> None:
    assert text(WELL) == [
        "nothing needs a hand",
        "",
        "engines",
        "  docker          registered, effective       /etc/docker/daemon.json",
        "",
        "hook   /h: enabled; self-test passed",
        "       calls /usr/lib/flowtag",
        "maps   layout 1, all in /pins/v1",
        "",
        "hook runs since boot: 3, of which 0 failed",
        "  createRuntime  claimed 3; p50 14.0 ms, p99 21.5 ms",
        "",
        "containers: 1 runs: hook 1",
        "",
        "stub and wrapper are needed by 1 container, of which 0 run",
        "  old                                      docker      stopped",
    ]


def test_page_is_bounded_and_the_object_whole() -> None:
    many = [
        Running(replace(LATE, container_id=f"{i:04}", name=""), "docker", f"why {i % 3}") for i in range(1000)
    ]
    needed = [Reference("docker", f"old{i}", "/f", str(i), False) for i in range(500)]
    found = replace(WELL, containers=many, needed_by=needed, maps=replace(WELL.maps, others=("v0",)))
    lines = text(found)
    assert len(lines) < 80
    assert f"  and {1000 - MOST} more without an identity from the hook:" in lines
    assert f"  and {500 - MOST} more that are stopped" in lines
    assert "maps   layout 1, all in /pins/v1; beside it: v0" in lines
    shown = document(found)
    assert len(shown["containers"]["running"]) == 1000
    assert len(shown["needed_by"]) == 500


def test_object_has_every_key_whatever_is_known() -> None:
    def keys(value: object, path: str = "") -> set[str]:
        if not isinstance(value, dict) or path in ("/runs/events",):
            return {path}
        return {path}.union(*(keys(each, f"{path}/{name}") for name, each in value.items()))

    whole, empty = document(WELL), document(NOTHING)
    assert keys(whole) == keys(empty)
    assert json.loads(json.dumps(whole)) == whole
    assert set(whole["containers"]["states"]) == set(census.STATES)
    assert whole["containers"]["identified"] == 1
    assert (whole["hook"]["self_test"], empty["hook"]["self_test"]) == (True, None)
    assert whole["engines"][0].keys() == {"name", "found", *State._fields}
    (one,) = whole["containers"]["running"]
    assert one.keys() == {"container_id", "name", "engine", "state", "reason", "cgroup", "pid", "started"}


def test_documentation_names_every_key_and_state() -> None:
    page = (Path(__file__).parents[2] / "docs/runtimes.md").read_text(encoding="utf-8")
    section = page[page.index("## Status") :]
    whole = document(WELL)
    names = {*whole, *(name for part in whole.values() if isinstance(part, dict) for name in part)}
    names |= {*whole["containers"]["running"][0], *census.STATES}
    assert {name for name in names if f"`{name}`" not in section} == set()


def test_page_shows_no_control_characters() -> None:
    evil = replace(LATE, name="a\x1b[2J\nb\u202e")
    (line,) = (x for x in text(replace(WELL, containers=[Running(evil, "docker", "x\ny")])) if "[2J" in x)
    assert line.isprintable()
    assert clean("a\ud800b").isprintable()


def test_status_without_root_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(FlowtagError, match="not permitted") as caught:
        status.look(Options(), [])
    assert caught.value.hint == "run as root"


def test_status_survives_an_adapter_that_cannot_tell(tmp_path: Path) -> None:
    class Broken:
        name = "docker"

        def found(self, options: Options) -> str:
            return "here"

        def state(self, options: Options) -> State:
            raise OSError(5, "Input/output error", "/etc/docker/daemon.json")

    if os.geteuid():
        pytest.skip("needs root")
    run = tmp_path / "run"
    run.mkdir()
    (run / "hook").write_text(f"pin_directory {tmp_path}\n", encoding="ascii")
    options = Options(str(tmp_path / "hook"), str(run))
    found = status.look(options, [Broken()], "auto", [], [])  # type: ignore[list-item]
    assert found.engines[0].state.problem.startswith("cannot be told: ")
    assert found.hook.self_test is None


def test_nri_is_chosen_by_its_method_only(monkeypatch: pytest.MonkeyPatch) -> None:
    all_of_them = adapters()
    for one in all_of_them:
        monkeypatch.setattr(one, "found", lambda options: "here")
    assert [one.name for one in choose(all_of_them, "auto", Options())] == [
        "docker",
        "containerd",
        "podman",
        "crio",
    ]
    assert [one.name for one in choose(all_of_them, "containerd-nri", Options())] == ["containerd-nri"]
    parsed = type("Parsed", (), {"runtime": "containerd", "method": "nri"})
    assert cli._name(parsed) == "containerd-nri"  # type: ignore[arg-type]
    parsed.method = "wrapper"  # type: ignore[attr-defined]
    assert cli._name(parsed) == "containerd"  # type: ignore[arg-type]


def test_nri_command_is_there() -> None:
    done = subprocess.run([COMMAND, "nri", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--socket" in done.stdout


def test_registrations_time_is_that_of_what_nobody_else_writes(tmp_path: Path) -> None:
    def since(detail: Path) -> float:
        one = Engine("docker", "here", State(True, True, detail=str(detail)))
        return status._since([one], replace(WELL.hook, directory=str(tmp_path)))["docker"]

    def put(path: Path) -> float:
        time.sleep(0.02)
        path.write_text("", encoding="ascii")
        return path.lstat().st_ctime

    stub, file = put(tmp_path / "flowtag-hook"), tmp_path / "daemon.json"
    assert since(file) == stub
    for path in (file, tmp_path / "daemon.json.flowtag-backup"):
        written = put(path)
        assert since(file) == written > stub
    folder = tmp_path / "hooks.d"
    folder.mkdir()
    mine = put(folder / "flowtag-createRuntime.json")
    put(folder / "of-somebody-else.json")
    assert since(folder) == mine
