# SPDX-License-Identifier: Apache-2.0
"""containerd's config.toml as text: put a setting into a runtime handler's table, and take it out again.

What is put in carries the comment `# flowtag`, so that exactly that is taken out: a key that stood there
with an empty value gets it back, a table goes only if nobody else wrote into it. Every edit is judged by
another parser than the one that made it, and refused where the file would say anything else.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Item, Null, Table, Whitespace

from bpf.error import FlowtagError
from hooks.runtimes.containerd_config import Setting, Tree, at, parents, runtimes_of, without_zeros

MARK = "# flowtag"
WAS = f"{MARK}: was "
UNENDED = f"\n{MARK}: the file ended without a newline\n"


def put(text: str, section: str, setting: Setting, entry: Mapping[str, Any]) -> str:
    """The text with the setting in it: in the table that should hold it, or in a new one at the end.

    entry: what is in force for the handler. containerd <= 1.7 drops its own defaults of a handler that the
    file names [measured: runtime_type and sandbox_mode become empty], so a new table repeats them.
    """
    expected = tomllib.loads(text)
    path = (*parents(section), setting.handler, *setting.tables)
    document, holder = _open(text, path)
    if isinstance(holder, Table) and not holder.is_super_table():
        _assign(holder, setting.key, setting.value)
        result = _ended_like(text, tomlkit.dumps(document))
    elif setting.handler in runtimes_of(expected, section):
        known = {} if at(expected, path) is not None else at(entry, setting.tables) or {}
        result = text + _fragment(text, section, setting, setting.tables, known)
    else:
        result = text + _fragment(text, section, setting, (), entry)
    _set(expected, section, setting, entry)
    if _says(result, expected):
        return result
    raise FlowtagError(
        f"editing containerd's configuration: handler {setting.handler!r} cannot be changed without"
        " disturbing the file: it is an inline table, dotted keys, or interrupted by other tables",
        f"by hand: {setting.key} = {tomlkit.item(setting.value).as_string()}"
        f" in [{_header(section, setting)}]",
    )


def take(text: str, section: str, settings: Sequence[Setting]) -> str:
    """The text without these settings, and without what put() added for them: put()'s inverse."""
    for setting in reversed(settings):
        cut = _cut(text, section, setting)
        text = _take(text, section, setting) if cut is None else cut
    return text


def _header(section: str, setting: Setting) -> str:
    return ".".join(
        tomlkit.key(name).as_string() for name in (*parents(section), setting.handler, *setting.tables)
    )


def _set(tree: Tree, section: str, setting: Setting, entry: Mapping[str, Any]) -> None:
    """What put() means, on values."""
    for name in parents(section):
        tree = tree.setdefault(name, {})
    tree = tree.setdefault(setting.handler, without_zeros(entry))
    for name in setting.tables:
        tree = tree.setdefault(name, without_zeros(at(entry, setting.tables) or {}))
    tree[setting.key] = setting.value


def _fragment(
    text: str, section: str, setting: Setting, tables: Sequence[str], known: Mapping[str, Any]
) -> str:
    """What put() appends: the handler's table, or the one of `tables` in it, with the setting."""
    values = without_zeros(known)
    holder = values
    for name in setting.tables[len(tables) :]:
        holder = holder.setdefault(name, {})
    holder[setting.key] = setting.value
    document = table = tomlkit.document()
    for name in (*parents(section), setting.handler, *tables)[:-1]:
        table = table.setdefault(name, tomlkit.table(is_super_table=True))
    table[(setting.handler, *tables)[-1]] = _marked(values)
    return (UNENDED if text and text[-1] != "\n" else "") + tomlkit.dumps(document)


def _marked(values: Mapping[str, Any]) -> Table:
    """A table of ours, its own keys first."""
    table = tomlkit.table()
    table.comment(MARK)
    for name, value in sorted(values.items(), key=lambda pair: isinstance(pair[1], dict)):
        table.append(name, _marked(value) if isinstance(value, dict) else tomlkit.item(value).comment(MARK))
    return table


def _assign(table: Table, key: str, value: str) -> None:
    """Set the key in its place, else first: comments at a table's end belong to what follows."""
    new = tomlkit.item(value)
    old = table.get(key)
    if isinstance(old, Item):
        new.trivia.indent, new.trivia.trail = old.trivia.indent, old.trivia.trail
        if old.trivia.comment:
            new.trivia.comment_ws = old.trivia.comment_ws
            new.trivia.comment = f"{old.trivia.comment} {WAS}{old.as_string()}"
        else:
            new.trivia.comment_ws = " "
            new.trivia.comment = f"{WAS}{old.as_string()}"
        table[key] = new
        return
    new.comment(MARK)
    table.trivia.trail = table.trivia.trail or "\n"  # it was the file's last line
    body = table.value.body
    first = next((item for name, item in body if name is not None and not isinstance(item, Table)), None)
    new.trivia.indent = first.trivia.indent if first is not None else table.trivia.indent
    body.insert(0, (tomlkit.key(key), new))  # to be rendered at once: the table's index does not know it


