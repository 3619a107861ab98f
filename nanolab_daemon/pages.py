"""A small table of flat columns → one Parquet file in memory, in a twentieth of a millisecond.

A measurement becomes five files of a hundred rows in twenty columns each, most of which hold one value. A library for
tables of any shape spends a quarter of a millisecond on such a file, which was half of all that a backfill did. This
module writes that one shape and no other: every column may be null, is all null or not at all, and is one page of
at most `MOST_ROWS` rows, in one row group, without statistics. All other tables are the library's.

Of the format (https://parquet.apache.org/docs/file-format) it uses what PyArrow's own files have had, too: data pages
of version 1, PLAIN values compressed by LZ4_RAW where that helps, RLE_DICTIONARY for what is constant. Its structures
are written in Thrift's compact protocol, field by field in the order of their numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from nanolab_daemon import __version__

MOST_ROWS = 1 << 14

Kind = Literal["float64", "int64", "string", "bool", "moment"]
"""What a column holds; a moment is a timestamp in µs, UTC."""

# Thrift's types, as they stand in the lower half of a field's first byte.
_TRUE, _I16, _I32, _I64, _BINARY, _LIST, _STRUCT = 1, 4, 5, 6, 8, 9, 12

# The format's enumerations.
_PHYSICAL: dict[Kind, int] = {"bool": 0, "int64": 2, "moment": 2, "float64": 5, "string": 6}
_OPTIONAL = 1
_UTF8, _TIMESTAMP_MICROS = 0, 10
_PLAIN, _RLE, _RLE_DICTIONARY = 0, 3, 8
_UNCOMPRESSED, _LZ4_RAW = 0, 7
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2

_MAGIC = b"PAR1"
_END = b"\0"
_OFFSET = b"\x26"  # a field of 64 bits whose number is two more than the last one's
_CREATOR = f"nanolab-daemon version {__version__}".encode()
_REAL = pa.float64()
_double = struct.Struct("<d").pack
_lz4 = pa.Codec("lz4_raw")


@dataclass(frozen=True, slots=True)
class Same:
    """A column that holds one value of its kind in all rows; None: it is all null."""

    value: Hashable


@dataclass(frozen=True, slots=True)
class Counting:
    """A column of int64 that counts the rows from 0."""


Values: TypeAlias = pa.Array | Same | Counting
"""A column; an array is one of float64."""


class _Chunk(NamedTuple):
    """A column as it stands in any file: its pages, and what the footer says of it as far as where they are."""

    pages: bytes
    told: bytes
    data_at: int  # of the page of values; before it, if that is not 0, stands the dictionary
    plain_bytes: int


def fits(kinds: Sequence[Kind], columns: Sequence[Values], rows: int) -> bool:
    """Tell whether a table is of the shape that is written here."""
    return 0 < rows <= MOST_ROWS and all(map(_suits, kinds, columns, repeat(rows)))


def _suits(kind: Kind, column: Values, rows: int) -> bool:
    if isinstance(column, Same):
        return True
    if isinstance(column, Counting):
        return kind == "int64"
    return kind == "float64" and column.type == _REAL and len(column) == rows and not column.null_count


def encode(
    names: tuple[str, ...],
    kinds: tuple[Kind, ...],
    columns: Sequence[Values],
    rows: int,
    notes: Mapping[str, str],
) -> bytes:
    """Encode a table that `fits` as one file; `notes` are its key-value metadata, a moment is in µs since 1970."""
    at = len(_MAGIC)
    plain_bytes = 0
    body = [_MAGIC]
    told = []
    for name, kind, column in zip(names, kinds, columns, strict=True):
        if isinstance(column, Same):
            value = column.value
            if kind == "float64" and value is not None:
                value = _double(value)  # by its bits: the two zeros are equal, and no NaN is equal to itself
            chunk = _constant(name, kind, value, rows)
        elif isinstance(column, Counting):
            chunk = _counting(name, rows)
        else:
            chunk = _numbers(name, kind, _bytes_of(column))
        where = _OFFSET + _whole(at + chunk.data_at)
        if chunk.data_at:
            where += _OFFSET + _whole(at)
        told.append(chunk.told + where + _END + _END)
        body.append(chunk.pages)
        at += len(chunk.pages)
        plain_bytes += chunk.plain_bytes
    group = _struct(
        {
            1: _list(_STRUCT, told),
            2: (_I64, _whole(plain_bytes)),
            3: (_I64, _whole(rows)),
            5: (_I64, _whole(len(_MAGIC))),
            6: (_I64, _whole(at - len(_MAGIC))),
            7: (_I16, _whole(0)),
        }
    )
    footer = _struct(
        {
            1: (_I32, _whole(2)),
            2: _schema(names, kinds),
            3: (_I64, _whole(rows)),
            4: _list(_STRUCT, [group]),
            5: _list(_STRUCT, [_struct({1: _text(key), 2: _text(note)}) for key, note in notes.items()]),
            6: (_BINARY, _counted(_CREATOR)),
        }
    )
    body += [footer, struct.pack("<I", len(footer)), _MAGIC]
    return b"".join(body)


# -- columns ---------------------------------------------------------------------------------------------------------


def _bytes_of(column: pa.Array) -> memoryview:
    """Give the values of a column of 64-bit numbers, without copying them."""
    first = 8 * column.offset
    return memoryview(column.buffers()[1])[first : first + 8 * len(column)]


def _numbers(name: str, kind: Kind, values: bytes | memoryview) -> _Chunk:
    rows = len(values) // 8
    return _page(name, kind, rows, _levels(rows, 1) + values, squeezed=True)


@lru_cache(maxsize=256)
def _counting(name: str, rows: int) -> _Chunk:
    return _numbers(name, "int64", np.arange(rows, dtype="<i8").tobytes())


@lru_cache(maxsize=4096, typed=True)
def _constant(name: str, kind: Kind, value: Hashable, rows: int) -> _Chunk:
    """Make a column of one value; a float64 is given as its eight bytes. Its size does not grow with the rows."""
    if value is None:
        return _page(name, kind, rows, _levels(rows, 0))
    if kind == "bool":  # for which there are no dictionaries
        ones = np.packbits(np.full(rows, bool(value)), bitorder="little").tobytes()
        return _page(name, kind, rows, _levels(rows, 1) + ones)
    if isinstance(value, str):
        text = value.encode()
        entry = struct.pack("<I", len(text)) + text
    else:
        entry = value if isinstance(value, bytes) else struct.pack("<q", value)
    header = _struct({1: (_I32, _whole(1)), 2: (_I32, _whole(_PLAIN))})
    dictionary = _page_header(_DICTIONARY_PAGE, len(entry), len(entry), 7, header) + entry
    indices = b"\1" + _run(rows, 0)  # each of one bit
    return _page(name, kind, rows, _levels(rows, 1) + indices, dictionary=dictionary)


def _page(
    name: str, kind: Kind, rows: int, contents: bytes, *, squeezed: bool = False, dictionary: bytes = b""
) -> _Chunk:
    """Make a column of one page of values, behind its dictionary if it has one."""
    codec, stored = _UNCOMPRESSED, contents
    if squeezed:
        smaller = _lz4.compress(contents, asbytes=True)
        if len(smaller) < len(contents):
            codec, stored = _LZ4_RAW, smaller
    encoding = _RLE_DICTIONARY if dictionary else _PLAIN
    header = _page_header(_DATA_PAGE, len(contents), len(stored), 5, _data_page(rows, encoding))
    plain_bytes = len(dictionary) + len(header) + len(contents)
    pages = dictionary + header + stored
    told = _column(name, kind, encoding, codec) + _field(_I64, rows) + _field(_I64, plain_bytes)
    told += _field(_I64, len(pages))
    return _Chunk(pages, told, len(dictionary), plain_bytes)


@lru_cache(maxsize=1024)
def _levels(rows: int, level: int) -> bytes:
    """Say of each row whether it has a value (1) or is null (0): one run."""
    run = _run(rows, level)
    return struct.pack("<I", len(run)) + run


def _run(times: int, value: int) -> bytes:
    """Repeat a value of one bit, in the hybrid of runs and packed bits."""
    return _varint(times << 1) + bytes((value,))


# -- what is said of them --------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _data_page(rows: int, encoding: int) -> bytes:
    return _struct(
        {1: (_I32, _whole(rows)), 2: (_I32, _whole(encoding)), 3: (_I32, _whole(_RLE)), 4: (_I32, _whole(_RLE))}
    )


def _page_header(kind: int, plain_bytes: int, stored_bytes: int, number: int, special: bytes) -> bytes:
    said = _field(_I32, kind) + _field(_I32, plain_bytes) + _field(_I32, stored_bytes)
    return said + bytes(((number - 3) << 4 | _STRUCT,)) + special + _END


@lru_cache(maxsize=1024)
def _column(name: str, kind: Kind, encoding: int, codec: int) -> bytes:
    """Begin what the footer says of a column: its `ColumnChunk` as far as the number of its values."""
    encodings = [encoding, _RLE] if encoding == _PLAIN else [encoding, _PLAIN, _RLE]
    described = _struct(
        {
            1: (_I32, _whole(_PHYSICAL[kind])),
            2: _list(_I32, [_whole(one) for one in encodings]),
            3: _list(_BINARY, [_counted(name.encode())]),
            4: (_I32, _whole(codec)),
        }
    )
    chunk = _struct({2: (_I64, _whole(0)), 3: (_STRUCT, described)})
    return chunk[: -2 * len(_END)]  # both structures go on


@lru_cache(maxsize=256)
def _schema(names: tuple[str, ...], kinds: tuple[Kind, ...]) -> tuple[int, bytes]:
    root = _struct({4: _text("schema"), 5: (_I32, _whole(len(names)))})
    return _list(_STRUCT, [root, *map(_element, names, kinds)])


def _element(name: str, kind: Kind) -> bytes:
    fields = {1: (_I32, _whole(_PHYSICAL[kind])), 3: (_I32, _whole(_OPTIONAL)), 4: _text(name)}
    if kind == "string":
        fields |= {6: (_I32, _whole(_UTF8)), 10: (_STRUCT, _struct({1: (_STRUCT, _END)}))}
    elif kind == "moment":
        micros = _struct({2: (_STRUCT, _END)})
        moment = _struct({1: (_TRUE, b""), 2: (_STRUCT, micros)})  # in UTC
        fields |= {6: (_I32, _whole(_TIMESTAMP_MICROS)), 10: (_STRUCT, _struct({8: (_STRUCT, moment)}))}
    return _struct(fields)


# -- Thrift's compact protocol ---------------------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _whole(number: int) -> bytes:
    """Write a whole number that is not negative; their sign is the lowest bit."""
    return _varint(number << 1)


def _field(kind: int, number: int) -> bytes:
    """Write a field that follows the one before it by one."""
    return bytes((0x10 | kind,)) + _varint(number << 1)


def _counted(text: bytes) -> bytes:
    return _varint(len(text)) + text


def _text(text: str) -> tuple[int, bytes]:
    return _BINARY, _counted(text.encode())


def _list(kind: int, members: Sequence[bytes]) -> tuple[int, bytes]:
    count = len(members)
    begin = bytes((count << 4 | kind,)) if count < 15 else bytes((0xF0 | kind,)) + _varint(count)
    return _LIST, begin + b"".join(members)


def _struct(fields: Mapping[int, tuple[int, bytes]]) -> bytes:
    """Write fields, given by their numbers in rising order, each as its type and its value."""
    parts = []
    last = 0
    for number, (kind, value) in fields.items():
        parts += [bytes(((number - last) << 4 | kind,)), value]
        last = number
    return b"".join((*parts, _END))
