"""One staged run in, its segments out: the second stage, run by the workers of the second pool.

Reads the staged file only; how it is to be cut stands in its notes. Knows neither raw files nor the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from nanolab_daemon import manifest, parquet, phases, publish, sweeps
from nanolab_daemon.model import OutputFile, Segment, SegmentKind
from nanolab_daemon.tasks import (
    CannotWrite,
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

Handler = Callable[[Sequence[SegmentJob | ManifestJob], Callable[[int], None]], list[SegmentOutcome]]


def segment_batch(settings: WorkSettings) -> Handler:
    """Make the handler that a worker of the segmentation pool runs for each batch."""
    stage_root, output_root = Path(settings.stage_root), Path(settings.output_root)
    temp = publish.temp_folder(output_root, settings.owner)

    def handle(jobs: Sequence[SegmentJob | ManifestJob], began: Callable[[int], None]) -> list[SegmentOutcome]:
        outcomes: list[SegmentOutcome] = []
        made: list[tuple[int, Path]] = []
        for at, job in enumerate(jobs):
            began(at)
            if isinstance(job, ManifestJob):
                outcomes.append(_write_manifest(job, stage_root, settings.owner))
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
            _publish(jobs, outcomes, made, output_root, temp)
        return outcomes

    return handle


def _make(
    job: SegmentJob, stage_root: Path, temp: Path, min_points: int
) -> tuple[Segmented | StagedFileLost, Path | None]:
    try:
        run = parquet.read((stage_root / job.stage_path).read_bytes())
        if job.source_sha256 not in ("", run[1]["source_sha256"]):
            raise ValueError("it is made from other bytes than the ledger says")
        cut = cut_run(*run, min_points)
    except (FileNotFoundError, NotADirectoryError, pa.ArrowInvalid, KeyError, ValueError) as error:
        return StagedFileLost(job.run_id, f"{job.stage_path} can't be read back: {error}"), None
    table, notes = run
    files: dict[str, memoryview] = {}
    outputs: list[OutputFile] = []
    common: dict[str, object] = {key: notes[key] for key in ("run_id", "source_sha256", "version") if key in notes}
    common["segment_kind"] = str(cut.kind)
    for number, piece in enumerate(cut.segments):
        encoded = parquet.encode(_table(table, number, piece, cut), common)
        name = f"segment={number}/part-000.parquet"
        files[name] = encoded
        outputs.append(parquet.described(f"{job.target}/{name}", encoded, piece.stop - piece.start))
    inside = sum(piece.stop - piece.start for piece in cut.segments)
    outcome = Segmented(job.run_id, notes["source_sha256"], tuple(outputs), table.num_rows - inside, None)
    return outcome, publish.write_bundle(temp, files) if files else None


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


def _table(run: pa.Table, number: int, piece: Segment, cut: Cut) -> pa.Table:
    """Give one segment's rows with the segment columns after the staged ones; phases have their times, too."""
    rows = piece.stop - piece.start
    table = run.slice(piece.start, rows)
    real = pa.float64()
    columns: list[parquet.Constant] = [
        ("segment_id", pa.int64(), number),
        ("segment_type", pa.string(), piece.label),
        ("segment_v_start", real, piece.v_start),
        ("segment_v_end", real, piece.v_end),
        ("segment_direction", pa.string(), piece.direction),
    ]
    for name, kind, value in columns:
        table = table.append_column(name, parquet.constant(kind, value, rows))
    table = table.append_column("point_in_segment", pa.array(np.arange(rows, dtype=np.int64)))
    if cut.kind is SegmentKind.SWEEP:
        return table
    times = np.empty(0) if cut.times_s is None else cut.times_s[piece.start : piece.stop]
    known = times[~np.isnan(times)]  # a row that lost its time does not take the phase's away
    for name, at in (("segment_t_start_s", 0), ("segment_t_end_s", -1)):
        moment = float(known[at]) if known.size else None
        table = table.append_column(name, parquet.constant(real, moment, rows))
    return table


def _publish(
    jobs: Sequence[SegmentJob | ManifestJob],
    outcomes: list[SegmentOutcome],
    made: Sequence[tuple[int, Path]],
    output_root: Path,
    temp: Path,
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
            outcomes[at] = _place(outcome, bundle, output_root, job.target)
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
    files = [(one.path.removeprefix(f"{target}/"), one.size_bytes, one.sha256) for one in outcome.outputs]
    there = {one.name for one in (output_root / target).glob("segment=*")}
    if len(there) == len(files) and publish.holds_exactly(output_root / target, files):
        publish.discard(bundle)
        return outcome
    return replace(outcome, bundle=str(bundle))


def _write_manifest(job: ManifestJob, stage_root: Path, owner: str) -> ManifestWritten | CannotWrite:
    try:
        runs = manifest.write(Path(job.ledger), stage_root, owner)
    except OSError as error:
        return CannotWrite.of(error, stage_root)
    return ManifestWritten(job.serial, runs)
