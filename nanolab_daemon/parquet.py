"""Arrow tables → Parquet bytes → Arrow tables, the only place that knows how our files are encoded.

Encodes to memory, so that a file is written by one write(2); only the manifest may be too large for that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanolab_daemon import pages
from nanolab_daemon.model import OutputFile
from nanolab_daemon.pages import Counting, Kind, Values

META_PREFIX = "nanolab."
_PREFIX = META_PREFIX.encode()

_TYPES: dict[Kind, pa.DataType] = {
    "float64": pa.float64(),
    "int64": pa.int64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "moment": pa.timestamp("us", "UTC"),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a kind of file: names and what they hold, worked out once for all files of it."""

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]

    @classmethod
    def of(cls, columns: Sequence[tuple[str, Kind]]) -> Layout:
        """Lay out columns."""
        return cls(tuple(name for name, _ in columns), tuple(kind for _, kind in columns))


def encode(layout: Layout, columns: Sequence[Values], rows: int, notes: Mapping[str, object]) -> memoryview:
    """Encode a table as one Parquet file in memory, with `notes` as its key-value metadata under `nanolab.`.

    LZ4: Zstandard sets up a context for each column chunk, which costs more than these small columns do, for five per
    cent less. Statistics would speed up no reader: runs are found by folder and manifest. The files carry no Arrow
    schema, so that every reader gets plain strings.
    """
    told = {
        META_PREFIX + key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in notes.items()
    }
    if pages.fits(layout.kinds, columns, rows):
        return memoryview(pages.encode(layout.names, layout.kinds, columns, rows, told))
    arrays = [_array(kind, column, rows) for kind, column in zip(layout.kinds, columns, strict=True)]
    table = pa.Table.from_arrays(arrays, names=list(layout.names))
    sink = pa.BufferOutputStream()
    with _writer(sink, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(told)
    return memoryview(sink.getvalue())


def _array(kind: Kind, column: Values, rows: int) -> pa.Array:
    """Make a column for the library; text of one value as a dictionary, which costs a tenth to encode."""
    if isinstance(column, pa.Array):
        return column
    if isinstance(column, Counting):
        return pa.array(np.arange(rows, dtype=np.int64))
    if kind != "string":
        return pa.repeat(pa.scalar(column.value, _TYPES[kind]), rows)
    if column.value is None:
        return pa.DictionaryArray.from_arrays(pa.nulls(rows, pa.int8()), pa.array([], pa.string()))
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int8()), rows), pa.array([column.value]))


@contextmanager
def writing(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Write a file that is too large to be held in memory; each table is a row group."""
    with pa.OSFile(str(path), "wb") as sink, _writer(sink, schema) as writer:
        yield writer


def _writer(sink: pa.NativeFile, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        sink,
        schema,
        compression="lz4",
        use_dictionary=[f.name for f in schema if pa.types.is_dictionary(f.type) or pa.types.is_string(f.type)],
        write_statistics=False,
        store_schema=False,
    )


def described(path: str, encoded: memoryview, rows: int) -> OutputFile:
    """Give the ledger's record of an encoded file."""
    return OutputFile(path=path, size_bytes=len(encoded), rows=rows, sha256=hashlib.sha256(encoded).hexdigest())


def read(
    contents: bytes | memoryview, wanted: Callable[[Mapping[str, str]], list[str] | None] = lambda _: None
) -> tuple[pa.Table, dict[str, str]]:
    """Decode a Parquet file, in this thread, and give its table and its `nanolab.` notes.

    `wanted` is given the notes and tells which columns are to be read; None: all. Raises `pyarrow.ArrowInvalid` or
    `OSError` if the file is damaged.
    """
    with pq.ParquetFile(pa.BufferReader(contents)) as file:
        notes = {
            key.removeprefix(_PREFIX).decode(): value.decode("utf-8", "replace")
            for key, value in (file.metadata.metadata or {}).items()
            if key.startswith(_PREFIX)
        }
        return file.read(wanted(notes), use_threads=False), notes
