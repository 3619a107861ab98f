"""The points of one measurement, cut into its segments: of a published run, or of a raw file as far as it is written.

A raw file is opened for reading, read and closed, as the first stage does it; nothing is kept and nothing is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanolab_daemon import parquet, rawfile
from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord, RunRecord
from nanolab_daemon.config import Config
from nanolab_daemon.errors import EngineError, FileRejectedError, HeaderIncompleteError, UsageError
from nanolab_daemon.facts import Judged, Lab, judge
from nanolab_daemon.header import parse_header
from nanolab_daemon.locate import Located, locate, why_not
from nanolab_daemon.model import FileState, Header, RunFacts
from nanolab_daemon.names import shown_path
from nanolab_daemon.procedures import Registry
from nanolab_daemon.ramps import expectation
from nanolab_daemon.rows import Rows, read_rows
from nanolab_daemon.segment import cut_run
from nanolab_daemon.settings import counted, did_you_mean, escaped
from nanolab_daemon.web.curves import axes

if TYPE_CHECKING:
    from nanolab_daemon.model import Segment

Values: TypeAlias = NDArray[np.float64]

_PUBLISHED = (FileState.STAGED, FileState.SEGMENTED)


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows that belong together; `name` is the segment's type, empty for rows that belong to no segment.

    `x` and `y` have the shape (rows,), in the units of their columns.
    """

    number: int | None
    name: str
    direction: str
    first_row: int
    x: Values = field(repr=False)
    y: Values = field(repr=False)


@dataclass(frozen=True, slots=True)
class Trace:
    """A measurement to be drawn. `state` is the file's, as far as it is known; `notes` say what is odd about it."""

    file: str
    state: str
    run_id: str
    proc: str
    date: str
    chip: str
    rows: int
    complete: bool | None
    expected_rows: int | None
    x: str
    y: str
    pieces: tuple[Piece, ...]
    notes: tuple[str, ...] = ()


def trace(config: Config, text: str, *, x: str | None = None, y: str | None = None) -> Trace:
    """Read a measurement; `text` is a run id, the beginning of one, or the path of a raw file in any form.

    `x` and `y` name columns to draw other than the usual ones. UsageError if nothing is meant or a column is not
    there, EngineError if there is nothing that can be drawn.
    """
    registry = Registry.builtin().with_overrides(config.procedures)
    catalog = Catalog.open_to_read(config.paths.state / FILE_NAME)
    try:
        located = locate(text, config, catalog)
        record = catalog.file(located.path) if catalog is not None and located.path is not None else None
        run = catalog.run(record.run_id) if catalog is not None and record is not None and record.run_id else None
    finally:
        if catalog is not None:
            catalog.close()
    if run is not None and record is not None and _stands(located, record, run):
        return _published(config, registry, record, run, x, y)
    return _raw(config, registry, located, record, x, y)


def _stands(located: Located, record: FileRecord, run: RunRecord) -> bool:
    """Tell whether the published run is what the file holds: it may have grown, or have lost against another."""
    if located.by_run_id:
        return True
    if record.state not in _PUBLISHED or run.source != record.path:
        return False
    try:
        return rawfile.fingerprint(os.lstat(located.full)) == record.fingerprint
    except OSError:
        return True  # its raw file has gone: the run is what there is


# -- a published run ------------------------------------------------------------------------------------------------


def _published(
    config: Config, registry: Registry, record: FileRecord, run: RunRecord, x: str | None, y: str | None
) -> Trace:
    path = config.paths.stage / run.stage_file.path
    try:
        table, notes = parquet.read(path.read_bytes())
    except (OSError, pa.ArrowInvalid) as error:
        raise EngineError(
            f"The run {run.run_id} can't be read: {error}.",
            advice="`nanolab-daemon verify` tells what is wrong, `nanolab-daemon verify --repair` makes it again.",
        ) from error
    columns = _measured(table)
    told = []
    if run.facts.bad_rows_skipped:
        told.append(f"{counted(run.facts.bad_rows_skipped, 'line')} that could not be read left out, as was asked.")
    if run.source_missing:
        told.append("Its raw file has gone; this is the published run.")
    return _made(
        config, registry, run.facts, columns, notes,
        file=shown_path(run.source), state=str(record.state), run_id=run.run_id, x=x, y=y, notes=told,
    )  # fmt: skip


def _measured(table: pa.Table) -> dict[str, Values]:
    """Give the columns of measured numbers: those before what is constant over the run."""
    names = table.schema.names
    names = names[: names.index("run_id")] if "run_id" in names else names
    return {name: table.column(name).to_numpy().astype(np.float64) for name in names}


# -- a raw file -----------------------------------------------------------------------------------------------------


