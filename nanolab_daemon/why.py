"""Everything that is known of one raw file, from the ledger, from the file itself and from a daemon that follows it.

Reads the file as any reader would, and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from nanolab_daemon import control, lock, quality, rawfile, remedy
from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord, RunRecord
from nanolab_daemon.config import Config
from nanolab_daemon.errors import EngineError, NanolabError, RejectCause
from nanolab_daemon.header import parse_header, shortened
from nanolab_daemon.locate import Located, NotCounted, locate, not_counted
from nanolab_daemon.model import Header, Rejection
from nanolab_daemon.names import shown_path
from nanolab_daemon.procedures import Registry
from nanolab_daemon.ramps import expectation
from nanolab_daemon.report import moment
from nanolab_daemon.settings import escaped

NEIGHBOURS = 2
MOST_OF_A_LINE = 4096
"""Bytes of a line that are looked at to show it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the raw file, from 1; `offending` is the one that was refused, `mark` where in its text."""

    number: int
    text: str
    offending: bool
    mark: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What the head of the file says."""

    procedure: str
    parameters: Mapping[str, str]
    metadata: Mapping[str, str]
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """One published file; `there` tells whether it is on the disk now."""

    path: str
    rows: int
    size_bytes: int
    there: bool


@dataclass(frozen=True, slots=True)
class Flagged:
    """A flag of the run, and what it means."""

    flag: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Run:
    """The run that the file's bytes hold, as it is published."""

    run_id: str
    proc: str
    date: str
    date_origin: str
    revision: int
    rows: int
    complete: bool | None
    expected_rows: int | None
    expected_end_s: float | None
    rule: str
    flags: tuple[Flagged, ...] | None
    bad_rows_skipped: int
    published_from: str
    source_missing: bool
    staged_at: str
    segment_kind: str | None
    segmentation: str
    segmented_at: str | None
    rows_outside_segments: int | None
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class Why:
    """All of it. Times are the lab's; what is not known is None.

    `live_trouble` tells why a daemon that runs gave no answer.
    """

    file: str
    full_path: str
    exists: bool
    known: bool
    state: str | None
    reason: str
    next: str
    first_seen: str | None = None
    judged_at: str | None = None
    judged_by: str | None = None
    changed_since: bool = False
    size_bytes: int | None = None
    sha256: str | None = None
    rows: int | None = None
    expected_rows: tuple[int, ...] = ()
    expected_end_s: float | None = None
    rule: str = ""
    cause: str | None = None
    line: int | None = None
    text: str | None = None
    lines: tuple[Line, ...] = ()
    attempts: int = 0
    republished: int = 0
    skip_bad_rows: bool = False
    header: HeaderFacts | None = None
    header_trouble: str = ""
    run: Run | None = None
    live: Mapping[str, Any] | None = None
    live_trouble: str = ""


def why(config: Config, text: str) -> Why:
    """Tell everything of one file; `text` is a path in any form, a name, or a run id."""
    catalog = Catalog.open_to_read(config.paths.state / FILE_NAME)
    try:
        located = locate(text, config, catalog)
        record = catalog.file(located.path) if catalog is not None and located.path is not None else None
        passed = not_counted(located, config)
        if record is None:
            return _unknown(located, config, passed)
        run = catalog.run(record.run_id) if catalog is not None and record.run_id else None
        misdated = catalog is not None and run is not None and bool(quality.misdated(catalog.copies(run.run_id)))
        return _known(located, record, run, config, passed, misdated=misdated)
    finally:
        if catalog is not None:
            catalog.close()


def _unknown(located: Located, config: Config, passed: NotCounted | None) -> Why:
    running = lock.holder(config.paths.state) is not None
    shown = shown_path(located.path if located.path is not None else located.full)
    exists = os.path.lexists(located.full)
    if passed is not None:
        next_ = f"Nothing will be done with it. {passed.remedy}" if exists else passed.remedy
        return Why(shown, shown_path(located.full), exists, False, None, passed.reason, next_)
    live, silent = _live(config, located.path)
    next_ = (
        "Nothing is to be done: the daemon looks at it in a moment."
        if running
        else "Start the daemon, or run `nanolab-daemon backfill`."
    )
    header, trouble = _header(located.full, config)
    reason = "It counts, but the ledger has not seen it yet."
    if live and live.get("following"):
        reason = "The daemon follows it: it is being written, or has not settled."
    facts = None if header is None else _facts(header)
    return Why(
        shown, shown_path(located.full), True, False, None, reason, next_,
        header=facts, header_trouble=trouble, live=live, live_trouble=silent,
    )  # fmt: skip


