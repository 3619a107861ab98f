"""One staged run in, its segments out: the second stage, run by the workers of the second pool.

Reads the staged file only; how it is to be cut stands in its notes. Knows neither raw files nor the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nanolab_daemon import manifest, parquet, phases, presence, publish, sweeps, tables
from nanolab_daemon.model import OutputFile, Segment, SegmentKind
from nanolab_daemon.pages import Counting, Same, Values
from nanolab_daemon.tasks import (
    CannotWrite,
    HouseJob,
    InspectJob,
    ManifestJob,
    ManifestWritten,
    Segmented,
    SegmentJob,
    SegmentOutcome,
    StagedFileLost,
    WorkSettings,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Handler = Callable[[Sequence[SegmentJob | HouseJob], Callable[[int], None]], list[SegmentOutcome]]


def segment_batch(settings: WorkSettings) -> Handler:
    """Make the handler that a worker of the segmentation pool runs for each batch."""
    stage_root, output_root = Path(settings.stage_root), Path(settings.output_root)
    temp = publish.temp_folder(output_root, settings.owner)
    roots = presence.Roots(settings.stage_root, settings.output_root)

    def handle(jobs: Sequence[SegmentJob | HouseJob], began: Callable[[int], None]) -> list[SegmentOutcome]:
        outcomes: list[SegmentOutcome] = []
        made: list[tuple[int, Path]] = []
        for at, job in enumerate(jobs):
            began(at)
            if isinstance(job, ManifestJob):
                outcomes.append(_write_manifest(job, stage_root, settings.owner, partial(began, at)))
                continue
            if isinstance(job, InspectJob):
                outcomes.append(presence.look(job, roots))
                continue
            outcome: SegmentOutcome
            try:
                outcome, bundle = _make(job, stage_root, temp, settings.min_segment_points)
            except OSError as error:
                reading = str(error.filename).startswith(f"{stage_root}/")
                outcome, bundle = CannotWrite.of(error, stage_root if reading else output_root), None
            outcomes.append(outcome)
            if bundle is not None:
                made.append((at, bundle))
        began(len(jobs))
        if made:
            _publish(jobs, outcomes, made, output_root, temp, aside=settings.aside)
        return outcomes

    return handle


def _make(
    job: SegmentJob, stage_root: Path, temp: Path, min_points: int
) -> tuple[Segmented | StagedFileLost, Path | None]:
    try:
        run = _read((stage_root / job.stage_path).read_bytes())
        notes = run.notes
        if job.source_sha256 not in ("", notes["source_sha256"]):
            raise ValueError("it is made from other bytes than the ledger says")
        cut = cut_run(run.data, notes, min_points)
    except (FileNotFoundError, NotADirectoryError, pa.ArrowInvalid, KeyError, ValueError) as error:
        return StagedFileLost(job.run_id, f"{job.stage_path} can't be read back: {error}"), None
    files: dict[str, memoryview] = {}
    outputs: list[OutputFile] = []
    common: dict[str, object] = {key: notes[key] for key in ("run_id", "source_sha256", "version") if key in notes}
    common["segment_kind"] = str(cut.kind)
    layout = tables.segment_layout(tuple(run.data.column_names), timed=cut.kind is not SegmentKind.SWEEP)
    for number, (columns, rows) in enumerate(_tables(run, cut)):
        encoded = parquet.encode(layout, columns, rows, common)
        name = f"segment={number}/part-000.parquet"
        files[name] = encoded
        outputs.append(parquet.described(f"{job.target}/{name}", encoded, rows))
    outside = run.data.num_rows - sum(file.rows for file in outputs)
    outcome = Segmented(job.run_id, notes["source_sha256"], tuple(outputs), outside, None)
    return outcome, publish.write_bundle(temp, files) if files else None


@dataclass(frozen=True, slots=True)
class _Run:
    """A staged run: the table of its data columns, the values of its constant ones by name, its notes."""

    data: pa.Table
    constants: Mapping[str, Hashable]
    notes: Mapping[str, str]


def _read(staged: bytes) -> _Run:
    """Read a staged run; of the constant columns only what its notes say, unless they are older than that."""
    how: dict[str, Any] = {}

    def wanted(notes: Mapping[str, str]) -> list[str] | None:
        how.update(json.loads(notes["segments"]))
        return how.get("data")

    table, notes = parquet.read(staged, wanted)
    values = how.get("constants")
    if values is None:
        values = {name: _value(table.column(name)[0]) for name, _ in tables.RUN}
        table = table.drop_columns(list(values))
    for column in table.schema:
        if not pa.types.is_float64(column.type):
            raise ValueError(f"{column.name} is {column.type}")
    return _Run(table, tables.checked(values), notes)


def _value(scalar: pa.Scalar) -> Hashable:
    """Give a value as the notes have it: a moment in µs since 1970."""
    value: Hashable = scalar.value if isinstance(scalar, pa.TimestampScalar) else scalar.as_py()
    return value


@dataclass(frozen=True, slots=True)
class Cut:
    """A run's segments in order, of which kind they are, and the times of its rows, shape (rows,), if it has any."""

    kind: SegmentKind
    segments: list[Segment]
    times_s: NDArray[np.float64] | None


