"""The encoder of small tables: readers that know nothing of it find in its files what is in the library's."""

from __future__ import annotations

import io
import math
import struct
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanolab_daemon import pages, parquet
from nanolab_daemon.pages import Counting, Kind, Same, Values

ANY_DOUBLE = st.integers(0, 2**64 - 1).map(lambda n: struct.unpack("d", struct.pack("Q", n))[0])
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
CONSTANTS: dict[Kind, st.SearchStrategy[Any]] = {
    "float64": ANY_DOUBLE | st.integers(-5, 5),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "string": WORDS,
    "bool": st.booleans(),
    "moment": st.integers(-(10**16), 10**16),
}
ROWS = st.integers(1, 130) | st.sampled_from([2**6 - 1, 2**6, 2**12, 2**13 - 1, 2**13, pages.MOST_ROWS])


@st.composite
def columns(draw: st.DrawFn) -> tuple[tuple[str, Kind], Values | None]:
    """Draw name and kind of a column with what it holds; None: numbers, to be made when their count is known."""
    kind = draw(st.sampled_from(sorted(CONSTANTS)))
    name = draw(WORDS.filter(bool))
    what = draw(st.sampled_from(["constant", "null", "numbers", "count"]))
    if what == "numbers":
        return (name, "float64"), None
    if what == "count":
        return (name, "int64"), Counting()
    return (name, kind), Same(None if what == "null" else draw(CONSTANTS[kind]))


@st.composite
def small(draw: st.DrawFn) -> tuple[parquet.Layout, list[Values], int]:
    """Draw a table of the shape that a run or a segment has."""
    rows = draw(ROWS)
    found = draw(st.lists(columns(), min_size=1, max_size=40, unique_by=lambda one: one[0][0].casefold()))
    seed = draw(st.integers(0, 2**32))
    chance = np.random.default_rng(seed)
    held: list[Values] = []
    for _, values in found:
        if values is not None:
            held.append(values)
        elif chance.integers(2):  # what can be made smaller, and what can't; as a slice, as segments are
            held.append(pa.array(np.round(chance.normal(size=rows + 7), 2)).slice(5, rows))
        else:
            held.append(pa.array(chance.integers(0, 2**64, rows, dtype=np.uint64).view(np.float64)))
    return parquet.Layout.of([column for column, _ in found]), held, rows


def bits(column: pa.ChunkedArray) -> object:
    """Give a column's values so that they can be compared to the last bit."""
    if pa.types.is_float64(column.type) and not column.null_count:
        return column.to_numpy().tobytes()
    return column.cast(pa.int64()).to_pylist() if pa.types.is_timestamp(column.type) else column.to_pylist()


@given(small(), st.dictionaries(WORDS.filter(bool), WORDS, max_size=20))
@example((parquet.Layout.of([("t", "string")]), [Same("")], 1), {})
@example((parquet.Layout.of([("x", "float64")]), [Same(-0.0)], 3), {"a": "x" * 100_000})
@example((parquet.Layout.of([("x", "float64"), ("y", "float64")]), [Same(0.0), Same(-0.0)], 3), {})
def test_it_holds_what_the_library_s_would(
    table: tuple[parquet.Layout, list[Values], int], notes: dict[str, str]
) -> None:
    """Names, types, nulls, notes and each bit of the values are those of the file that PyArrow writes."""
    layout, held, rows = table
    assert pages.fits(layout.kinds, held, rows)
    ours = parquet.encode(layout, held, rows, notes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "MOST_ROWS", 0)
        theirs = parquet.encode(layout, held, rows, notes)
    assert b"nanolab-daemon version" in bytes(ours)
    assert b"nanolab-daemon version" not in bytes(theirs)
    one, other = (pq.ParquetFile(pa.BufferReader(each)) for each in (ours, theirs))
    assert one.metadata.metadata == other.metadata.metadata
    assert one.schema.equals(other.schema)
    assert one.schema_arrow.equals(other.schema_arrow)
    mine, reference = one.read(), other.read()
    for name in layout.names:
        assert bits(mine[name]) == bits(reference[name]), name