def _known(
    located: Located,
    record: FileRecord,
    run: RunRecord | None,
    config: Config,
    passed: NotCounted | None,
    *,
    misdated: bool,
) -> Why:
    zone = ZoneInfo(config.lab.timezone)
    registry = Registry.builtin().with_overrides(config.procedures)
    try:
        exists = True
        now = rawfile.fingerprint(os.lstat(located.full))
        changed = record.fingerprint.size_bytes >= 0 and now != record.fingerprint  # else: to be looked at anyhow
    except OSError:
        exists, changed = False, False
    header, trouble = _header(located.full, config) if exists else (None, "the file has gone")
    refused = record.rejection
    line = refused.line if refused else None
    if refused is not None and line is None and exists:
        line = _place(located.full, refused.cause, config.limits.max_header_bytes)
    expected: tuple[int, ...] = ()
    end_s, rule = None, ""
    if run is not None:
        end = run.facts.completeness
        expected = () if end.expected_rows is None else (end.expected_rows,)
        end_s, rule = end.expected_end_s, end.rule
    elif header is not None:
        hoped = expectation(registry.get(header.procedure), header)
        expected, end_s, rule = hoped.rows, hoped.end_s, hoped.rule
    reason = record.reason
    if not record.present:
        reason = f"Its raw file has gone. {reason}"
    elif not exists:
        reason = f"Its raw file is not there at this moment; whether it is gone for good is not concluded. {reason}"
    if passed is not None and exists:
        reason = f"{reason} By now it does not count any more: {passed.reason[0].lower()}{passed.reason[1:]}"
    live, silent = _live(config, record.path)
    published = None if run is None else _run(run, config, zone, misdated=misdated)
    return Why(
        file=shown_path(record.path),
        full_path=shown_path(located.full),
        exists=exists,
        known=True,
        state=str(record.state),
        reason=reason,
        next=remedy.of_file(
            record,
            run,
            running=lock.holder(config.paths.state) is not None,
            exists=exists,
            changed=changed,
            known_procedure=record.proc is None or registry.get(record.proc) is not None,
            unpublished=published is not None and not all(output.there for output in published.outputs),
        ),
        first_seen=moment(record.seen_at, zone),
        judged_at=moment(record.judged_at, zone),
        judged_by=record.version,
        changed_since=changed,
        size_bytes=record.fingerprint.size_bytes if record.fingerprint.size_bytes >= 0 else None,
        sha256=record.sha256,
        rows=record.rows,
        expected_rows=expected,
        expected_end_s=end_s,
        rule=rule,
        cause=str(refused.cause) if refused else None,
        line=line,
        text=refused.text if refused else None,
        lines=_around(located.full, line, _width(header, refused)) if line is not None and exists else (),
        attempts=record.attempts,
        republished=record.republished,
        skip_bad_rows=record.skip_bad_rows,
        header=None if header is None else _facts(header),
        header_trouble=trouble,
        run=published,
        live=live,
        live_trouble=silent,
    )


def _run(run: RunRecord, config: Config, zone: ZoneInfo, *, misdated: bool) -> Run:
    facts, end = run.facts, run.facts.completeness
    flags = quality.with_clock(facts.flags, disagrees=misdated)
    outputs = [(config.paths.stage / run.stage_file.path, run.stage_file)]
    outputs += [(config.paths.output / file.path, file) for file in run.segment_files]
    return Run(
        run_id=run.run_id,
        proc=facts.proc,
        date=facts.date,
        date_origin=str(facts.date_origin),
        revision=run.revision,
        rows=facts.rows,
        complete=end.complete,
        expected_rows=end.expected_rows,
        expected_end_s=end.expected_end_s,
        rule=end.rule,
        flags=None if flags is None else tuple(Flagged(flag, quality.MEANINGS.get(flag, "")) for flag in flags),
        bad_rows_skipped=facts.bad_rows_skipped,
        published_from=shown_path(run.source),
        source_missing=run.source_missing,
        staged_at=moment(run.staged_at, zone),
        segment_kind=facts.segment_kind,
        segmentation=run.segmentation,
        segmented_at=None if run.segmented_at is None else moment(run.segmented_at, zone),
        rows_outside_segments=run.rows_outside,
        outputs=tuple(Output(escaped(str(p)), file.rows, file.size_bytes, p.is_file()) for p, file in outputs),
    )


