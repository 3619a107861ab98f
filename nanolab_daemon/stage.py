"""One raw file in, one run out: the first stage, run by the workers of the first pool.

Judges a file by its bytes alone. Does not know the ledger: which of two files of one run is published, and whether
one may replace another, is decided by the engine.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

from nanolab_daemon import __version__, parquet, publish, rawfile, tables
from nanolab_daemon.errors import FileRejectedError, HeaderIncompleteError, RejectCause
from nanolab_daemon.facts import Judged, Lab, judge
from nanolab_daemon.header import parse_header
from nanolab_daemon.model import WAITING_WORDS, FileState, Header, Rejection, RunFacts
from nanolab_daemon.names import shown_path
from nanolab_daemon.pages import Same, Values
from nanolab_daemon.procedures import Registry
from nanolab_daemon.rows import Rows, read_rows
from nanolab_daemon.settings import escaped
from nanolab_daemon.tasks import (
    Began,
    CannotWrite,
    Changing,
    Gone,
    NoRows,
    Quarantined,
    Reading,
    Refused,
    Staged,
    StageJob,
    StageOutcome,
    Unchanged,
    Unreadable,
    Unselected,
    WorkSettings,
)
from nanolab_daemon.terms import Terms

Handler = Callable[[Sequence[StageJob], Began], list[StageOutcome]]

FILE_NAME = "part-000.parquet"


def lab_of(settings: WorkSettings) -> Lab:
    """Give what the files of a laboratory mean."""
    return Lab(
        registry=Registry.builtin().with_overrides(settings.procedures),
        timezone=ZoneInfo(settings.timezone),
        name=settings.lab,
    )


def stage_batch(settings: WorkSettings) -> Handler:
    """Make the handler that a worker of the staging pool runs for each batch."""
    lab = lab_of(settings)
    stage_root = Path(settings.stage_root)
    temp = publish.temp_folder(stage_root, settings.owner)
    terms = Terms(settings)

    def handle(jobs: Sequence[StageJob], began: Began) -> list[StageOutcome]:
        outcomes: list[StageOutcome] = []
        made: list[tuple[int, Path]] = []
        for at, job in enumerate(jobs):
            began(at)
            outcome, encoded = stage_file(job, settings, lab, partial(_note, began, at))
            if isinstance(outcome, Staged):
                outcome = replace(outcome, terms=terms.of(outcome.facts.proc))
            elif isinstance(outcome, Refused):
                outcome = replace(outcome, terms=terms.of(outcome.proc))
            if isinstance(outcome, Staged) and encoded is not None:
                try:
                    made.append((at, publish.write_bundle(temp, {FILE_NAME: encoded})))
                except OSError as error:
                    outcome = CannotWrite.of(error, stage_root)
            outcomes.append(outcome)
        began(len(jobs))
        if made:
            _publish(jobs, outcomes, made, settings)
        return outcomes

    return handle


def _note(began: Began, at: int, reading: Reading) -> None:
    began(at, reading.pack())


def stage_file(
    job: StageJob, settings: WorkSettings, lab: Lab, read: Callable[[Reading], None] = lambda _: None
) -> tuple[StageOutcome, memoryview | None]:
    """Read and judge one file; give the verdict and, for a run, its Parquet file in memory. Writes nothing.

    `read` is told of the bytes before anything is made of them.
    """
    try:
        contents = rawfile.read(settings.raw_root, job.path, settings.max_file_bytes)
    except FileNotFoundError:
        return Gone(), None
    except FileRejectedError as error:
        return _refused_unread(job, settings, error), None
    except OSError as error:
        return _unreadable(error), None
    if job.expected is not None and contents.fingerprint != job.expected:
        return Changing("it has changed since it seemed done"), None
    sha256 = hashlib.sha256(contents.data).hexdigest()
    if sha256 == job.known_sha256:
        return Unchanged(contents.fingerprint, sha256), None
    if sha256 in settings.quarantined and not job.force:
        return Quarantined(contents.fingerprint, sha256), None
    read(Reading(contents.fingerprint, sha256))
    header: Header | None = None
    try:
        header = _header(contents.data, settings.max_header_bytes)
        _check_width(header, settings.max_columns)
        body = _whole_lines(contents.data, header.data_offset)
        skip = job.skip_bad_rows or job.skip_bad_rows_of == sha256
        rows = read_rows(body, len(header.columns), header.data_line, skip_bad=skip)
        judged = judge(lab, header, rows, job.path, contents.fingerprint.mtime_ns, body)
        if judged is None:
            state = FileState.STARTED if header.has_metadata else FileState.QUEUED
            return NoRows(contents.fingerprint, sha256, state, header.procedure, WAITING_WORDS[state]), None
        if not job.selection.takes(header.procedure, judged.facts.date):
            return Unselected(header.procedure, judged.facts.date), None
        return _staged(job, contents, sha256, header, rows, judged)
    except FileRejectedError as error:
        if not contents.steady:
            return Changing(f"it changed while it was read ({error.message})"), None
        proc = header.procedure if header else None
        return Refused(contents.fingerprint, sha256, _rejection(error), proc), None


def _header(data: bytes, max_bytes: int) -> Header:
    try:
        return parse_header(data, max_bytes=max_bytes)
    except HeaderIncompleteError as error:
        cause = RejectCause.BAD_HEADER if data.strip() else RejectCause.NOT_INSTRUMENT_FILE
        raise FileRejectedError(cause, error.message, advice=error.advice) from error


def _check_width(header: Header, most: int) -> None:
    if len(header.columns) > most:
        raise FileRejectedError(
            RejectCause.TOO_LARGE,
            f"The file has {len(header.columns):,} columns, more than the limit of {most:,}.",
            line=header.data_line - 1,
            advice="If it is a measurement, raise limits.max_columns in the configuration, and retry it.",
        )


def _whole_lines(data: bytes, first: int) -> bytes:
    """Leave out a torn last line, which is not data; but NUL bytes in it tell of a write that was lost."""
    end = data.rfind(b"\n") + 1
    return data[first:] if data.find(b"\0", end) >= 0 else data[first:end]


def _staged(
    job: StageJob, contents: rawfile.Contents, sha256: str, header: Header, rows: Rows, judged: Judged
) -> tuple[Staged, memoryview | None]:
    facts = judged.facts
    target = f"proc={facts.proc}/date={facts.date}/run_id={facts.run_id}"
    names = tuple(name for name, _ in judged.layout)
    layout = tables.run_layout(names)
    constants = _constants(facts, shown_path(job.path))
    columns: list[Values] = [Same(None) if at is None else rows.columns[at] for _, at in judged.layout]
    columns += tables.constants(tables.RUN, constants)
    notes = _notes(header, rows, judged, sha256)
    if judged.segments is not None:  # with all that the second stage need not read out of the columns
        cut = judged.segments
        notes["segments"] = {
            "kind": cut.kind,
            "column": cut.column,
            "step": cut.step,
            "time": cut.time,
            "data": names,
            "constants": constants,
        }
    encoded = parquet.encode(layout, columns, rows.count, notes)
    outcome = Staged(
        fingerprint=contents.fingerprint,
        sha256=sha256,
        facts=facts,
        output=parquet.described(f"{target}/{FILE_NAME}", encoded, rows.count),
        target=target,
        bundle=None,
        skipped=job.skip_bad_rows or job.skip_bad_rows_of == sha256,
        remarks=judged.remarks,
    )
    return outcome, None if job.dry else encoded


def _constants(facts: RunFacts, source_file: str) -> dict[str, Hashable]:
    return {
        "run_id": facts.run_id,
        "proc": facts.proc,
        "start_dt": facts.start_us,
        "source_file": source_file,
        "with_light": facts.with_light,
        "wavelength_nm": facts.wavelength_nm,
        "laser_voltage_V": facts.laser_voltage_V,
        "chip_group": facts.chip_group,
        "chip_number": facts.chip_number,
        "sample": facts.sample,
        "procedure_version": facts.procedure_version,
    }


def _notes(header: Header, rows: Rows, judged: Judged, sha256: str) -> dict[str, object]:
    notes: dict[str, object] = {
        "run_id": judged.facts.run_id,
        "version": __version__,
        "source_sha256": sha256,
        "header": header.text,
        "encoding": header.encoding,
        "parameters": dict(header.parameters),
        "metadata": dict(header.metadata),
        "flags": list(judged.facts.flags or ()),
    }
    if rows.comments:
        notes["comments"] = [list(comment) for comment in rows.comments]
    if rows.bad_rows_skipped:
        notes["bad_rows_skipped"] = rows.bad_rows_skipped
    return notes


def _publish(
    jobs: Sequence[StageJob],
    outcomes: list[StageOutcome],
    made: Sequence[tuple[int, Path]],
    settings: WorkSettings,
) -> None:
    """Sync the contents of all bundles, move them to their places, sync their names: two syncs a batch."""
    stage_root = Path(settings.stage_root)
    temp = publish.temp_folder(stage_root, settings.owner)
    staged = [(at, outcome, bundle) for at, bundle in made if isinstance(outcome := outcomes[at], Staged)]
    try:
        publish.announce(temp, [(bundle, outcome.target) for _, outcome, bundle in staged])
        publish.sync(stage_root)
        for at, outcome, bundle in staged:
            adopt = not jobs[at].force
            if not settings.aside:
                outcomes[at] = _place(outcome, bundle, stage_root, adopt=adopt)
            elif adopt and _holds(outcome, stage_root):
                publish.discard(bundle)
                outcomes[at] = replace(outcome, adopted=True)
            else:
                outcomes[at] = replace(outcome, bundle=str(bundle))
        if not settings.aside:
            publish.sync(stage_root)
    except OSError as error:
        failed = CannotWrite.of(error, stage_root)
        for at, bundle in made:
            publish.discard(bundle)  # what is in its place already is found again when the file is
            outcomes[at] = failed


def _place(outcome: Staged, bundle: Path, stage_root: Path, *, adopt: bool) -> Staged:
    """Publish a run if its place is free, or holds these very bytes: after a loss of the ledger most do."""
    target = stage_root / outcome.target
    try:
        placed = publish.place(bundle, target)
    except (NotADirectoryError, FileExistsError):
        aside = publish.clear_the_way(stage_root, target)
        if aside is None:
            raise
        outcome = replace(outcome, remarks=(*outcome.remarks, f"In the way of a run, now set aside: {aside}"))
        return _place(outcome, bundle, stage_root, adopt=adopt)
    if placed:
        return outcome
    if adopt and _holds(outcome, stage_root):
        publish.discard(bundle)
        return replace(outcome, adopted=True)
    return replace(outcome, bundle=str(bundle))


def _holds(outcome: Staged, stage_root: Path) -> bool:
    file = (FILE_NAME, outcome.output.size_bytes, outcome.output.sha256)
    return publish.holds_exactly(stage_root / outcome.target, [file])


def _refused_unread(job: StageJob, settings: WorkSettings, error: FileRejectedError) -> StageOutcome:
    try:
        status = os.lstat(os.path.join(os.fsencode(settings.raw_root), job.path))
    except OSError:
        return Gone()
    return Refused(rawfile.fingerprint(status), None, _rejection(error))


def _rejection(error: FileRejectedError) -> Rejection:
    # Shown on terminals and in tables from here on: what a file says there must not be able to steer them.
    text = None if error.text is None else escaped(error.text)
    return Rejection(error.cause, escaped(error.message), error.line, text, escaped(error.advice))


def _unreadable(error: OSError) -> StageOutcome:
    if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR):
        return Gone()  # what the name stands for now is no instrument file
    machine = error.errno in rawfile.MACHINE_FAULTS
    reason = f"It can't be opened for now: {error.strerror}."
    if error.errno == errno.EACCES:
        reason += " Give the user that runs nanolab-daemon the right to read it."
    return Unreadable(reason, error.errno or 0, machine)
