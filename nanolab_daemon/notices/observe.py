"""What there is to tell, seen from outside: the daemon's own answer, and what the ledger has gained meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanolab_daemon import control, remedy
from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.commands import as_typed
from nanolab_daemon.errors import QUARANTINE, EngineError
from nanolab_daemon.model import FileState
from nanolab_daemon.names import shown_path
from nanolab_daemon.notices.book import Condition, Event, capital
from nanolab_daemon.settings import counted

DEAF_AFTER_S = 60.0
"""A busy daemon answers late; one that has not answered for so long is in trouble."""


class Observer:
    """Looks at one daemon. `since`: what was judged until then (seconds since 1970) is known already.

    `file`: the settings to be named in the commands that are told, as `commands.file_to_name` gives them.
    """

    def __init__(self, state: Path, instruments: Mapping[str, float], since: float, file: str | None = None) -> None:
        self._state = state
        self._file = file
        self._instruments = instruments
        self._answered = 0.0
        self._mark: object = None
        self.since = since

    def conditions(self, now: float) -> list[Condition]:
        """Give what is wrong now."""
        try:
            status = control.ask(self._state, {"ask": "status"})
        except EngineError:
            status = None
        if status is None:
            self._answered = self._answered or now
            silent = now - self._answered >= DEAF_AFTER_S
            words = f"The daemon has not answered for {DEAF_AFTER_S:.0f} s."
            return [Condition("degraded", "daemon", words, "Look at its log.")] if silent else []
        self._answered = now
        found = []
        if status.get("degraded"):
            found.append(Condition("degraded", "raw", str(status["degraded"])))
        if status.get("paused"):
            found.append(Condition("paused", "machine", capital(str(status["paused"]))))
        found += [
            Condition("degraded", name, f"{name} can't be reached: {place['frozen']}.", "The work goes on elsewhere.")
            for name, place in dict(status.get("places") or {}).items()
            if name != "." and place.get("frozen")
        ]
        return found + self._silences(now, status)

    def events(self) -> list[Event]:
        """Give what has happened to files since the last call."""
        mark = _mark(self._state / FILE_NAME)
        if mark == self._mark:
            return []  # nobody has written to it
        catalog = Catalog.open_to_read(self._state / FILE_NAME)
        if catalog is None:
            return []
        self._mark = mark
        found = []
        newest = self.since
        with contextlib.closing(catalog):
            for record in catalog.files("present AND state = ? AND judged_at > ?", (FileState.REJECTED, self.since)):
                refused = record.rejection
                newest = max(newest, record.judged_at)
                kind = "quarantined" if refused is not None and refused.cause in QUARANTINE else "rejected"
                cause = str(refused.cause) if refused else "unknown"
                advice = as_typed(remedy.of_rejection(cause, refused.advice if refused else ""), self._file)
                found.append(Event(kind, cause, shown_path(record.path), record.reason, advice))
            for run in catalog.runs("staged_at > ? AND complete = 0", (self.since,)):
                newest = max(newest, run.staged_at)
                end = run.facts.completeness
                rows = (
                    f"{counted(run.facts.rows, 'row')} of {end.expected_rows:,}"
                    if end.expected_rows
                    else counted(run.facts.rows, "row")
                )
                found.append(Event("incomplete", run.facts.proc, shown_path(run.source), rows))
        self.since = newest
        return found

    def _silences(self, now: float, status: Mapping[str, Any]) -> list[Condition]:
        if not self._instruments:
            return []
        measuring = tuple(dict(status.get("measuring") or {}))
        catalog = Catalog.open_to_read(self._state / FILE_NAME)
        if catalog is None:
            return []
        found = []
        with contextlib.closing(catalog):
            for name, longest_s in self._instruments.items():
                if any(path.startswith(f"{name}/") for path in measuring):
                    continue
                last = catalog.last_change(name.encode())
                if last is not None and now - last > longest_s:
                    words = f"Nothing has come from {name} for {(now - last) / 3600:.1f} h."
                    found.append(Condition("silent", name, words, "Is its program running, and its share mounted?"))
        return found


def _mark(ledger: Path) -> object:
    marks: list[tuple[int, int, int] | None] = []
    for path in (ledger, ledger.with_name(f"{ledger.name}-wal")):
        try:
            found = path.stat()
        except OSError:
            marks.append(None)
        else:
            marks.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return marks
