"""One staged run in, its segments out: the second stage, run by the workers of the second pool.

Reads the staged file only; what the sweep is stands in its notes. Knows neither raw files nor the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from nanolab_daemon import manifest, parquet, publish
from nanolab_daemon.model import OutputFile
from nanolab_daemon.sweeps import Segment, cut
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
                outcome, bundle = _cannot_write(error, output_root), None
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
        contents = (stage_root / job.stage_path).read_bytes()
        table, notes = parquet.read(contents)
        sweep = json.loads(notes["sweep"])
        values = table.column(sweep["column"]).to_numpy()
    except (FileNotFoundError, pa.ArrowInvalid, KeyError, ValueError) as error:
        return StagedFileLost(job.run_id, f"{job.stage_path} can't be read back: {error}"), None
    pieces = cut(values, sweep["step"], min_points)
    files: dict[str, memoryview] = {}
    outputs: list[OutputFile] = []
    common: dict[str, object] = {key: notes[key] for key in ("run_id", "source_sha256", "version") if key in notes}
    for number, piece in enumerate(pieces):
        encoded = parquet.encode(_table(table, number, piece), common)
        name = f"segment={number}/part-000.parquet"
        files[name] = encoded
        outputs.append(parquet.described(f"{job.target}/{name}", encoded, piece.stop - piece.start))
    inside = sum(piece.stop - piece.start for piece in pieces)
    outcome = Segmented(job.run_id, notes["source_sha256"], tuple(outputs), table.num_rows - inside, None)
    return outcome, publish.write_bundle(temp, files) if files else None


def _table(run: pa.Table, number: int, piece: Segment) -> pa.Table:
    """Give one segment's rows with the contract's segment columns after the staged ones."""
    rows = piece.stop - piece.start
    table = run.slice(piece.start, rows)
    for name, kind, value in (
        ("segment_id", pa.int64(), number),
        ("segment_type", pa.string(), piece.kind),
        ("segment_v_start", pa.float64(), piece.v_start),
        ("segment_v_end", pa.float64(), piece.v_end),
        ("segment_direction", pa.string(), piece.direction),
    ):
        table = table.append_column(name, parquet.constant(kind, value, rows))
    return table.append_column("point_in_segment", pa.array(np.arange(rows, dtype=np.int64)))


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
            if not publish.place(bundle, output_root / job.target):
                outcomes[at] = replace(outcome, bundle=str(bundle))
        publish.sync(output_root)
    except OSError as error:
        failed = _cannot_write(error, output_root)
        for at, bundle in made:
            publish.discard(bundle)
            outcomes[at] = failed


def _write_manifest(job: ManifestJob, stage_root: Path, owner: str) -> ManifestWritten | CannotWrite:
    try:
        runs = manifest.write(Path(job.ledger), stage_root, owner)
    except OSError as error:
        return _cannot_write(error, stage_root)
    return ManifestWritten(job.serial, runs)


def _cannot_write(error: OSError, root: Path) -> CannotWrite:
    return CannotWrite(f"{error.filename or root}: {error.strerror or error}", error.errno or 0)
