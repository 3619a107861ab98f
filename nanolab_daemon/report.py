"""Questions to the ledger: how things stand, and what was refused. Gives frozen data; prints and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from nanolab_daemon import control, lock, quality
from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord
from nanolab_daemon.config import Config
from nanolab_daemon.errors import EngineError
from nanolab_daemon.model import FileState
from nanolab_daemon.names import shown_path

LAST_FILES = 5


@dataclass(frozen=True, slots=True)
class Totals:
    """Published runs, their rows and their segments."""

    runs: int = 0
    rows: int = 0
    segments: int = 0


@dataclass(frozen=True, slots=True)
class FileLine:
    """One raw file in a list."""

    file: str
    state: str
    reason: str
    proc: str | None
    run_id: str | None
    rows: int | None
    judged_at: str


@dataclass(frozen=True, slots=True)
class Status:
    """How things stand. `live` is the daemon's own answer, None where none runs; times are the lab's, ISO 8601."""

    running: bool
    command: str | None
    pid: int | None
    since: str | None
    health: str
    ledger: str
    ledger_exists: bool
    files: Mapping[str, int]
    today: Totals
    total: Totals
    pending_segments: int
    source_missing: int
    flags: Mapping[str, int]
    last_files: tuple[FileLine, ...]
    last_rejects: tuple[FileLine, ...]
    live: Mapping[str, Any] | None


def status(config: Config, now: datetime) -> Status:
    """Tell how things stand; works without an engine, beside one, and before there is a ledger."""
    state = config.paths.state
    zone = ZoneInfo(config.lab.timezone)
    holder = lock.holder(state)
    live, trouble = _ask(config) if holder is not None else (None, "")
    midnight = datetime.combine(now.astimezone(zone).date(), time(), zone).timestamp()
    path = state / FILE_NAME
    catalog = Catalog.open_to_read(path)
    files: dict[str, int] = {}
    today = total = Totals()
    numbers: Mapping[str, int] = {"pending": 0, "source_missing": 0}
    last: tuple[FileLine, ...] = ()
    rejects: tuple[FileLine, ...] = ()
    flagged: Mapping[str, int] = {}
    if catalog is not None:
        try:
            files = {str(one): number for one, number in sorted(catalog.count_files().items())}
            today, total = _totals(catalog, midnight), _totals(catalog, 0.0)
            numbers = catalog.totals()
            flagged = flags(catalog)
            last = _last(catalog, None, zone)
            rejects = _last(catalog, FileState.REJECTED, zone)
        finally:
            catalog.close()
    return Status(
        running=holder is not None,
        command=holder.command if holder else None,
        pid=holder.pid if holder else None,
        since=moment(holder.since, zone) if holder and holder.since else None,
        health=_health(holder, live, trouble, zone),
        ledger=str(path),
        ledger_exists=catalog is not None,
        files=files,
        today=today,
        total=total,
        pending_segments=numbers["pending"],
        source_missing=numbers["source_missing"],
        flags=flagged,
        last_files=last,
        last_rejects=rejects,
        live=live,
    )


def flags(catalog: Catalog, since: float = 0.0) -> dict[str, int]:
    """Count the runs staged since a moment by their flags; those that no run has are left out."""
    counts = catalog.flags_since(since)
    counts[quality.Flag.CLOCK_MISMATCH] = len(quality.misdated(catalog.copies(since=since)))
    return {str(flag): counts[flag] for flag in quality.Flag if counts.get(flag)}


@dataclass(frozen=True, slots=True)
class RejectedFile:
    """One refused file and why."""

    file: str
    reason: str
    advice: str
    proc: str | None
    line: int | None
    text: str | None
    attempts: int
    judged_at: str


@dataclass(frozen=True, slots=True)
class RejectGroup:
    """The files that were refused for one cause."""

    cause: str
    files: tuple[RejectedFile, ...]


def rejects(config: Config) -> tuple[RejectGroup, ...]:
    """Give the refused files by cause, the most frequent cause first."""
    zone = ZoneInfo(config.lab.timezone)
    catalog = Catalog.open_to_read(config.paths.state / FILE_NAME)
    if catalog is None:
        return ()
    groups: dict[str, list[RejectedFile]] = {}
    try:
        for record in catalog.files("present AND state = ?", (FileState.REJECTED,)):
            refused = record.rejection
            cause = str(refused.cause) if refused else "unknown"
            groups.setdefault(cause, []).append(
                RejectedFile(
                    file=shown_path(record.path),
                    reason=record.reason,
                    advice=refused.advice if refused else "",
                    proc=record.proc,
                    line=refused.line if refused else None,
                    text=refused.text if refused else None,
                    attempts=record.attempts,
                    judged_at=moment(record.judged_at, zone),
                )
            )
    finally:
        catalog.close()
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    return tuple(RejectGroup(cause, tuple(files)) for cause, files in ordered)


def moment(seconds: float, zone: ZoneInfo) -> str:
    """Write a moment (seconds since 1970) in the lab's time."""
    return datetime.fromtimestamp(seconds, zone).isoformat(sep=" ", timespec="seconds")


def _ask(config: Config) -> tuple[dict[str, Any] | None, str]:
    try:
        return control.ask(config.paths.state, {"ask": "status"}), ""
    except EngineError as error:
        return None, str(error)


def _health(holder: lock.Holder | None, live: Mapping[str, Any] | None, trouble: str, zone: ZoneInfo) -> str:
    if holder is None:
        return "not running"
    if live is None:
        return trouble or "at work"
    if live.get("degraded"):
        return f"degraded: {live['degraded']}"
    if live.get("paused"):
        return f"paused since {moment(live['paused_since'], zone)}: {live['paused']}"
    if live.get("frozen"):
        return "partly frozen: " + " ".join(live["frozen"])
    if live.get("unlisted"):
        named = ", ".join(f"{folder} ({words})" for folder, words in live["unlisted"].items())
        return f"well, but what is in these folders is not seen, as they can't be listed: {named}"
    if live.get("trouble"):
        return f"well, but {live['trouble']}"
    return "well"


def _totals(catalog: Catalog, since: float) -> Totals:
    numbers = catalog.totals(since)
    return Totals(numbers["runs"], numbers["rows"], numbers["segments"])


def _last(catalog: Catalog, state: FileState | None, zone: ZoneInfo) -> tuple[FileLine, ...]:
    newest = (
        "path IN (SELECT path FROM files WHERE present AND (?1 IS NULL OR state = ?1)"
        " ORDER BY judged_at DESC, path LIMIT ?2)"
    )
    found = sorted(catalog.files(newest, (state, LAST_FILES)), key=lambda record: -record.judged_at)
    return tuple(_line(record, zone) for record in found)


def _line(record: FileRecord, zone: ZoneInfo) -> FileLine:
    return FileLine(
        file=shown_path(record.path),
        state=str(record.state),
        reason=record.reason,
        proc=record.proc,
        run_id=record.run_id,
        rows=record.rows,
        judged_at=moment(record.judged_at, zone),
    )
