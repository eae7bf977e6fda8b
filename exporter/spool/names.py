# SPDX-License-Identifier: Apache-2.0
"""The file of the names that were joined to a batch. Its name tells whose, its length and its CRC-32."""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass

from exporter import label
from exporter.label import Label
from exporter.spool.segment import BatchKey, RingId

_NAME = re.compile(r"([0-9a-f]{32})_(\d{1,20})_(\d{1,20})_(\d{1,20})_([0-9a-f]{8})\.names")


@dataclass(frozen=True, slots=True)
class NamesFile:
    """What the file's name tells; size and crc as of a segment."""

    key: BatchKey
    size: int
    crc: int

    @property
    def name(self) -> str:
        return "_".join(map(str, (*self.key.ring_id, self.key.number, self.size))) + f"_{self.crc:08x}.names"


def parse(name: str) -> NamesFile | None:
    """The names file of this name; None if it is no such name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    key = BatchKey(RingId(match[1], int(match[2])), int(match[3]))
    return NamesFile(key, int(match[4]), int(match[5], 16))


def read(directory: str, names: NamesFile) -> dict[int, Label] | None:
    """Labels by owner id; None if the file is gone or spoilt."""
    try:
        with open(os.path.join(directory, names.name), "rb") as file:
            data = file.read(names.size + 1)
    except FileNotFoundError:
        return None
    if len(data) != names.size or zlib.crc32(data) != names.crc:
        return None
    return label.unpack(data)
