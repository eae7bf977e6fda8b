# SPDX-License-Identifier: Apache-2.0
"""docs/ec2.md names every key, every reason and every metric."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

from exporter.config import Config, Identity
from exporter.config_file import _value
from exporter.metrics import host
from identity.certificate import Certificate
from identity.certificate_rules import FIELDS
from identity.instance import REASONS
from identity.instance_document import Document

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/ec2.md").read_text(encoding="utf-8")
KEYS = PAGE.partition("## Every key")[2]
# Those are docs/identity.md's.
OTHERS = {"docker", "podman", "app_labels", "kubernetes", "kubernetes_node"}


def test_every_key_has_its_row() -> None:
    named = set(re.findall(r"^\| (identity\.[a-z_.]+)", KEYS, re.MULTILINE))
    tables = {"certificate": Certificate, "document": Document}
    expected = {
        f"identity.{table}.{entry.name}"
        for table, kind in tables.items()
        for entry in dataclasses.fields(kind)
    }
    own = (
        {entry.name for entry in dataclasses.fields(Identity)}
        - OTHERS
        - {"certificate", "document", "static"}
    )
    assert named == expected | {f"identity.{name}" for name in own} | {"identity.static.workload"}


def test_every_reason_field_and_metric_is_named() -> None:
    for word in (*REASONS, *FIELDS):
        assert re.search(rf"\b{word}\b", PAGE), word
    names = re.findall(r'"(flowtag_\w+)"', Path(host.__file__).read_text(encoding="utf-8"))
    assert names
    for name in names:
        assert name in KEYS


def test_examples_are_configurations() -> None:
    """The indented blocks that are TOML are taken as they stand."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", PAGE, re.MULTILINE)
    examples = [block.replace("\n    ", "\n") for block in ("\n" + b for b in blocks) if "[identity" in block]
    assert len(examples) >= 3
    for text in examples:
        if "warn " not in text.partition("[")[0]:
            _value(Config, tomllib.loads(text[text.index("[") :]), "")