@given(small())
def test_other_readers_find_the_same(table: tuple[parquet.Layout, list[Values], int]) -> None:
    """Polars and DuckDB, which share no code with PyArrow, read the same values; DuckDB column by column."""
    layout, held, rows = table
    encoded = parquet.encode(layout, held, rows, {"a": "b"})
    reference = pq.read_table(pa.BufferReader(encoded))
    frame = pl.read_parquet(io.BytesIO(encoded), hive_partitioning=False)
    assert frame.columns == list(layout.names)
    assert frame.to_arrow().schema.types == [
        pa.large_string() if pa.types.is_string(kind) else kind for kind in reference.schema.types
    ]
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
        path = Path(folder) / "part-000.parquet"
        path.write_bytes(encoded)
        connection.execute("SET TimeZone = 'UTC'")
        source = connection.read_parquet(str(path), hive_partitioning=False)
        assert source.columns == list(layout.names)
        for name in layout.names:
            expected = bits(reference[name])
            assert bits(pa.chunked_array([frame[name].to_arrow()])) == expected, name
            quoted = name.replace('"', '""')
            found = source.select(f'"{quoted}"').to_arrow_table()
            assert bits(found.column(0)) == expected, name


@given(small())
def test_the_footer_s_sums_are_right(table: tuple[parquet.Layout, list[Values], int]) -> None:
    """Where each column lies and how long it is: one after another, from the first byte to the footer."""
    layout, held, rows = table
    encoded = parquet.encode(layout, held, rows, {})
    footer = int.from_bytes(encoded[-8:-4], "little")
    told = pq.read_metadata(pa.BufferReader(encoded))
    assert (told.num_rows, told.num_row_groups, told.num_columns) == (rows, 1, len(held))
    assert told.serialized_size == footer
    group = told.row_group(0)
    at = 4
    plain = 0
    for number in range(group.num_columns):
        column = group.column(number)
        assert column.num_values == rows
        if column.has_dictionary_page:
            assert at == column.dictionary_page_offset < column.data_page_offset
        else:
            assert at == column.data_page_offset
        assert "RLE" in column.encodings
        at += column.total_compressed_size
        plain += column.total_uncompressed_size
    assert at == len(encoded) - footer - 8
    assert group.total_byte_size == plain


def test_what_has_another_shape_is_the_library_s() -> None:
    """Columns that hold nulls among values, tables without rows and long ones are written by PyArrow."""
    layout = parquet.Layout.of([("x", "float64"), ("n", "int64"), ("s", "string"), ("none", "string")])
    gaps = pa.array([1.0, None, math.nan])
    long = pa.array(np.arange(pages.MOST_ROWS + 1, dtype=np.float64))
    for numbers in (gaps, gaps.slice(0, 0), long):
        rows = len(numbers)
        held: list[Values] = [numbers, Counting(), Same("µ"), Same(None)]
        assert not pages.fits(layout.kinds, held, rows)
        found = pq.read_table(pa.BufferReader(parquet.encode(layout, held, rows, {})))
        assert found["x"].null_count == numbers.null_count
        assert found["n"].to_pylist() == list(range(rows))
        assert found["s"].to_pylist() == ["µ"] * rows
        assert found["none"].null_count == rows


@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.float32(), pa.string(), pa.bool_()])
def test_numbers_of_another_type_are_the_library_s(kind: pa.DataType) -> None:
    """What is no float64 is never taken for it, nor a column that is longer than the table."""
    held: list[Values] = [pa.array([1, 0, 1]).cast(kind)]
    layout = parquet.Layout.of([("x", "float64")])
    found = pq.read_table(pa.BufferReader(parquet.encode(layout, held, 3, {})))
    assert found["x"].to_pylist() == held[0].to_pylist()
    assert not pages.fits(layout.kinds, [pa.array([1.0, 2.0, 3.0])], 2)
    assert not pages.fits(("float64",), [Counting()], 3)


def test_constant_columns_do_not_grow() -> None:
    """What is the same in all rows takes as much room in a long segment as in a short one, but for a byte or two."""
    layout = parquet.Layout.of([(f"c{n}", "string") for n in range(20)])
    held: list[Values] = [Same(f"value {n}") for n in range(20)]
    short, long = (len(parquet.encode(layout, held, rows, {})) for rows in (5, pages.MOST_ROWS))
    assert long - short < 20 * 12
