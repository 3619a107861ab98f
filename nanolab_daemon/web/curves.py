"""Curves: which two columns of a measurement to draw, thinned so that nothing that stands out is lost.

Reads published Parquet; never more than the columns that it draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nanolab_daemon.model import SegmentKind
from nanolab_daemon.parquet import META_PREFIX
from nanolab_daemon.procedures import Procedure, Registry

Values: TypeAlias = NDArray[np.float64]

SENSOR = ("Plate T (degC)", "Ambient T (degC)", "Clock (ms)", "Timestamp")
PLOT_POINTS = 4000
THUMB_POINTS = 160


@dataclass(frozen=True, slots=True)
class Axes:
    """The columns to draw, by their present names."""

    x: str
    y: str


@dataclass(frozen=True, slots=True)
class Series:
    """One piece of a curve; `name` is the segment's type, empty for all rows of the run."""

    name: str
    x: Values
    y: Values


@dataclass(frozen=True, slots=True)
class Curve:
    """A run's curve whole, its segments, and what its file tells of its origin."""

    axes: Axes | None
    whole: Series | None = None
    segments: tuple[Series, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


def axes(procedure: Procedure | None, columns: Sequence[str]) -> Axes | None:
    """Choose what to draw of some columns; None where there are fewer than two."""
    if len(columns) < 2:
        return None
    x = columns[0]
    level = None
    if procedure is not None:
        swept = procedure.swept if procedure.segments in (SegmentKind.SWEEP, None) else None
        x = next((name for name in (swept, procedure.time) if name in columns), x) or x
        level = procedure.level
    rest = [name for name in columns if name != x]
    measured = [name for name in rest if name not in SENSOR and name != level]
    return Axes(x, (measured or rest)[0])


def thinned(x: Values, y: Values, most: int) -> tuple[Values, Values]:
    """Give about so many points, in their order: of each stretch the lowest and the highest; the ends stay."""
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), max(2, most // 2) + 1).astype(int)
    kept = {0, len(x) - 1}
    for start, stop in pairwise(edges.tolist()):
        if stop > start:
            piece = y[start:stop]
            kept |= {start + int(np.argmin(piece)), start + int(np.argmax(piece))}
    chosen = np.array(sorted(kept))
    return x[chosen], y[chosen]


def finite(x: Values, y: Values) -> tuple[Values, Values]:
    """Leave out the points that can't be drawn."""
    good = np.isfinite(x) & np.isfinite(y)
    return x[good], y[good]


def thumb(file: Path, procedure: Procedure | None) -> tuple[Values, Values]:
    """Read a published run's curve, as much as a thumbnail shows. OSError or ArrowInvalid if it can't be read."""
    with pq.ParquetFile(file) as opened:
        chosen = axes(procedure, _measured(opened.schema_arrow))
        if chosen is None:
            return np.empty(0), np.empty(0)
        x, y = _two(opened, chosen)
    return thinned(*finite(x, y), THUMB_POINTS)


def curve(file: Path, segments: Iterable[Path], registry: Registry, proc: str) -> Curve:
    """Read a published run and its segments. OSError or ArrowInvalid if one can't be read."""
    with pq.ParquetFile(file) as opened:
        notes = _notes(opened)
        chosen = axes(registry.get(proc), _measured(opened.schema_arrow))
        if chosen is None:
            return Curve(None, notes=notes)
        whole = Series("", *thinned(*finite(*_two(opened, chosen)), PLOT_POINTS))
    pieces = []
    for path in segments:
        with pq.ParquetFile(path) as opened:
            kind = opened.read(columns=["segment_type"], use_threads=False).column(0)
            name = str(kind[0]) if len(kind) else ""
            pieces.append(Series(name, *thinned(*finite(*_two(opened, chosen)), PLOT_POINTS // 2)))
    return Curve(chosen, whole, tuple(pieces), notes)


def _measured(schema: pa.Schema) -> list[str]:
    """Give the columns of measured numbers: those before what is constant over the run."""
    names = list(schema.names)
    return names[: names.index("run_id")] if "run_id" in names else names


def _two(opened: pq.ParquetFile, chosen: Axes) -> tuple[Values, Values]:
    table = opened.read(columns=[chosen.x, chosen.y], use_threads=False)
    x, y = (table.column(name).to_numpy(zero_copy_only=False).astype(np.float64) for name in (chosen.x, chosen.y))
    return x, y


def _notes(opened: pq.ParquetFile) -> dict[str, str]:
    prefix = META_PREFIX.encode()
    pairs = opened.metadata.metadata or {}
    return {
        key.removeprefix(prefix).decode(): value.decode("utf-8", "replace")
        for key, value in pairs.items()
        if key.startswith(prefix)
    }
