# SPDX-License-Identifier: Apache-2.0
"""Batches as Arrow IPC streams: the columns of record_table, compressed by zstd inside the stream."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from exporter import record_table
from exporter.batch import Batch

ROWS = 1 << 13  # of a record batch: what is in memory as columns at a time


def encode(batch: Batch) -> bytes:
    """The whole batch as one stream, in record batches of ROWS."""
    out = pa.BufferOutputStream()
    # Threads compress columns side by side, for 11 MiB more of RssAnon, and more time of one core.
    options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    with pa.ipc.new_stream(out, record_table.SCHEMA, options=options) as writer:
        for begin in range(0, len(batch.records), ROWS):
            writer.write_table(record_table.table(batch.part(slice(begin, begin + ROWS))))
    encoded: bytes = out.getvalue().to_pybytes()
    return encoded


def split(batch: Batch, most: int) -> Iterator[bytes]:
    """Streams of at most `most` bytes, in order. The same batch gives the same streams each time.

    ValueError if one record alone is larger.
    """
    waiting = [slice(begin, begin + ROWS) for begin in range(0, len(batch.records), ROWS)][::-1]
    while waiting:
        rows = waiting.pop()
        part = batch.part(rows)
        data = encode(part)
        if len(data) <= most:
            yield data
        elif len(part.records) == 1:
            raise ValueError(f"a record of {len(data)} bytes, of {most} allowed")
        else:
            middle = rows.start + len(part.records) // 2
            waiting += [slice(middle, rows.stop), slice(rows.start, middle)]