def cut_run(run: pa.Table, notes: Mapping[str, str], min_points: int) -> Cut:
    """Cut a staged run as its notes say; KeyError or ValueError if they, or the column they name, are not there."""
    note = json.loads(notes["segments"])
    kind = SegmentKind(note["kind"])
    values = run.column(note["column"]).to_numpy()
    times = run.column(note["time"]).to_numpy() if note["time"] is not None else None
    if kind is SegmentKind.SWEEP:
        return Cut(kind, sweeps.cut(values, note["step"], min_points), times)
    return Cut(kind, phases.cut(values, kind, min_points), times)


def _tables(run: _Run, cut: Cut) -> Iterator[tuple[list[Values], int]]:
    """Give each segment's columns, those of the segment after the staged ones, and how many rows it has."""
    data = [_values(column) for column in run.data.columns]
    same = tables.constants(tables.RUN, run.constants)
    for number, piece in enumerate(cut.segments):
        rows = piece.stop - piece.start
        own: dict[str, Hashable] = {
            "segment_id": number,
            "segment_type": piece.label,
            "segment_v_start": piece.v_start,
            "segment_v_end": piece.v_end,
            "segment_direction": piece.direction,
        }
        columns = [one.slice(piece.start, rows) if isinstance(one, pa.Array) else one for one in data]
        columns += [*same, *tables.constants(tables.SEGMENT, own), Counting()]
        if cut.kind is not SegmentKind.SWEEP:
            columns += tables.constants(tables.TIMES, _times(cut, piece))
        yield columns, rows


def _values(column: pa.ChunkedArray) -> Values:
    if column.null_count == len(column):
        return Same(None)
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _times(cut: Cut, piece: Segment) -> dict[str, Hashable]:
    """Give the times of a phase's first and last row; a row that lost its time does not take the phase's away."""
    times = np.empty(0) if cut.times_s is None else cut.times_s[piece.start : piece.stop]
    known = times[~np.isnan(times)]
    first, last = (float(known[0]), float(known[-1])) if known.size else (None, None)
    return {"segment_t_start_s": first, "segment_t_end_s": last}


def _publish(
    jobs: Sequence[SegmentJob | HouseJob],
    outcomes: list[SegmentOutcome],
    made: Sequence[tuple[int, Path]],
    output_root: Path,
    temp: Path,
    *,
    aside: bool,
) -> None:
    """Sync the contents of all bundles, move them to their places, sync their names: two syncs a batch."""
    try:
        targets = [(bundle, job.target) for at, bundle in made if isinstance(job := jobs[at], SegmentJob)]
        publish.announce(temp, targets)
        publish.sync(output_root)
        for at, bundle in made:
            job, outcome = jobs[at], outcomes[at]
            assert isinstance(job, SegmentJob)
            assert isinstance(outcome, Segmented)
            if not aside:
                outcomes[at] = _place(outcome, bundle, output_root, job.target)
            elif _holds(outcome, output_root, job.target):
                publish.discard(bundle)
            else:
                outcomes[at] = replace(outcome, bundle=str(bundle))
        if not aside:
            publish.sync(output_root)
    except OSError as error:
        failed = CannotWrite.of(error, output_root)
        for at, bundle in made:
            publish.discard(bundle)
            outcomes[at] = failed


def _place(outcome: Segmented, bundle: Path, output_root: Path, target: str) -> Segmented:
    """Publish a run's segments if their place is free, or holds these very bytes."""
    try:
        placed = publish.place(bundle, output_root / target)
    except (NotADirectoryError, FileExistsError):
        if publish.clear_the_way(output_root, output_root / target) is None:
            raise
        return _place(outcome, bundle, output_root, target)
    if placed:
        return outcome
    if _holds(outcome, output_root, target):
        publish.discard(bundle)
        return outcome
    return replace(outcome, bundle=str(bundle))


def _holds(outcome: Segmented, output_root: Path, target: str) -> bool:
    files = [(one.path.removeprefix(f"{target}/"), one.size_bytes, one.sha256) for one in outcome.outputs]
    there = {one.name for one in (output_root / target).glob("segment=*")}
    return len(there) == len(files) and publish.holds_exactly(output_root / target, files)


def _write_manifest(
    job: ManifestJob, stage_root: Path, owner: str, on_part: Callable[[], None]
) -> ManifestWritten | CannotWrite:
    try:
        runs = manifest.write(Path(job.ledger), stage_root, owner, on_part)
    except OSError as error:
        return CannotWrite.of(error, stage_root)
    return ManifestWritten(job.serial, runs)
