"""Arrow tables → Parquet bytes → Arrow tables, the only place that knows how our files are encoded.

Encodes to memory, so that a file is written by one write(2). Never touches the disk itself, but to read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from nanolab_daemon.model import OutputFile

META_PREFIX = "nanolab."

Constant = tuple[str, pa.DataType, object]
"""A column that holds one value in every row: its name, type and value."""


def constant(kind: pa.DataType, value: object, rows: int) -> pa.Array:
    """Give a column of one value. Text is made as a dictionary of one entry, which costs a tenth to encode.

    The files carry no Arrow schema of their own, so that every reader gets plain strings back.
    """
    if value is None:
        return pa.nulls(rows, kind)
    if pa.types.is_string(kind):
        indices = pa.repeat(pa.scalar(0, pa.int8()), rows)
        return pa.DictionaryArray.from_arrays(indices, pa.array([value], kind))
    return pa.repeat(pa.scalar(value, kind), rows)


def encode(table: pa.Table, notes: Mapping[str, object]) -> memoryview:
    """Encode a table as one Parquet file in memory, with `notes` as its key-value metadata under `nanolab.`.

    LZ4: Zstandard sets up a context for each column chunk, which costs more than these small columns do, for five
    per cent less. Statistics would speed up no reader: runs are found by folder and manifest.
    """
    sink = pa.BufferOutputStream()
    texts = [f.name for f in table.schema if pa.types.is_dictionary(f.type) or pa.types.is_string(f.type)]
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="lz4",
        use_dictionary=texts,
        write_statistics=False,
        store_schema=False,
        coerce_timestamps="us",
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(
            {
                META_PREFIX + key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
                for key, value in notes.items()
            }
        )
    return memoryview(sink.getvalue())


def described(path: str, encoded: memoryview, rows: int) -> OutputFile:
    """Give the ledger's record of an encoded file."""
    return OutputFile(path=path, size_bytes=len(encoded), rows=rows, sha256=hashlib.sha256(encoded).hexdigest())


def read(contents: bytes | memoryview) -> tuple[pa.Table, dict[str, str]]:
    """Decode a whole Parquet file, in this thread, and give its table and its `nanolab.` notes.

    Raises `pyarrow.ArrowInvalid` or `OSError` if it is damaged.
    """
    with pq.ParquetFile(pa.BufferReader(contents)) as file:
        table: pa.Table = file.read(use_threads=False)
        pairs = file.metadata.metadata or {}
    prefix = META_PREFIX.encode()
    notes = {
        key.removeprefix(prefix).decode(): value.decode("utf-8", "replace")
        for key, value in pairs.items()
        if key.startswith(prefix)
    }
    return table, notes
