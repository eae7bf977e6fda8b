# SPDX-License-Identifier: Apache-2.0
"""OCI state to workload: engines' real shapes, pretenders, and anything that JSON can hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf import abi
from identity import incarnation, oci
from identity.workload import KIND_CONTAINER, KIND_POD, SOURCE_HOOK, Workload

FOLDER = Path(__file__).parent / "fixtures/oci"
FIXTURES = sorted(FOLDER.glob("*.json"))
CAPTURED = [path for path in FIXTURES if re.search(r"_\d+_\d+", path.stem)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ID = "5b1c9c2ad00dfeed"
BUNDLES = (
    f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}",
    f"/run/containerd/io.containerd.runtime.v2.task/moby/{ID}",
    f"/run/containerd/io.containerd.runtime.v2.task/default/{ID}",
    f"/run/containers/storage/overlay-containers/{ID}/userdata",
    f"/srv/{ID}",
)
KEYS = (
    "io.container.manager",
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri.container-name",
    "io.kubernetes.cri.sandbox-name",
    "io.kubernetes.cri.sandbox-namespace",
    "io.kubernetes.cri-o.ContainerType",
    "io.kubernetes.cri-o.ContainerID",
    "io.kubernetes.pod.name",
    "io.kubernetes.pod.namespace",
    "nerdctl/name",
)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_from_oci_engine_fixture(path: Path) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    workload = oci.from_oci(case["state"], case.get("config"))
    wanted = case["workload"]
    found: dict[str, Any] = {name: getattr(workload, name) for name in wanted}
    if "kind" in wanted:
        found["kind"] = abi.WORKLOAD_KINDS[workload.kind]
    assert found == wanted
    assert workload.source == SOURCE_HOOK
    assert Workload.unpack(workload.pack()) == workload


@pytest.mark.parametrize("path", CAPTURED, ids=lambda path: path.stem)
def test_captured_poststop_names_the_same_incarnation(path: Path) -> None:
    """Podman runs poststop itself, crun with another pid: id and bundle are what stays."""
    case = json.loads(path.read_text(encoding="utf-8"))
    names = [
        incarnation.file_name(oci.text(state, "bundle"), oci.text(state, "id"))
        for state in (case["state"], case["poststop"])
    ]
    assert names[0] == names[1]
    assert case["in_final_cgroup"]


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_needs_config_of_every_fixture_that_depends_on_it(path: Path) -> None:
    """What the hook does not read cannot decide: without it the workload is the same."""
    case = json.loads(path.read_text(encoding="utf-8"))
    if not oci.needs_config(case["state"]):
        assert oci.from_oci(case["state"]) == oci.from_oci(case["state"], case.get("config"))


def test_from_oci_podman_user_cannot_pass_for_crio() -> None:
    """Podman lets --annotation replace its own io.container.manager, but names the cgroup itself."""
    case = json.loads((FOLDER / "podman_5_8_pretends_crio.json").read_text(encoding="utf-8"))
    assert case["state"]["annotations"]["io.container.manager"] == "cri-o"
    for parent in ("/x", f"/crio-{case['state']['id']}", "machine.slice:crio"):
        case["config"]["linux"]["cgroupsPath"] = f"{parent}/libpod-{case['state']['id']}"
        assert oci.from_oci(case["state"], case["config"]).runtime == "podman"
    assert oci.from_oci(case["state"], None).runtime == "podman"


def test_fixtures_cover_every_engine() -> None:
    names = {path.stem.partition("_")[0] for path in FIXTURES}
    assert {"runc", "docker", "containerd", "crio", "podman", "nerdctl"} <= names


@given(JSON, JSON)
def test_from_oci_any_json(state: object, config: object) -> None:
    workload = oci.from_oci(state, config)
    assert workload.kind in (KIND_CONTAINER, KIND_POD)
    assert len(workload.pack()) == abi.WORKLOAD.size


@given(st.sampled_from(BUNDLES), st.dictionaries(st.sampled_from(KEYS), JSON), JSON)
def test_from_oci_hostile_annotations(bundle: str, notes: dict[str, object], config: object) -> None:
    workload = oci.from_oci({"id": ID, "bundle": bundle, "annotations": notes}, config)
    assert workload.container_id == ID
    assert len(workload.pack()) == abi.WORKLOAD.size
    if "moby" in bundle or bundle.startswith("/srv"):
        assert (workload.name, workload.kind) == (ID, KIND_CONTAINER)


def test_from_oci_huge_name_is_cut() -> None:
    note = {"nerdctl/name": "ü" * 1_000_000}
    workload = oci.from_oci({"id": ID, "bundle": BUNDLES[2], "annotations": note})
    assert workload.container == "ü" * 64


def test_nerdctl_name_is_no_pods() -> None:
    """An annotation that a tenant may choose, beside the pod of another."""
    notes = {"nerdctl/name": "kube-system/coredns-x/coredns"}
    bundle = "/run/containerd/io.containerd.runtime.v2.task/default/abc"
    assert oci.from_oci({"id": "abc", "bundle": bundle, "annotations": notes}).name == "abc"
