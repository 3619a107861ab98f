"""Questions to the ledger: how things stand, and what was refused. Gives frozen data; prints and changes nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time
from pathlib import Path
from time import monotonic
from typing import Any
from zoneinfo import ZoneInfo

from nanolab_daemon import control, lock, quality, remedy
from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord
from nanolab_daemon.config import Config
from nanolab_daemon.errors import EngineError
from nanolab_daemon.model import FileState
from nanolab_daemon.names import shown_path
from nanolab_daemon.publish import MANIFEST

LAST_FILES = 5
RECHECK_S = 10
"""So often the ledger is read though it seems unchanged: its times are no finer than the kernel's clock."""

FLAGS_EVERY_S = 10.0


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
    """How things stand. `live` is the daemon's own answer, None where none runs; times are the lab's, ISO 8601.

    `ledger_lost` says what is amiss, and what to do, where runs are published of which no ledger tells.
    """

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
    ledger_lost: str = ""


def status(config: Config, now: datetime) -> Status:
    """Tell how things stand; works without an engine, beside one, and before there is a ledger."""
    return Reporter(config).look(now)


class Reporter:
    """Tells how things stand again and again: of the ledger it reads only what may have changed since."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._state = config.paths.state
        self._zone = ZoneInfo(config.lab.timezone)
        self._mark: object = None
        self._told = _Told()
        self._flagged_at = -math.inf  # monotonic seconds

    def look(self, now: datetime) -> Status:
        """Tell how things stand at this moment. Raises EngineError where the ledger can't be read."""
        holder = lock.holder(self._state)
        live, trouble = _ask(self._config) if holder is not None else (None, "")
        told = self._ledger(now)
        lost = "" if told.exists or holder is not None else ledger_lost(self._config)
        return Status(
            running=holder is not None,
            command=holder.command if holder else None,
            pid=holder.pid if holder else None,
            since=moment(holder.since, self._zone) if holder and holder.since else None,
            health="not running, and the ledger is lost" if lost else _health(holder, live, trouble, self._zone),
            ledger=str(self._state / FILE_NAME),
            ledger_exists=told.exists,
            files=told.files,
            today=told.today,
            total=told.total,
            pending_segments=told.pending_segments,
            source_missing=told.source_missing,
            flags=told.flags,
            last_files=told.last_files,
            last_rejects=told.last_rejects,
            live=live,
            ledger_lost=lost,
        )

    def _ledger(self, now: datetime) -> _Told:
        path = self._state / FILE_NAME
        midnight = datetime.combine(now.astimezone(self._zone).date(), time(), self._zone).timestamp()
        mark = (midnight, int(monotonic() / RECHECK_S), *map(_stamp, (path, path.with_name(f"{path.name}-wal"))))
        if mark == self._mark:
            return self._told
        catalog = Catalog.open_to_read(path)
        if catalog is None:
            self._mark, self._told, self._flagged_at = mark, _Told(), -math.inf
            return self._told
        try:
            self._told = self._read(catalog, midnight)
        finally:
            catalog.close()
        self._mark = mark
        return self._told

    def _read(self, catalog: Catalog, midnight: float) -> _Told:
        flagged = self._told.flags
        if monotonic() - self._flagged_at >= FLAGS_EVERY_S:  # they take as long as all the rest
            flagged = flags(catalog)
            self._flagged_at = monotonic()
        numbers = catalog.totals()
        return _Told(
            exists=True,
            files={str(one): number for one, number in sorted(catalog.count_files().items())},
            today=_totals(catalog.totals(midnight)),
            total=_totals(numbers),
            pending_segments=numbers["pending"],
            source_missing=numbers["source_missing"],
            flags=flagged,
            last_files=_last(catalog, None, self._zone),
            last_rejects=_last(catalog, FileState.REJECTED, self._zone),
        )


