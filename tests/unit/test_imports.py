# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, and where ctypes may be: read from every module's source."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bpf", "identity", "hooks", "exporter")
# What a package may import of the others, besides itself.
ALLOWED = {
    "bpf": set[str](),
    "identity": {"bpf"},
    "hooks": {"bpf", "identity"},
    "exporter": {"bpf", "identity"},
}
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(source: str, package: str) -> Iterator[str]:
    """The top-level packages that a module imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield package if node.level else (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_only_the_packages_it_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    found = set(imports(path.read_text(encoding="utf-8"), package))
    assert found & set(PACKAGES) <= ALLOWED[package] | {package}
    assert "tests" not in found
    assert package == "bpf" or not {"ctypes", "_ctypes"} & found, "ctypes belongs into bpf/"


def test_imports_finds_those_inside_functions() -> None:
    source = "import os.path\ndef f():\n    from hooks.oci import g\n    from . import h\n"
    assert set(imports(source, "exporter")) == {"os", "hooks", "exporter"}


def test_packages_are_all_in_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["setuptools"]["packages"]
    assert tuple(name for name in listed if "." not in name) == PACKAGES
    assert set(listed) == {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
