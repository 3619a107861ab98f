"""What workers do for `--dry-run`, `verify` and `verify --rebuild`: read, judge, compare. They write nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanolab_daemon import parquet
from nanolab_daemon.errors import NanolabError
from nanolab_daemon.facts import Lab, judge
from nanolab_daemon.header import parse_header
from nanolab_daemon.model import DateOrigin, OutputFile
from nanolab_daemon.names import raw_path
from nanolab_daemon.plan import CutQuestion, Planned
from nanolab_daemon.procedures import unknown_procedure
from nanolab_daemon.published import PART, FolderAnswer, FolderQuestion, NoRun, PublishedRun
from nanolab_daemon.rows import Rows
from nanolab_daemon.segment import cut_run
from nanolab_daemon.stage import lab_of, stage_file
from nanolab_daemon.tasks import Staged, StageJob, WorkSettings
from nanolab_daemon.verify import FileAnswer, FileQuestion, ManifestAnswer, ManifestQuestion

Began = Callable[[int], None]
Question = FileQuestion | ManifestQuestion


def plan_batch(settings: WorkSettings) -> Callable[[Sequence[StageJob | CutQuestion], Began], list[Planned]]:
    """Make the handler of the workers that try files out."""
    lab = lab_of(settings)
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


def published_batch(settings: WorkSettings) -> Callable[[Sequence[FolderQuestion], Began], list[FolderAnswer]]:
    """Make the handler of the workers that read published runs without a ledger."""
    lab = lab_of(settings)

    def handle(questions: Sequence[FolderQuestion], began: Began) -> list[FolderAnswer]:
        answers: list[FolderAnswer] = []
        for at, question in enumerate(questions):
            began(at)
            try:
                answers.append(_published(question.folder, settings, lab))
            except (OSError, pa.ArrowException, NanolabError, KeyError, ValueError) as error:
                answers.append(NoRun(question.folder, f"{type(error).__name__}: {error}"))
        return answers

    return handle


def _published(folder: str, settings: WorkSettings, lab: Lab) -> FolderAnswer:
    """Read a run back by the rules by which raw files are judged; KeyError or ValueError if it is none of ours."""
    path = Path(settings.stage_root, folder, PART)
    contents = path.read_bytes()
    table, notes = parquet.read(contents)
    run_id, source_file = notes["run_id"], str(table.column("source_file")[0].as_py())
    header = parse_header(notes["header"].encode(), max_bytes=settings.max_header_bytes)
    if folder.split("/")[0::2] != [f"proc={header.procedure}", f"run_id={run_id}"]:
        raise ValueError(f"it is {header.procedure} {run_id}")
    names = (lab.registry.get(header.procedure) or unknown_procedure(header.procedure)).canonical_columns(
        header.columns
    )
    columns = tuple(table.column(name).combine_chunks() for name in names)
    rows = Rows(columns, table.num_rows, bad_rows_skipped=int(notes.get("bad_rows_skipped", 0)))
    start_us = table.column("start_dt").cast(pa.int64())[0].as_py()
    judged = judge(lab, header, rows, raw_path(source_file), start_us * 1000, b"")
    if judged is None:
        raise ValueError("it has no rows")
    facts = judged.facts
    if facts.date_origin is DateOrigin.META and facts.run_id != run_id:
        raise ValueError(f"its header is that of {facts.run_id}")
    date = folder.split("/")[1].removeprefix("date=")
    output = parquet.described(f"{folder}/{PART}", memoryview(contents), table.num_rows)
    segments, outside = _read_segments(table, notes, folder, settings) if facts.is_cut else ((), 0)
    return PublishedRun(
        facts=replace(facts, run_id=run_id, date=date, start_us=start_us),
        source_file=source_file,
        source_sha256=notes["source_sha256"],
        version=notes["version"],
        stage_file=output,
        staged_at=path.stat().st_mtime,
        segments=segments,
        rows_outside=outside,
    )


def _read_segments(
    table: pa.Table, notes: Mapping[str, str], folder: str, settings: WorkSettings
) -> tuple[tuple[OutputFile, ...] | None, int]:
    """Read a run's segments back; None if they are not those that its rows are cut into."""
    pieces = cut_run(table, notes, settings.min_segment_points).segments
    outside = table.num_rows - sum(piece.stop - piece.start for piece in pieces)
    proc = folder.partition("/")[0].removeprefix("proc=")
    below = f"{proc.lower()}_segments/{folder}"
    root = Path(settings.output_root)
    there = {path.name for path in (root / below).glob("*")} if (root / below).is_dir() else set()
    if there != {f"segment={number}" for number in range(len(pieces))}:
        return None, outside
    found: list[OutputFile] = []
    for number, piece in enumerate(pieces):
        name = f"{below}/segment={number}/{PART}"
        try:
            contents = (root / name).read_bytes()
            segment, of = parquet.read(contents)
        except (OSError, pa.ArrowException):
            return None, outside
        if of.get("source_sha256") != notes["source_sha256"] or segment.num_rows != piece.stop - piece.start:
            return None, outside
        found.append(parquet.described(name, memoryview(contents), segment.num_rows))
    return tuple(found), outside


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