@dataclass(frozen=True, slots=True)
class _Told:
    """What the ledger tells of how things stand."""

    exists: bool = False
    files: Mapping[str, int] = field(default_factory=dict)
    today: Totals = Totals()
    total: Totals = Totals()
    pending_segments: int = 0
    source_missing: int = 0
    flags: Mapping[str, int] = field(default_factory=dict)
    last_files: tuple[FileLine, ...] = ()
    last_rejects: tuple[FileLine, ...] = ()


def ledger_lost(config: Config) -> str:
    """Say that runs are published though there is no ledger, and what to do; empty if none are, or there is one."""
    path = config.paths.state / FILE_NAME
    catalog = Catalog.open_to_read(path)
    if catalog is not None:
        catalog.close()
        return ""
    try:
        if not (config.paths.stage / MANIFEST).exists():
            return ""
    except OSError:
        return ""
    how = "is empty" if path.exists() else "is gone"
    return (
        f"Runs are published in {shown_path(os.fsencode(config.paths.stage))}, but the ledger"
        f" {shown_path(os.fsencode(path))} {how}."
        " Is it the right state folder? If so, `nanolab-daemon verify --rebuild` makes the ledger anew."
    )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


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
    """The files that were refused for one cause, the newest verdict first; `remedies` are their advice, each once."""

    cause: str
    count: int
    newest: str
    remedies: tuple[str, ...]
    files: tuple[RejectedFile, ...]


def rejects(config: Config) -> tuple[RejectGroup, ...]:
    """Give the refused files by cause, the most frequent cause first."""
    zone = ZoneInfo(config.lab.timezone)
    catalog = Catalog.open_to_read(config.paths.state / FILE_NAME)
    if catalog is None:
        return ()
    groups: dict[str, list[RejectedFile]] = {}
    try:
        refused_files = catalog.files("present AND state = ?", (FileState.REJECTED,))
        for record in sorted(refused_files, key=lambda record: -record.judged_at):
            refused = record.rejection
            cause = str(refused.cause) if refused else "unknown"
            groups.setdefault(cause, []).append(
                RejectedFile(
                    file=shown_path(record.path),
                    reason=record.reason,
                    advice=remedy.of_rejection(cause, refused.advice if refused else ""),
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
    return tuple(_group(cause, files) for cause, files in ordered)


def _group(cause: str, files: list[RejectedFile]) -> RejectGroup:
    remedies = tuple(dict.fromkeys(one.advice for one in files if one.advice))
    return RejectGroup(cause, len(files), files[0].judged_at, remedies, tuple(files))


def moment(seconds: float, zone: ZoneInfo) -> str:
    """Write a moment (seconds since 1970) in the lab's time."""
    return datetime.fromtimestamp(seconds, zone).isoformat(sep=" ", timespec="seconds")


def _ask(config: Config) -> tuple[dict[str, Any] | None, str]:
    try:
        return control.ask(config.paths.state, {"ask": "status"}, control.LOOK_S), ""
    except EngineError as error:
        return None, str(error)


def idle_pools(live: Mapping[str, Any]) -> list[str]:
    """Say of each pool that has no worker, and gets none, why."""
    return [
        f"No worker of the {pool['name']} pool is there: {pool['start_failure']}."
        for pool in live.get("pools", ())
        if pool.get("start_failure") and not pool.get("ready")
    ]


def _health(holder: lock.Holder | None, live: Mapping[str, Any] | None, trouble: str, zone: ZoneInfo) -> str:
    if holder is None:
        return "not running"
    if live is None:
        return trouble or "at work"
    if live.get("degraded"):
        return f"degraded: {live['degraded']}"
    if live.get("paused"):
        return f"paused since {moment(live['paused_since'], zone)}: {live['paused']}"
    if idle := idle_pools(live):
        return f"unwell: {' '.join(idle)}"
    if live.get("frozen"):
        return "partly frozen: " + " ".join(live["frozen"])
    if live.get("unlisted"):
        named = ", ".join(f"{folder} ({words})" for folder, words in live["unlisted"].items())
        return f"well, but what is in these folders is not seen, as they can't be listed: {named}"
    if live.get("trouble"):
        return f"well, but {live['trouble']}"
    return "well"


def _totals(numbers: Mapping[str, int]) -> Totals:
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