def _cut(text: str, section: str, setting: Setting) -> str | None:
    """The text without the fragment at its end that put() appended; None if that is not what it ends with."""
    entry = _entry(tomllib.loads(text), section, setting)
    for tables, known in (((), entry), (setting.tables, at(entry, setting.tables)), ((), {})):
        fragment = _fragment("\n", section, setting, tables, known)
        for before in (UNENDED, ""):
            if text.endswith(before + fragment):
                shorter = text.removesuffix(before + fragment)
                return shorter if put(shorter, section, setting, entry) == text else None
    return None


def _says(text: str, expected: Tree) -> bool:
    try:
        return tomllib.loads(text) == expected
    except tomllib.TOMLDecodeError:
        return False


def _take(text: str, section: str, setting: Setting) -> str:
    """The text without one setting; FlowtagError if it would say anything else than that."""
    path = (*parents(section), setting.handler, *setting.tables)
    document, holder = _open(text, path)
    if isinstance(holder, Table):
        expected, result = _without(text, document, section, setting)
        if _says(result, expected):
            return result
    raise FlowtagError(
        f"editing containerd's configuration: {setting.key} of handler {setting.handler!r} cannot be"
        " taken out without disturbing the file",
        f"remove {setting.key} by hand in [{_header(section, setting)}]",
    )


def _open(text: str, path: Sequence[str]) -> tuple[tomlkit.TOMLDocument, Any]:
    """The file and the table at the path, which is None where tomlkit 0.15 cannot keep the file as it is.

    It fails on some tables that others interrupt, or gives them another indentation.
    """
    try:
        document = tomlkit.parse(text)
        if tomlkit.dumps(document) == text:
            return document, at(document, path)
    except (TOMLKitError, AttributeError):
        pass
    return tomlkit.document(), None


def _without(text: str, document: tomlkit.TOMLDocument, section: str, setting: Setting) -> tuple[Tree, str]:
    """What is to be said without the setting, and the text that should say so."""
    expected = tomllib.loads(text)
    wanted: Tree = expected
    table: Any = document
    path: list[tuple[Tree, Any, str]] = []  # a holder as values and as text, and what is followed in it
    for name in (*parents(section), setting.handler, *setting.tables):
        path.append((wanted, table, name))
        wanted, table = wanted[name], table[name]
    was = table[setting.key].trivia.comment.rpartition(WAS)
    if was[1]:
        wanted[setting.key] = ""
        _restore(table, setting.key, *was[::2])
    else:
        del wanted[setting.key], table[setting.key]
        for values, holder, name in reversed(path):
            if not _ours(holder[name]):
                break
            del values[name], holder[name]
    return expected, _ended_like(text, tomlkit.dumps(document))


def _ended_like(text: str, result: str) -> str:
    """A file without a newline at its end stays without."""
    return result if text.endswith("\n") else result.removesuffix("\n")


def _restore(table: Any, key: str, comment: str, value: str) -> None:
    """Give a key the empty value and the comment back that it had."""
    space = table[key].trivia.comment_ws
    table[key] = tomlkit.value(value.rstrip())
    trivia = table[key].trivia  # tomlkit hands the old one's on
    trivia.trail = value[len(value.rstrip()) :] + trivia.trail
    trivia.comment = comment.removesuffix(" ")
    trivia.comment_ws = space if comment else ""


def _ours(table: Any) -> bool:
    """Whether a table, and all in it, came by put(): nobody else's key, comment or header."""
    if not isinstance(table, Table):
        return False
    if table.is_super_table():  # has no header; what is left of it is nothing
        return not table
    return table.trivia.comment == MARK and all(
        _ours(item) if isinstance(item, Table) else item.trivia.comment == MARK
        for _, item in table.value.body
        if not isinstance(item, (Null, Whitespace))
    )


def _entry(tree: Mapping[str, Any], section: str, setting: Setting) -> Tree:
    """What put() was given: the handler as the file says, without the setting."""
    entry = copy.deepcopy(dict(runtimes_of(tree, section)[setting.handler]))
    holder = entry
    for name in setting.tables:
        holder = holder[name]
    del holder[setting.key]
    return entry
