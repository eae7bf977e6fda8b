# SPDX-License-Identifier: Apache-2.0
"""The configuration file: TOML, checked into one typed value; an unknown key is an error."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from bpf.error import FlowtagError
from exporter.config import Config
from exporter.sinks import config as sink_config

PATH = "/etc/flowtag/flowtag.toml"


def load(path: str | None) -> Config:
    """Read `path`; None means PATH where it exists, else the defaults."""
    try:
        with open(path or PATH, "rb") as file:
            data = tomllib.load(file)
    except FileNotFoundError:
        if path is None:
            return Config()
        raise FlowtagError(f"reading the configuration {path}: no such file") from None
    except OSError as error:
        raise FlowtagError(f"reading the configuration {path or PATH}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FlowtagError(f"reading the configuration {path or PATH}: {error}") from None
    try:
        config: Config = _value(Config, data, "")
    except FlowtagError as error:
        raise FlowtagError(f"in the configuration {path or PATH}: {error}", error.hint) from None
    return config


def _value(kind: Any, data: Any, path: str) -> Any:
    """`data` as a value of type `kind`; FlowtagError names the key's path."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(data, dict):
            raise FlowtagError(f"{path} must be a table")
        hints = get_type_hints(kind)
        for key in data:
            if key not in hints:
                where = f"{path}.{key}" if path else key
                raise FlowtagError(f"unknown key {where}", f"known here: {', '.join(sorted(hints))}")
        for entry in dataclasses.fields(kind):
            needed = entry.default is entry.default_factory is dataclasses.MISSING
            if needed and entry.name not in data:
                raise FlowtagError(f"{path} has no key {entry.name}")
        return kind(
            **{
                key: _value(hints[key], value, f"{path}.{key}" if path else key)
                for key, value in data.items()
            }
        )
    if kind is sink_config.Sink:
        rest = dict(data) if isinstance(data, dict) else {}
        sort = rest.pop("type", None)
        if not isinstance(sort, str) or sort not in sink_config.KINDS:
            raise FlowtagError(f"{path}.type is {sort!r}", f"use one of {', '.join(sink_config.KINDS)}")
        return _value(sink_config.KINDS[sort], rest, path)
    if get_origin(kind) is dict:
        if not isinstance(data, dict):
            raise FlowtagError(f"{path} must be a table")
        for name in data:
            if not sink_config.NAME.fullmatch(name) or name in sink_config.RESERVED:
                raise FlowtagError(
                    f"{path}.{name}: no name for a sink", "use 1 to 24 of a-z, 0-9 and -, but not `spool`"
                )
        return {name: _value(get_args(kind)[1], item, f"{path}.{name}") for name, item in data.items()}
    if get_origin(kind) is tuple:
        if not isinstance(data, list):
            raise FlowtagError(f"{path} must be a list")
        return tuple(_value(get_args(kind)[0], item, f"{path}[]") for item in data)
    if get_origin(kind) is Mapping:
        if not isinstance(data, dict):
            raise FlowtagError(f"{path} must be a table")
        return {key: _value(get_args(kind)[1], item, f"{path}.{key}") for key, item in data.items()}
    if type(data) is not kind:
        raise FlowtagError(f"{path} must be of type {kind.__name__}, not {type(data).__name__}")
    return data


def dump(config: Config) -> str:
    """`config` as TOML, every key stated."""
    lines: list[str] = []
    for section in dataclasses.fields(config):
        table = getattr(config, section.name)
        named = table if isinstance(table, dict) else {}
        for name, sink in named.items():
            lines += [*_section(f"{section.name}.{name}", sink)]
        if not isinstance(table, dict):
            lines += _section(section.name, table)
    return "\n".join(lines)


def _section(path: str, table: Any) -> Iterator[str]:
    """A table with its keys, then the tables below it."""
    yield f"[{path}]"
    if isinstance(table, sink_config.Sink):
        yield f"type = {_toml(table.TYPE)}"
    below: list[tuple[str, Any]] = []
    for entry in dataclasses.fields(table):
        value = getattr(table, entry.name)
        if dataclasses.is_dataclass(value):
            below.append((f"{path}.{entry.name}", value))
        else:
            yield f"{entry.name} = {_toml(value)}"
    yield ""
    for name, inner in below:
        yield from _section(name, inner)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if dataclasses.is_dataclass(value):
        value = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, str):
        return '"' + "".join(_character(c) for c in value) + '"'
    return str(value)


def _character(char: str) -> str:
    """One character of a TOML basic string."""
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else f"\\U{ord(char):08x}"
