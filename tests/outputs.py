"""What is published, read back whole, and compared to the last bit: the yardstick of all convergence tests.

`snapshot` reads every Parquet file below the two output roots; `assert_equal` compares two of them. Only the
bookkeeping that the contract names may be left out: `ignoring=BOOKKEEPING` where copies, moves or orders differ.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import polars as pl

SOURCE = frozenset({"source_file"})
"""Which of several identical copies was the source, or where the source has moved since: bookkeeping."""

TIMES = frozenset({"staged_at", "segmented_at", "revision"})
"""Columns of the manifest that tell when and how often, not what."""

BOOKKEEPING = SOURCE | TIMES

RUN_COLUMNS = {
    "run_id": pl.String,
    "proc": pl.String,
    "start_dt": pl.Datetime("us", "UTC"),
    "source_file": pl.String,
    "with_light": pl.Boolean,
    "wavelength_nm": pl.Float64,
    "laser_voltage_V": pl.Float64,
    "chip_group": pl.String,
    "chip_number": pl.Int64,
    "sample": pl.String,
    "procedure_version": pl.String,
}
"""What the contract adds to the data columns of a run, and their types."""

SEGMENT_COLUMNS = {
    "segment_id": pl.Int64,
    "segment_type": pl.String,
    "segment_v_start": pl.Float64,
    "segment_v_end": pl.Float64,
    "segment_direction": pl.String,
    "point_in_segment": pl.Int64,
}
"""What it adds to those for a segment."""

TEMPORARY = ".nanolab-tmp"
LAB_MARK = ".nanolab-lab"

Snapshot = Mapping[str, pl.DataFrame]


def published(root: Path) -> list[str]:
    """Give the path of every file below an output root, relative and sorted, but those made aside."""
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if not path.is_dir() and TEMPORARY not in path.relative_to(root).parts and path.name != LAB_MARK
    )


def leftovers(*roots: Path) -> list[str]:
    """Give what should not be there once nobody works: temporary and strange files, empty partitions."""
    found: list[str] = []
    for root in roots:
        for path in root.rglob("*"):
            inside = path.relative_to(root)
            empty = path.is_dir() and not any(path.iterdir()) and "=" in path.name
            strange = path.is_file() and path.suffix != ".parquet" and path.name != LAB_MARK
            if TEMPORARY in inside.parts or empty or strange:
                found.append(str(path))
    return sorted(found)


def snapshot(stage_root: Path, output_root: Path) -> dict[str, pl.DataFrame]:
    """Read every published file; keys are `stage/…` and `output/…` with the path below that root."""
    return {
        f"{name}/{path}": pl.read_parquet(io.BytesIO((root / path).read_bytes()))
        for name, root in (("stage", stage_root), ("output", output_root))
        for path in published(root)
    }


def bits(frame: pl.DataFrame) -> pl.DataFrame:
    """Give a frame whose floats are replaced by their bits; every NaN counts as the same one."""
    return frame.with_columns(_bits_of(frame[name]) for name, kind in frame.schema.items() if kind == pl.Float64)


def _bits_of(column: pl.Series) -> pl.Series:
    nulls = column.is_null()
    values = column.fill_null(0.0).to_numpy().copy()
    values[np.isnan(values)] = np.nan
    found = pl.Series(column.name, values.view(np.uint64))
    return found.set(nulls, None)


def differences(a: Snapshot, b: Snapshot, *, ignoring: Collection[str] = ()) -> list[str]:
    """Say in words what differs: files, columns and their types, then the first row and column that does."""
    words = [f"only in the first: {path}" for path in sorted(a.keys() - b.keys())]
    words += [f"only in the second: {path}" for path in sorted(b.keys() - a.keys())]
    for path in sorted(a.keys() & b.keys()):
        words += _differ(path, a[path], b[path], ignoring)
    return words


def _differ(path: str, one: pl.DataFrame, other: pl.DataFrame, ignoring: Collection[str]) -> list[str]:
    if "_manifest/" in path:
        one, other = one.sort("run_id"), other.sort("run_id")
    one = one.drop(ignoring, strict=False)
    other = other.drop(ignoring, strict=False)
    if list(one.schema.items()) != list(other.schema.items()):
        return [f"{path}: columns differ: {dict(one.schema)} and {dict(other.schema)}"]
    if one.height != other.height:
        return [f"{path}: {one.height} rows and {other.height}"]
    left, right = bits(one), bits(other)
    for name in one.columns:
        same = left[name].eq_missing(right[name])
        if not same.all():
            row = (~same).arg_true()[0]
            return [f"{path}: {name!r} in row {row}: {one[name][row]!r} and {other[name][row]!r}"]
    return []


def assert_equal(a: Snapshot, b: Snapshot, *, ignoring: Collection[str] = ()) -> None:
    """Fail unless both hold the same files with the same columns and, bit for bit, the same values."""
    words = differences(a, b, ignoring=ignoring)
    assert not words, "\n".join(words[:20])
