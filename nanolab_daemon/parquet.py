"""Arrow tables → Parquet bytes → Arrow tables, the only place that knows how our files are encoded.

Encodes to memory, so that a file is written by one write(2); only the manifest may be too large for that.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanolab_daemon.model import OutputFile

META_PREFIX = "nanolab."
_PREFIX = META_PREFIX.encode()

REAL, WHOLE, TEXT, TRUTH, MOMENT = pa.float64(), pa.int64(), pa.string(), pa.bool_(), pa.timestamp("us", "UTC")

_ONE_OF_FEW = pa.dictionary(pa.int8(), TEXT)
_KEPT_ROWS = 4096
_FIRST = pa.repeat(pa.scalar(0, pa.int8()), _KEPT_ROWS)


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a kind of file, worked out once for all files of it; `texts` names those that hold text."""

    schema: pa.Schema
    texts: list[str]

    @classmethod
    def of(cls, columns: Sequence[tuple[str, pa.DataType]]) -> Layout:
        """Lay out columns; those of text are made by `constant`."""
        fields = [(name, _ONE_OF_FEW if kind == TEXT else kind) for name, kind in columns]
        return cls(pa.schema(fields), [name for name, kind in columns if kind == TEXT])


def constant(kind: pa.DataType, value: Hashable, rows: int, *, usual: bool = True) -> pa.Array:
    """Give a column of one value; `usual`: one that other files may hold too, so that it is kept for them.

    Text is made as a dictionary of one entry, which costs a tenth to encode. The files carry no Arrow schema of their
    own, so that every reader gets plain strings back.
    """
    if value is None:
        return _nulls(kind, rows)
    if rows > _KEPT_ROWS or not usual:
        return _repeated(kind, value, rows)
    if isinstance(value, float):  # by its bits: the two zeros are equal, and no NaN is equal to itself
        return _kept_real(struct.pack("<d", value)).slice(0, rows)
    return _kept(kind, value).slice(0, rows)


@lru_cache(maxsize=128)
def _kept(kind: pa.DataType, value: Hashable) -> pa.Array:
    """Give a column of one value that is long enough for most files: many files hold the same values."""
    return _repeated(kind, value, _KEPT_ROWS)


@lru_cache(maxsize=128)
def _kept_real(bits: bytes) -> pa.Array:
    return _repeated(REAL, struct.unpack("<d", bits)[0], _KEPT_ROWS)


def _repeated(kind: pa.DataType, value: Hashable, rows: int) -> pa.Array:
    if kind != TEXT:
        return pa.repeat(pa.scalar(value, kind), rows)
    first = _FIRST.slice(0, rows) if rows <= _KEPT_ROWS else pa.repeat(pa.scalar(0, pa.int8()), rows)
    return pa.DictionaryArray.from_arrays(first, pa.repeat(pa.scalar(value, kind), 1))


@lru_cache(maxsize=64)
def _nulls(kind: pa.DataType, rows: int) -> pa.Array:
    if kind != TEXT:
        return pa.nulls(rows, kind)
    return pa.DictionaryArray.from_arrays(pa.nulls(rows, pa.int8()), pa.array([], TEXT))


def encode(table: pa.Table, notes: Mapping[str, object], texts: Sequence[str] | None = None) -> memoryview:
    """Encode a table as one Parquet file in memory, with `notes` as its key-value metadata under `nanolab.`.

    `texts` are its columns of text, if they are known. LZ4: Zstandard sets up a context for each column chunk, which
    costs more than these small columns do, for five per cent less. Statistics would speed up no reader: runs are
    found by folder and manifest.
    """
    if texts is None:
        texts = _texts(table.schema)
    sink = pa.BufferOutputStream()
    with _writer(sink, table.schema, texts) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(
            {
                META_PREFIX + key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
                for key, value in notes.items()
            }
        )
    return memoryview(sink.getvalue())


@contextmanager
def writing(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Write a file that is too large to be held in memory; each table is a row group."""
    with pa.OSFile(str(path), "wb") as sink, _writer(sink, schema, _texts(schema)) as writer:
        yield writer


def _texts(schema: pa.Schema) -> list[str]:
    return [f.name for f in schema if pa.types.is_dictionary(f.type) or pa.types.is_string(f.type)]


def _writer(sink: pa.NativeFile, schema: pa.Schema, texts: Sequence[str]) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        sink,
        schema,
        compression="lz4",
        use_dictionary=texts,
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
