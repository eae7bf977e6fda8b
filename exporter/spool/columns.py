# SPDX-License-Identifier: Apache-2.0
"""Ring records as Arrow columns and back: what a segment of the spool holds.

One column for each field of struct ft_event, under its name, and `sequence`. Ids, codes and boottimes as
the kernel wrote them: names and the wall clock are joined when a batch is made. Codes stay one byte: as
plain columns a record takes 31 bytes under zstd; differences between rows would save 7 more, and nobody
could read the file without us. docs/records.md tells every field.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ipc

from bpf import abi
from exporter.ring import DTYPE, Columns

# mimalloc, the default, keeps what it had: 11 MiB more RssAnon after batches to two sinks (65, here 54).
pa.set_memory_pool(pa.system_memory_pool())

FIELDS = tuple(name for name in DTYPE.names or () if name != "header")
CODEC = "zstd"


class UnreadableError(Exception):
    """The bytes are no segment of this version."""


def _type(name: str) -> pa.DataType:
    kind = DTYPE[name]
    if kind.kind == "V":
        return pa.binary(kind.itemsize)
    return {1: pa.uint8(), 2: pa.uint16(), 4: pa.uint32(), 8: pa.uint64()}[kind.itemsize]


SCHEMA = pa.schema(
    [pa.field("sequence", pa.uint64(), nullable=False)]
    + [pa.field(name, _type(name), nullable=False) for name in FIELDS],
    metadata={"flowtag.layout": str(abi.LAYOUT)},
)


def _column(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """One contiguous copy; no value is looked at."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def encode(records: Columns, sequence: NDArray[np.uint64]) -> pa.Buffer:
    """An Arrow IPC file of one record batch."""
    columns = [_column(sequence, pa.uint64())]
    columns += [_column(records[name], SCHEMA.field(name).type) for name in FIELDS]
    sink = pa.BufferOutputStream()
    options = ipc.IpcWriteOptions(compression=CODEC, use_threads=False)
    with ipc.new_file(sink, SCHEMA, options=options) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
    return sink.getvalue()


def decode(data: bytes) -> tuple[Columns, NDArray[np.uint64]]:
    """The records, as the ring had them, and their sequence; UnreadableError if it is none of ours."""
    table = _read(data, None)
    records = np.zeros(table.num_rows, DTYPE)
    records["header"] = abi.EVENT.size
    for name in FIELDS:
        records[name] = _values(table.column(name), DTYPE[name])
    return records, _values(table.column("sequence"), np.dtype(np.uint64)).copy()


def owners(data: bytes) -> list[int]:
    """The distinct owners in a segment; no other column is unpacked."""
    column = _read(data, [SCHEMA.get_field_index("owner")]).column("owner")
    found: list[int] = np.unique(_values(column, np.dtype(np.uint64))).tolist()
    return found


def _read(data: bytes, only: list[int] | None) -> pa.RecordBatch:
    try:
        options = ipc.IpcReadOptions(use_threads=False, included_fields=only)
        reader = ipc.open_file(pa.py_buffer(data), options=options)
        if reader.num_record_batches != 1 or (only is None and not reader.schema.equals(SCHEMA)):
            raise UnreadableError("it holds other columns than this version writes")
        return reader.get_batch(0)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UnreadableError(str(error)) from error


def _values(column: pa.Array, kind: np.dtype[Any]) -> NDArray[Any]:
    buffer = column.buffers()[1]
    if buffer is None or column.null_count:
        raise UnreadableError("a column has no values")
    return np.frombuffer(buffer, kind, len(column), column.offset * kind.itemsize)
