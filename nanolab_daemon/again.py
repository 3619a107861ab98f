"""Which files `retry` is to try again, and why it leaves others alone. Reads the ledger; the engine does the work."""

from __future__ import annotations

from dataclasses import dataclass

from nanolab_daemon import remedy
from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord
from nanolab_daemon.config import Config
from nanolab_daemon.errors import UsageError
from nanolab_daemon.locate import locate, why_not
from nanolab_daemon.model import FileState
from nanolab_daemon.names import shown_path
from nanolab_daemon.tasks import StageJob


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A file that was named and is not tried again."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is to be done."""

    jobs: tuple[StageJob, ...]
    left_alone: tuple[LeftAlone, ...]


@dataclass(frozen=True, slots=True)
class Became:
    """What became of a file that was tried again."""

    file: str
    state: str
    reason: str
    advice: str


def choose(config: Config, names: tuple[str, ...], *, skip_bad_rows: bool) -> Chosen:
    """Choose the refused files, or those of the named ones that trying again can help."""
    catalog = Catalog.open_to_read(config.paths.state / FILE_NAME)
    try:
        if not names:
            refused = () if catalog is None else catalog.files("present AND state = ?", (FileState.REJECTED,))
            return Chosen(tuple(_job(record, skip_bad_rows) for record in refused), ())
        jobs: dict[bytes, StageJob] = {}
        left: list[LeftAlone] = []
        for name in names:
            path, reason = _look_at(name, config, catalog)
            record = None if catalog is None or reason else catalog.file(path)
            if record is not None:
                jobs[path] = _job(record, skip_bad_rows)
            else:
                left.append(LeftAlone(shown_path(path), reason))
        return Chosen(tuple(jobs.values()), tuple(left))
    finally:
        if catalog is not None:
            catalog.close()


def became(config: Config, jobs: tuple[StageJob, ...]) -> tuple[Became, ...]:
    """Tell what the ledger now says of the files."""
    catalog = Catalog.open_to_read(config.paths.state / FILE_NAME)
    found: list[Became] = []
    try:
        for job in jobs:
            record = catalog.file(job.path) if catalog is not None else None
            if record is None or not record.present:
                found.append(Became(shown_path(job.path), "gone", "It has vanished.", ""))
            else:
                refused = record.rejection
                advice = remedy.of_rejection(refused.cause, refused.advice) if refused else ""
                found.append(Became(shown_path(job.path), str(record.state), record.reason, advice))
    finally:
        if catalog is not None:
            catalog.close()
    return tuple(found)


def judged_after(config: Config, jobs: tuple[StageJob, ...], moment: float) -> bool:
    """Tell whether all the files have been judged since a moment (seconds since 1970)."""
    catalog = Catalog.open_to_read(config.paths.state / FILE_NAME)
    if catalog is None:
        return False
    try:
        records = [catalog.file(job.path) for job in jobs]
    finally:
        catalog.close()
    return all(record is None or not record.present or record.judged_at >= moment for record in records)


def _job(record: FileRecord, skip_bad_rows: bool) -> StageJob:
    return StageJob(record.path, max(0, record.fingerprint.size_bytes), force=True, skip_bad_rows=skip_bad_rows)


def _look_at(name: str, config: Config, catalog: Catalog | None) -> tuple[bytes, str]:
    """Find a named file, and say why it is not to be tried again; empty if it is."""
    try:
        located = locate(name, config, catalog)
    except UsageError as error:
        return name.encode("utf-8", "surrogateescape"), str(error)
    shown = located.path if located.path is not None else located.full
    record = None if catalog is None or located.path is None else catalog.file(located.path)
    not_counted = why_not(located, config)
    if not_counted:
        return shown, not_counted
    if record is None:
        return shown, "The ledger has not seen it yet; `nanolab-daemon backfill` takes it."
    match record.state:
        case FileState.REJECTED | FileState.WAITING | FileState.STAGED | FileState.SEGMENTED:
            return shown, ""  # a published one, too: so its outputs are mended
        case FileState.DUPLICATE | FileState.SUPERSEDED:
            return shown, f"It was not refused. {record.reason}"
    return shown, "It was not refused: it has no rows yet, and is taken when they come."