def _raw(
    config: Config,
    registry: Registry,
    located: Located,
    record: FileRecord | None,
    x: str | None,
    y: str | None,
) -> Trace:
    shown = shown_path(located.path if located.path is not None else located.full)
    try:
        header, rows, judged = _read(config, registry, located)
    except (FileRejectedError, HeaderIncompleteError) as error:
        raise EngineError(
            f"{shown} can't be drawn: {error.message}", advice=f"More about it: nanolab-daemon why {shown}"
        ) from error
    except OSError as error:
        reason = why_not(located, config) if isinstance(error, FileNotFoundError) else ""
        raise EngineError(f"{shown} can't be read: {reason or error.strerror}") from error
    hoped = expectation(registry.get(header.procedure), header)
    if judged is None and record is not None and record.rejection is not None:
        raise EngineError(f"{shown} is refused: {record.reason}", advice=f"More about it: nanolab-daemon why {shown}")
    if judged is None:
        of = f" of {max(hoped.rows):,}" if hoped.rows else ""
        raise EngineError(
            f"{shown} has no rows yet (0{of}): there is nothing to draw.",
            advice="Ask again when the measurement has begun.",
        )
    columns = {
        name: np.full(rows.count, np.nan) if at is None else rows.columns[at].to_numpy() for name, at in judged.layout
    }
    notes = {"segments": json.dumps(asdict(judged.segments))} if judged.segments is not None else {}
    told = []
    if rows.bad_rows_skipped:
        first = rows.first_bad[0] if rows.first_bad else "?"
        many = rows.bad_rows_skipped > 1
        told.append(
            f"{counted(rows.bad_rows_skipped, 'line')} that could not be read left out, the first of them {first}."
            if many
            else f"Line {first} is left out: it is no row of numbers."
        )
    if record is None:
        told.append("Not known to the ledger; drawn from the raw file.")
    elif record.state in _PUBLISHED:
        told.append("It has changed since its run was published; drawn from the raw file.")
    return _made(
        config, registry, judged.facts, columns, notes,
        file=shown, state=str(record.state) if record else "", run_id="", x=x, y=y, notes=told,
    )  # fmt: skip


def _read(config: Config, registry: Registry, located: Located) -> tuple[Header, Rows, Judged | None]:
    """Read a file as the first stage does, but for what it would refuse a line for."""
    root, path = (
        os.path.split(located.full) if located.path is None else (os.fsencode(config.paths.raw), located.path)
    )
    contents = rawfile.read(root, path, config.limits.max_file_mb << 20)
    header = parse_header(contents.data, max_bytes=config.limits.max_header_bytes)
    body = contents.data[header.data_offset : contents.data.rfind(b"\n") + 1]
    rows = read_rows(body, len(header.columns), header.data_line, skip_bad=True)
    lab = Lab(registry, ZoneInfo(config.lab.timezone))
    return header, rows, judge(lab, header, rows, path, contents.fingerprint.mtime_ns, body)


# -- both -----------------------------------------------------------------------------------------------------------


def _made(
    config: Config,
    registry: Registry,
    facts: RunFacts,
    columns: Mapping[str, Values],
    marks: Mapping[str, str],
    *,
    file: str,
    state: str,
    run_id: str,
    x: str | None,
    y: str | None,
    notes: list[str],
) -> Trace:
    filled = [name for name, values in columns.items() if not np.isnan(values).all()]
    usual = axes(registry.get(facts.proc), filled) or axes(registry.get(facts.proc), list(columns))
    if usual is None:
        raise EngineError(f"{file} has fewer than two columns: there is no curve to draw.")
    across, up = _column(x, usual.x, columns), _column(y, usual.y, columns)
    chip = " ".join(
        str(part)
        for part in (
            facts.chip_group,
            f"{'' if facts.chip_number is None else facts.chip_number}{facts.sample or ''}",
        )
        if part
    )
    return Trace(
        file=file,
        state=state,
        run_id=run_id or facts.run_id,
        proc=facts.proc,
        date=facts.date,
        chip=escaped(chip),
        rows=facts.rows,
        complete=facts.completeness.complete,
        expected_rows=facts.completeness.expected_rows,
        x=across,
        y=up,
        pieces=tuple(_pieces(config, columns, marks, across, up)),
        notes=tuple(notes),
    )


def _column(wanted: str | None, usual: str, columns: Mapping[str, Values]) -> str:
    """Find the column that is meant: by its name, or by the name without its unit."""
    if wanted is None:
        return usual
    if wanted in columns:
        return wanted
    bare = {name.partition(" (")[0].lower(): name for name in columns}
    if wanted.lower() in bare:
        return bare[wanted.lower()]
    raise UsageError(
        f"There is no column {escaped(wanted)}{did_you_mean(wanted, columns)}.",
        advice=f"There are: {', '.join(map(escaped, columns))}.",
    )


def _pieces(
    config: Config, columns: Mapping[str, Values], marks: Mapping[str, str], across: str, up: str
) -> list[Piece]:
    """Cut the curve as the second stage does; what lies between the segments is a piece without a name."""
    x, y = columns[across], columns[up]
    segments: list[Segment] = []
    if "segments" in marks:
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
        segments = cut_run(table, marks, config.segments.min_segment_points).segments
    found: list[Piece] = []
    edges = [(0, 0), *((one.start, one.stop) for one in segments), (len(x), len(x))]
    for number, ((_, before), (start, stop)) in enumerate(pairwise(edges)):
        if start > before:
            found.append(Piece(None, "", "", before, x[before:start], y[before:start]))
        if number < len(segments):
            one = segments[number]
            found.append(Piece(number, one.label, one.direction, start, x[start:stop], y[start:stop]))
    return found


def as_data(found: Trace) -> dict[str, object]:
    """Give a trace as plain data for JSON; what is no number there is null."""
    pieces = [
        {
            "segment_id": piece.number,
            "segment_type": piece.name or None,
            "direction": piece.direction or None,
            "first_row": piece.first_row,
            "x": _numbers(piece.x),
            "y": _numbers(piece.y),
        }
        for piece in found.pieces
    ]
    told = asdict(found) | {"notes": list(found.notes)}
    del told["pieces"]
    return {
        **told,
        "segments": [piece for piece in pieces if piece["segment_id"] is not None],
        "outside": [piece for piece in pieces if piece["segment_id"] is None],
    }


def _numbers(values: Values) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]
