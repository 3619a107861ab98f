"""A header and its rows → everything that ledger, manifest and the constant columns tell of the run.

Knows the registry and the lab's time zone; reads no disk and no clock.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, time, tzinfo

from nanolab_daemon import identity, quality
from nanolab_daemon.errors import FileRejectedError, RejectCause
from nanolab_daemon.model import DateOrigin, Header, RunFacts, SegmentKind
from nanolab_daemon.procedures import RESERVED_COLUMNS, Procedure, Registry, unknown_procedure
from nanolab_daemon.ramps import completeness, laser_is_on
from nanolab_daemon.remarks import remarks
from nanolab_daemon.rows import Rows

START_TIME = "Start time"
PARTITIONS = frozenset({"date", "segment"})
"""Names of folders in the outputs' paths: a reader would find such a column twice."""


@dataclass(frozen=True, slots=True)
class Lab:
    """What a file's meaning depends on besides its bytes."""

    registry: Registry
    timezone: tzinfo
    name: str = ""  # among several that share their output folders


@dataclass(frozen=True, slots=True)
class SegmentNote:
    """How a run is cut: along which column; the step that its header gives, and the column of the time if known."""

    kind: SegmentKind
    column: str
    step: float | None
    time: str | None


@dataclass(frozen=True, slots=True)
class Judged:
    """A run, ready to be written. `layout` pairs each data column with its place in the file, None for nulls."""

    facts: RunFacts
    layout: tuple[tuple[str, int | None], ...]
    segments: SegmentNote | None
    remarks: tuple[str, ...]


def judge(lab: Lab, header: Header, rows: Rows, path: bytes, mtime_ns: int, body: bytes) -> Judged | None:
    """Work out what a run is; None if there are no rows yet. Nonsense in the header raises FileRejectedError."""
    known = lab.registry.get(header.procedure)
    procedure = known or unknown_procedure(header.procedure)
    names = _column_names(procedure, header)
    start_text = header.metadata.get(START_TIME, header.parameters.get(START_TIME, "")).strip()
    start_us = identity.start_time_us(start_text) if start_text else None
    if not rows.count:
        return None
    layout = _layout(procedure, names)
    if start_us is not None:
        run_id, date, origin = (
            identity.run_id(header.procedure, start_text, lab.name),
            identity.date_in(start_us, lab.timezone),
            DateOrigin.META,
        )
    else:
        head = header.text.encode("utf-8", "surrogateescape")
        first_row = body.lstrip(b"\r\n").partition(b"\n")[0]
        run_id = identity.content_run_id(header.procedure, head, first_row, lab.name)
        date, origin, start_us = _date_without_start(path, mtime_ns, lab.timezone)
    columns = dict(zip(names, rows.columns, strict=True))
    swept = procedure.swept if procedure.swept in columns else None
    clock = procedure.time if procedure.time in columns else None
    along = procedure.segment_column if procedure.segment_column in columns else None
    kind = procedure.segments if along is not None else None
    group, number, sample = procedure.chip(header)
    light = procedure.light(header)
    values = {name: column.to_numpy() for name, column in columns.items()}
    end = completeness(
        known,
        header,
        rows.count,
        values[swept] if swept else (),
        values[clock] if clock else None,
    )
    facts = RunFacts(
        run_id=run_id,
        proc=header.procedure,
        start_us=start_us,
        date=date,
        date_origin=origin,
        rows=rows.count,
        completeness=end,
        segment_kind=kind,
        chip_group=group,
        chip_number=number,
        sample=sample,
        procedure_version=procedure.parameter(header, "Procedure version"),
        with_light=light.on,
        wavelength_nm=light.wavelength_nm,
        laser_voltage_V=light.voltage_V,
        parameters=procedure.manifest_values(header),
        bad_rows_skipped=rows.bad_rows_skipped,
        flags=quality.of_columns(
            values,
            complete=end.complete,
            ranges={name: procedure.number(header, of) for name, of in quality.RANGES.items()},
            swept=swept,
            lit=laser_is_on(procedure, header),
            one_time=not procedure.repeat_required,  # each sweep may count its time from its own beginning
        ),
    )
    note = SegmentNote(kind, along, procedure.number(header, procedure.step), clock) if kind and along else None
    return Judged(facts, layout, note, remarks(known, header, names, comments=bool(rows.comments)))


def _column_names(procedure: Procedure, header: Header) -> tuple[str, ...]:
    names = procedure.canonical_columns(header.columns)
    taken = next((name for name in names if name in RESERVED_COLUMNS or name in PARTITIONS), None)
    if taken is not None:
        raise FileRejectedError(
            RejectCause.BAD_COLUMNS,
            f"A data column is called {taken!r}, a name that the outputs use themselves.",
            line=header.data_line - 1,
            advice=f"Give it another name in the configuration: procedures.{procedure.name}.column_aliases.",
        )
    return names


def _layout(procedure: Procedure, names: tuple[str, ...]) -> tuple[tuple[str, int | None], ...]:
    """Order a run's data columns: those of the registry, so that a procedure has one schema, then the others."""
    places = {name: at for at, name in enumerate(names)}
    known: list[tuple[str, int | None]] = [(name, places.get(name)) for name in procedure.columns]
    others: list[tuple[str, int | None]] = [
        (name, at) for name, at in places.items() if name not in procedure.columns
    ]
    return tuple(known + others)


def _date_without_start(path: bytes, mtime_ns: int, tz: tzinfo) -> tuple[str, DateOrigin, int]:
    """Give the date of a file that has no start time, where it comes from, and a moment that stands for its start."""
    date = identity.date_from_path(os.fsdecode(path))
    if date is not None:
        midnight = datetime.combine(datetime.fromisoformat(date), time(), tz)
        return date, DateOrigin.PATH, int(midnight.astimezone(UTC).timestamp()) * 1_000_000
    us = mtime_ns // 1000
    return identity.date_in(us, tz), DateOrigin.MTIME, us
