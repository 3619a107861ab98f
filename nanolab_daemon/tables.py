"""The columns of the published files: which they are, in what order, of what type; and tables of them.

Knows neither instrument files nor segments: it is given values and rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa

from nanolab_daemon.parquet import MOMENT, REAL, TEXT, TRUTH, WHOLE, Layout, constant

Columns = Sequence[tuple[str, pa.DataType]]

RUN = (
    ("run_id", TEXT),
    ("proc", TEXT),
    ("start_dt", MOMENT),
    ("source_file", TEXT),
    ("with_light", TRUTH),
    ("wavelength_nm", REAL),
    ("laser_voltage_V", REAL),
    ("chip_group", TEXT),
    ("chip_number", WHOLE),
    ("sample", TEXT),
    ("procedure_version", TEXT),
)
"""Constant over a run; they follow its data columns."""

SEGMENT = (
    ("segment_id", WHOLE),
    ("segment_type", TEXT),
    ("segment_v_start", REAL),
    ("segment_v_end", REAL),
    ("segment_direction", TEXT),
)
"""Constant over a segment; they follow those of its run, and `point_in_segment` follows them."""

TIMES = (("segment_t_start_s", REAL), ("segment_t_end_s", REAL))
"""Constant over a phase; they come last."""

_OF_ONE_RUN = frozenset({"run_id", "start_dt", "source_file", "segment_t_start_s", "segment_t_end_s"})
_MOST_KEPT_ROWS = 1 << 14
_COUNT = pa.array(np.arange(_MOST_KEPT_ROWS, dtype=np.int64))


@lru_cache(maxsize=256)
def run_layout(data: tuple[str, ...]) -> Layout:
    """Lay out a staged run with these data columns."""
    return Layout.of([*((name, REAL) for name in data), *RUN])


@lru_cache(maxsize=256)
def segment_layout(data: tuple[str, ...], *, timed: bool) -> Layout:
    """Lay out the segments of a run with these data columns; `timed`: they are phases."""
    own = (*SEGMENT, ("point_in_segment", WHOLE), *(TIMES if timed else ()))
    return Layout.of([*((name, REAL) for name in data), *RUN, *own])


def constants(columns: Columns, values: Mapping[str, Hashable], rows: int) -> list[pa.Array]:
    """Make columns of one value each."""
    return [constant(kind, values[name], rows, usual=name not in _OF_ONE_RUN) for name, kind in columns]


def counted(rows: int) -> pa.Array:
    """Make a column that counts the rows from 0."""
    return _COUNT.slice(0, rows) if rows <= _MOST_KEPT_ROWS else pa.array(np.arange(rows, dtype=np.int64))
