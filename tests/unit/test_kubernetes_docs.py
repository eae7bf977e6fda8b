# SPDX-License-Identifier: Apache-2.0
"""docs/kubernetes.md grants what is used, and no more, and names every key."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import yaml  # type: ignore[import-untyped] # comes with the kubernetes client; its types are another package

from exporter.config import Identity
from identity.kubernetes_owners import RESOURCES

TEXT = (Path(__file__).resolve().parents[2] / "docs/kubernetes.md").read_text(encoding="utf-8")


def test_the_role_grants_exactly_what_is_asked() -> None:
    manifest = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[0]
    (role,) = [thing for thing in yaml.safe_load_all(manifest) if thing["kind"] == "ClusterRole"]
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    asked = {(group, path.split("/")[-2], "get") for (group, _), path in RESOURCES.items()}
    assert granted == asked | {("", "pods", "list"), ("", "pods", "watch")}


def test_every_key_is_in_the_table() -> None:
    keys = {item.name for item in dataclasses.fields(Identity) if item.name.startswith("kubernetes")}
    assert keys == set(re.findall(r"^\| `(kubernetes\w*)`", TEXT, re.MULTILINE))
