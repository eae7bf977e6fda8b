# SPDX-License-Identifier: Apache-2.0
"""[identity] in the file: nested tables, lists of tables, tables of texts; every mistake names its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpf.error import FlowtagError
from exporter.config import Config
from exporter.config_file import dump, load

WHOLE = """
[identity]
order = ["certificate", "document", "static", "hostname"]
[identity.certificate]
path = "/run/spire/agent"
skew_seconds = 5
[[identity.certificate.rules]]
field = "uri"
match = "spiffe://example.org/ns/(?P<ns>[^/]+)/sa/(?P<sa>.+)"
workload = "{ns}/{sa}"
labels = { team = "{ns}", "a b" = "x" }
[[identity.certificate.rules]]
field = "oid:1.3.6.1.4.1.99999.7"
match = ".+"
workload = "{value}"
[identity.static]
workload = "edge"
labels = { rack = "7" }
[metrics]
listen = "[::1]:9464"
"""


def loaded(directory: Path, text: str) -> Config:
    path = directory / "flowtag.toml"
    path.write_text(text, encoding="utf-8")
    return load(str(path))


def test_rules_and_labels_are_read_and_dumped(tmp_path: Path) -> None:
    found = loaded(tmp_path, WHOLE)
    first, second = found.identity.certificate.rules
    assert (first.field, first.labels) == ("uri", {"team": "{ns}", "a b": "x"})
    assert second.workload == "{value}"
    assert found.identity.static.labels == {"rack": "7"}
    assert loaded(tmp_path, dump(found)) == found


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('match = ".+"\n', "", "identity.certificate.rules[] has no key match"),
        ('rack = "7"', "rack = 7", "identity.static.labels.rack must be of type str"),
        ('labels = { rack = "7" }', 'labels = "rack"', "identity.static.labels must be a table"),
        ("skew_seconds = 5", "skew = 5", "unknown key identity.certificate.skew"),
        ('[[identity.certificate.rules]]\nfield = "oid', '[identity.certificate.rules]\nfield = "oid', ""),
        ('"/run/spire/agent"', '"run/spire"', "identity.certificate.path"),
        ('"[::1]:9464"', '"localhost:9464"', "metrics.listen"),
    ],
)
def test_mistake_names_its_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in WHOLE
    with pytest.raises(FlowtagError) as caught:
        loaded(tmp_path, WHOLE.replace(old, new))
    assert said in str(caught.value)
