# SPDX-License-Identifier: Apache-2.0
"""[sinks.NAME]: where batches go. Its `type` says which kind it is, and so which keys it has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from bpf.error import FlowtagError
from exporter.sinks.otlp_config import Otlp

NAME = re.compile(r"[a-z0-9-]{1,24}")  # a part of a mark's file name
RESERVED = ("spool",)  # what the spool calls itself where it has no sink


def _absolute(name: str, path: str) -> None:
    if not path.startswith("/") or not path.isprintable():
        raise FlowtagError(f"sinks: {name} is {path!r}", "use an absolute path")


@dataclass(frozen=True, slots=True)
class Json:
    """type = "json": JSON lines. path: a file, or "-" for standard output.

    rotate_bytes: a file that has grown to this becomes path.1, and so on; keep: how many of those stay.
    """

    TYPE: ClassVar[str] = "json"

    path: str
    rotate_bytes: int = 256 << 20
    keep: int = 4

    def __post_init__(self) -> None:
        if self.path != "-":
            _absolute("path", self.path)
        if self.rotate_bytes < 1 << 16:
            raise FlowtagError(f"sinks: rotate_bytes is {self.rotate_bytes}", "use 65536 or more")
        if not 1 <= self.keep <= 1000:
            raise FlowtagError(f"sinks: keep is {self.keep}", "use 1 to 1000")


@dataclass(frozen=True, slots=True)
class Parquet:
    """type = "parquet": one file a batch, in directory/date=YYYY-MM-DD/hour=HH/."""

    TYPE: ClassVar[str] = "parquet"

    directory: str

    def __post_init__(self) -> None:
        _absolute("directory", self.directory)


Sink = Json | Parquet | Otlp
KINDS: dict[str, type[Sink]] = {kind.TYPE: kind for kind in (Json, Parquet, Otlp)}
