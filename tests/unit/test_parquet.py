"""Encoding: what goes in comes out, for every reader, with its notes."""

from __future__ import annotations

import io
import struct

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon import parquet
from nanolab_daemon.pages import Same, Values

ANY_DOUBLE = st.integers(0, 2**64 - 1).map(lambda n: struct.unpack("d", struct.pack("Q", n))[0])


@given(st.lists(ANY_DOUBLE, max_size=50), st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_round_trip_to_the_last_bit(values: list[float], text: str) -> None:
    """Numbers keep all their bits, NaN payloads too; text and notes come back as they were."""
    rows = len(values)
    layout = parquet.Layout.of(
        [
            *(("x (V)", "float64"), ("none", "float64"), ("text", "string"), ("no text", "string")),
            *(("at", "moment"), ("lit", "bool"), ("chip", "int64")),
        ]
    )
    columns: list[Values] = [pa.array(values, pa.float64()), Same(None), Same(text), Same(None)]
    columns += [Same(1757018821635818), Same(True), Same(79)]
    encoded = parquet.encode(layout, columns, rows, {"header": text, "parameters": {"b": text, "a": 1}})
    back, notes = parquet.read(encoded)
    assert back["x (V)"].to_numpy().tobytes() == struct.pack(f"{rows}d", *values)
    assert back["text"].to_pylist() == [text] * rows
    assert back["none"].null_count == back["no text"].null_count == rows
    assert notes["header"] == text
    assert set(notes) == {"header", "parameters"}
    frame = pl.read_parquet(io.BytesIO(encoded))
    assert list(frame.schema.values()) == [
        *(pl.Float64, pl.Float64, pl.String, pl.String),
        *(pl.Datetime("us", "UTC"), pl.Boolean, pl.Int64),
    ]


def test_same_table_gives_same_bytes() -> None:
    """Encoding depends on nothing but the table and the notes, so that a run made again has the same hash."""
    layout = parquet.Layout.of([("x", "float64"), ("s", "string")])
    columns: list[Values] = [pa.array([1.0, 2.0]), Same("a")]
    once, again = (parquet.encode(layout, columns, 2, {"b": "1", "a": "2"}) for _ in range(2))
    assert bytes(once) == bytes(again)


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"x" * 100])
def test_what_is_no_parquet_is_refused(damage: bytes) -> None:
    """Damage is told as an Arrow error, never as a crash."""
    with pytest.raises(pa.ArrowInvalid):
        parquet.read(damage)
