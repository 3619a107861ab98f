"""What workers do for `--dry-run` and `verify`: read, judge, compare. They write nothing at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

from nanolab_daemon import parquet
from nanolab_daemon.facts import Lab
from nanolab_daemon.plan import CutQuestion, Planned
from nanolab_daemon.procedures import Registry
from nanolab_daemon.segment import cut_run
from nanolab_daemon.stage import stage_file
from nanolab_daemon.tasks import Staged, StageJob, WorkSettings
from nanolab_daemon.verify import FileAnswer, FileQuestion, ManifestAnswer, ManifestQuestion

Began = Callable[[int], None]
Question = FileQuestion | ManifestQuestion


def plan_batch(settings: WorkSettings) -> Callable[[Sequence[StageJob | CutQuestion], Began], list[Planned]]:
    """Make the handler of the workers that try files out."""
    lab = Lab(registry=Registry.builtin().with_overrides(settings.procedures), timezone=ZoneInfo(settings.timezone))
    stage_root = Path(settings.stage_root)

    def answer(job: StageJob | CutQuestion) -> Planned:
        if isinstance(job, CutQuestion):
            try:
                return Planned(None, _segments((stage_root / job.stage_path).read_bytes(), settings))
            except (OSError, pa.ArrowInvalid):
                return Planned(None, None)  # lost or damaged: a pass makes it again from its raw file
        outcome, encoded = stage_file(replace(job, dry=False), settings, lab)  # encodes in memory, writes nothing
        is_cut = isinstance(outcome, Staged) and outcome.facts.is_cut
        return Planned(outcome, _segments(encoded, settings) if is_cut and encoded is not None else None)

    def handle(jobs: Sequence[StageJob | CutQuestion], began: Began) -> list[Planned]:
        answers = []
        for at, job in enumerate(jobs):
            began(at)
            answers.append(answer(job))
        return answers

    return handle


def _segments(staged: bytes | memoryview, settings: WorkSettings) -> int | None:
    table, notes = parquet.read(staged)
    return len(cut_run(table, notes, settings.min_segment_points).segments) if "segments" in notes else None


def verify_batch(_settings: None) -> Callable[[Sequence[Question], Began], list[FileAnswer | ManifestAnswer]]:
    """Make the handler of the workers that look into published files."""

    def handle(questions: Sequence[Question], began: Began) -> list[FileAnswer | ManifestAnswer]:
        answers: list[FileAnswer | ManifestAnswer] = []
        for at, question in enumerate(questions):
            began(at)
            answers.append(_examine(question) if isinstance(question, FileQuestion) else _manifest(question))
        return answers

    return handle


def _examine(question: FileQuestion) -> FileAnswer:
    try:
        contents = Path(question.path).read_bytes()
    except FileNotFoundError:
        return FileAnswer("is not there")
    except OSError as error:
        return FileAnswer(f"can't be read: {error.strerror}")
    if len(contents) != question.size_bytes:
        return FileAnswer(f"has {len(contents):,} bytes, not {question.size_bytes:,}")
    if hashlib.sha256(contents).hexdigest() != question.sha256:
        return FileAnswer("holds other bytes than were published (its SHA-256 differs)")
    try:
        with pq.ParquetFile(pa.BufferReader(contents)) as file:
            rows = file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        return FileAnswer(f"is no Parquet file: {error}")
    return FileAnswer("" if rows == question.rows else f"has {rows:,} rows, not {question.rows:,}")


def _manifest(question: ManifestQuestion) -> ManifestAnswer:
    names = ["run_id", "rows", "revision", "status", "segments"]
    try:
        with pq.ParquetFile(question.path) as file:
            columns = [column.to_pylist() for column in file.read(names, use_threads=False).columns]
    except FileNotFoundError:
        return ManifestAnswer("is not there", {})
    except (pa.ArrowException, OSError) as error:
        return ManifestAnswer(f"can't be read: {error}", {})
    runs = {run_id: (*row,) for run_id, *row in zip(*columns, strict=True)}
    if len(runs) < len(columns[0]):
        return ManifestAnswer(f"has {len(columns[0]) - len(runs)} runs twice", {})
    return ManifestAnswer("", runs)
