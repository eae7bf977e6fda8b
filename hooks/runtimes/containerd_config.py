# SPDX-License-Identifier: Apache-2.0
"""What containerd says of its runtime handlers, in a configuration file or in a dump of what is in force."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bpf.error import FlowtagError

BINARY = "BinaryName"
BASE_SPEC = "base_runtime_spec"

Tree = dict[str, Any]


class Setting(NamedTuple):
    """A key of a handler, BINARY in its options or BASE_SPEC beside them, and its value."""

    handler: str
    key: str
    value: str

    @property
    def tables(self) -> tuple[str, ...]:
        """From the handler's table to the one that holds the key."""
        return ("options",) if self.key == BINARY else ()


def parse(text: str, path: str) -> Tree:
    """The file's content; FlowtagError if it is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FlowtagError(
            f"reading {path}: not TOML: {error}", "containerd cannot start with it either: mend it first"
        ) from error


def at(tree: Any, path: Sequence[str]) -> Any:
    """What lies at the path, None if nothing does."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def parents(section: str) -> tuple[str, ...]:
    """The path to the handlers."""
    return ("plugins", section, "containerd", "runtimes")


def runtimes_of(tree: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """The handlers by name, of a file or of a dump; empty if it names none."""
    found = at(tree, parents(section))
    return found if isinstance(found, Mapping) else {}


def settings_of(tree: Mapping[str, Any], section: str, keys: Iterable[str]) -> Iterator[Setting]:
    """What the handlers say for BINARY or BASE_SPEC, in the file's order, without empty ones."""
    for name, entry in runtimes_of(tree, section).items():
        for key in keys:
            value = at(entry, (*Setting(name, key, "").tables, key))
            if value and isinstance(value, str):
                yield Setting(name, key, value)


def without_zeros(tree: Mapping[str, Any]) -> Tree:
    """Without empty values at any depth: containerd reads an absent key of a handler as its empty value."""
    plain = {name: without_zeros(value) if isinstance(value, dict) else value for name, value in tree.items()}
    return {name: value for name, value in plain.items() if value}