def _live(config: Config, path: bytes | None) -> tuple[dict[str, Any] | None, str]:
    """Ask a daemon what it knows of the file; else tell why one that runs does not answer."""
    if path is None or lock.holder(config.paths.state) is None:
        return None, ""
    question = {"ask": "file", "path": os.fsdecode(path)}
    try:
        return control.ask(config.paths.state, question, control.LOOK_S), ""
    except EngineError as error:
        return None, str(error)


def _header(full: bytes, config: Config) -> tuple[Header | None, str]:
    try:
        with open(_open(full), "rb") as file:
            head = file.read(config.limits.max_header_bytes)
        return parse_header(head, max_bytes=config.limits.max_header_bytes), ""
    except NanolabError as error:
        return None, error.message
    except OSError as error:
        return None, f"it can't be read: {error.strerror}"


def _facts(header: Header) -> HeaderFacts:
    return HeaderFacts(header.procedure, dict(header.parameters), dict(header.metadata), header.columns)


def _place(full: bytes, cause: RejectCause, max_bytes: int) -> int | None:
    """Find the line that a refusal speaks of without its number: of the start time, or the last of a torn header."""
    if cause not in (RejectCause.BAD_START_TIME, RejectCause.BAD_HEADER):
        return None
    try:
        with open(_open(full), "rb") as file:
            lines = file.read(max_bytes).splitlines()
    except OSError:
        return None
    if cause is RejectCause.BAD_HEADER:
        return len(lines) or None
    return next((at for at, text in enumerate(lines, 1) if text.lstrip(b"#\t ").startswith(b"Start time:")), None)


def _width(header: Header | None, refused: Rejection | None) -> int | None:
    """Give how many numbers a row ought to have, where it is a row that was refused."""
    is_row = refused is not None and refused.cause is RejectCause.BAD_ROWS
    return len(header.columns) if header is not None and is_row else None


def _around(full: bytes, line: int, width: int | None) -> tuple[Line, ...]:
    """Read the offending line and its neighbours."""
    first = max(1, line - NEIGHBOURS)
    try:
        with open(_open(full), "rb") as file:
            chosen = list(islice(file, first - 1, line + NEIGHBOURS))
    except OSError:
        return ()
    return tuple(_line(number, text, line, width) for number, text in enumerate(chosen, first))


def _line(number: int, raw: bytes, line: int, width: int | None) -> Line:
    text = escaped(shortened(raw[:MOST_OF_A_LINE].rstrip(b"\r\n").decode("utf-8", "backslashreplace")))
    mark = row_mark(text, width) if number == line and width is not None else None
    return Line(number, text, number == line, mark)


def row_mark(text: str, width: int) -> tuple[int, int] | None:
    """Tell where a row of `width` numbers goes wrong: the fields too many, the end if some lack, the first no number.

    None where a shortened row does not show it.
    """
    fields = text.split(",")
    starts = [0, *(at + 1 for at, character in enumerate(text) if character == ",")]
    cut = text.endswith("…")
    if len(fields) > width:
        return starts[width] - 1, len(text)
    if len(fields) < width and not cut:
        return len(text), len(text) + 1
    for start, shown in list(zip(starts, fields, strict=True))[: -1 if cut else None]:
        try:
            float(shown)
        except ValueError:
            return start, start + max(1, len(shown))
    return None


def _open(full: bytes) -> int:
    # as the stages open it: never waits at a pipe, never follows a link out of the raw folder
    return os.open(full, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
