"""The columns of the published files: which they are, in what order, of what type.

Knows neither instrument files nor segments: it is given values and rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache

from nanolab_daemon.pages import Kind, Same, Values
from nanolab_daemon.parquet import Layout

Columns = Sequence[tuple[str, Kind]]

RUN: Columns = (
    ("run_id", "string"),
    ("proc", "string"),
    ("start_dt", "moment"),
    ("source_file", "string"),
    ("with_light", "bool"),
    ("wavelength_nm", "float64"),
    ("laser_voltage_V", "float64"),
    ("chip_group", "string"),
    ("chip_number", "int64"),
    ("sample", "string"),
    ("procedure_version", "string"),
)
"""Constant over a run; they follow its data columns."""

SEGMENT: Columns = (
    ("segment_id", "int64"),
    ("segment_type", "string"),
    ("segment_v_start", "float64"),
    ("segment_v_end", "float64"),
    ("segment_direction", "string"),
)
"""Constant over a segment; they follow those of its run, and `point_in_segment` follows them."""

TIMES: Columns = (("segment_t_start_s", "float64"), ("segment_t_end_s", "float64"))
"""Constant over a phase; they come last."""

_TYPES: dict[Kind, type | tuple[type, ...]] = {
    "string": str,
    "int64": int,
    "moment": int,
    "float64": (int, float),
    "bool": bool,
}


@lru_cache(maxsize=256)
def run_layout(data: tuple[str, ...]) -> Layout:
    """Lay out a staged run with these data columns."""
    return Layout.of([*((name, "float64") for name in data), *RUN])


@lru_cache(maxsize=256)
def segment_layout(data: tuple[str, ...], *, timed: bool) -> Layout:
    """Lay out the segments of a run with these data columns; `timed`: they are phases."""
    own = (*SEGMENT, ("point_in_segment", "int64"), *(TIMES if timed else ()))
    return Layout.of([*((name, "float64") for name in data), *RUN, *own])


def constants(columns: Columns, values: Mapping[str, Hashable]) -> list[Values]:
    """Make columns of one value each."""
    return [Same(values[name]) for name, _ in columns]


def checked(values: Mapping[str, Hashable]) -> Mapping[str, Hashable]:
    """Give what a run's constants are read back as; KeyError or ValueError if they are none."""
    for name, kind in RUN:
        value = values[name]
        if value is None:
            continue
        right = isinstance(value, _TYPES[kind]) and isinstance(value, bool) == (kind == "bool")
        if not right or (isinstance(value, int) and not -(1 << 63) <= value < 1 << 63):
            raise ValueError(f"{name} is {value!r}")
    return values
