"""All published runs in memory, newest first, as far as a list or a search needs them; read anew when they change."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from nanolab_daemon.names import shown_path

Answer = TypeVar("Answer")

LEAST_PAUSE_S = 1.0
SHARE = 10
"""Reading the ledger anew may take one part in so many of the time."""

_RUNS = """
SELECT run_id, proc, date, start_us, staged_at, chip_group, chip_number, sample, rows, expected_rows, complete,
    source, stage_file, json_array_length(segment_files), segmentation, revision, with_light
FROM runs ORDER BY start_us DESC, run_id
"""
_NEWEST = "SELECT path, state, proc, max(judged_at), rows, reason FROM files WHERE present GROUP BY "


class Entry(NamedTuple):
    """One published run. Times are seconds since 1970, `start_us` µs; `stage` is relative to the stage root."""

    run_id: str
    proc: str
    date: str
    start_us: int
    staged_at: float
    chip_group: str | None
    chip_number: int | None
    sample: str | None
    rows: int
    expected_rows: int | None
    complete: int | None
    source: bytes
    stage: str
    sha256: str
    segments: int
    segmentation: str
    revision: int
    with_light: int

    @property
    def file(self) -> str:
        """The raw file's path, for people."""
        return shown_path(self.source)

    @property
    def chip(self) -> str:
        """The chip, as the lab calls it."""
        return chip_name(self.chip_group, self.chip_number, self.sample)


def chip_name(group: str | None, number: int | None, sample: str | None) -> str:
    """Call a chip as the lab does: `Alisson 71F`; a sample that is a word stands apart: `Alisson 71 other`."""
    parts = [group, None if number is None else str(number), sample]
    if sample is not None and len(sample) == 1:
        parts[1:] = [f"{parts[1] or ''}{sample}"]
    return " ".join(part for part in parts if part)


class Last(NamedTuple):
    """The file of one instrument that was judged last."""

    instrument: str
    file: str
    state: str
    proc: str | None
    judged_at: float
    rows: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Query:
    """What a search asks for; empty parts ask for nothing."""

    chip: str = ""
    procedure: str = ""
    since: str = ""
    until: str = ""
    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.chip or self.procedure or self.since or self.until or self.text)

    def takes(self, entry: Entry) -> bool:
        """Tell whether a run is what is asked for."""
        if self.procedure and entry.proc != self.procedure:
            return False
        if (self.since and entry.date < self.since) or (self.until and entry.date > self.until):
            return False
        if self.chip and not self._is_chip(entry):
            return False
        wanted = self.text.lower()
        return not wanted or wanted in entry.file.lower() or wanted in entry.run_id

    def _is_chip(self, entry: Entry) -> bool:
        words = self.chip.lower().split()
        if len(words) == 1 and words[0].isdigit():
            return str(entry.chip_number) == words[0]
        chip = entry.chip.lower()
        return all(word in chip or word in chip.replace(" ", "") for word in words)


class Index:
    """The runs of one ledger. Safe from any thread."""

    def __init__(self, ledger: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._opened = (0, 0)  # device and inode
        self._version = -1
        self._next = 0.0
        self._runs: tuple[Entry, ...] = ()
        self.trouble = ""  # why the ledger can't be read, in words

    def runs(self) -> tuple[Entry, ...]:
        """Give all runs, newest start first; those last read where the ledger can't be read now (see `trouble`)."""
        with self._lock:
            if self._clock() >= self._next:
                self._ask(self._refresh)
            return self._runs

    def arrived(self, since: float, most: int) -> tuple[list[Entry], int]:
        """Give the runs published since a moment, the last one first, at most so many; and how many there are."""
        found = [entry for entry in self.runs() if entry.staged_at >= since]
        found.sort(key=lambda entry: (-entry.staged_at, entry.run_id))
        return found[:most], len(found)

    def search(self, query: Query) -> Sequence[Entry]:
        """Give the runs that a query asks for, newest start first."""
        runs = self.runs()
        return [entry for entry in runs if query.takes(entry)] if query else runs

    def instruments(self) -> tuple[list[Last], list[Last]]:
        """Give the last file of each procedure, and of each first folder below raw; the last one first."""

        def read(db: sqlite3.Connection) -> tuple[list[Last], list[Last]]:
            by_procedure = [_last(row[2] or "unknown", row) for row in db.execute(f"{_NEWEST} proc")]
            folders: dict[str, Last] = {}
            for row in db.execute(f"{_NEWEST} folder"):
                first, slash, _ = row[0].partition(b"/")
                name = shown_path(first) if slash else "(raw itself)"
                if name not in folders or folders[name].judged_at < row[3]:
                    folders[name] = _last(name, row)
            return sorted(by_procedure, key=_newest_first), sorted(folders.values(), key=_newest_first)

        with self._lock:
            return self._ask(read) or ([], [])

    def waiting(self, most: int) -> list[Last]:
        """Give the files that have begun but have no rows yet, the last one first."""
        where = "present AND state IN ('queued', 'started') ORDER BY judged_at DESC LIMIT ?"
        query = f"SELECT path, state, proc, judged_at, rows, reason FROM files WHERE {where}"  # noqa: S608
        with self._lock:
            return self._ask(lambda db: [_last(row[2] or "unknown", row) for row in db.execute(query, (most,))]) or []

    def close(self) -> None:
        """Let go of the ledger."""
        with self._lock:
            self._forget()

    def _ask(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer | None:
        """Ask the ledger; what fails is told in `trouble`, and the next question opens it anew."""
        try:
            answer = question(self._open())
        except (sqlite3.Error, OSError) as error:
            self.trouble = f"The ledger can't be read: {error}"
            self._forget()
            self._next = self._clock() + LEAST_PAUSE_S
            return None
        self.trouble = ""
        return answer

    def _open(self) -> sqlite3.Connection:
        here = self._ledger.stat()
        if (here.st_dev, here.st_ino) != self._opened:
            self._forget()  # it was deleted or replaced, and what is open is no file any more
        if self._db is None:
            self._opened = (here.st_dev, here.st_ino)
            # A daemon has it open, so its journal is there and nothing needs to be made to read it.
            uri = f"{self._ledger.absolute().as_uri()}?mode=ro"
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5, check_same_thread=False)
        return self._db

    def _forget(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        self._version = -1

    def _refresh(self, db: sqlite3.Connection) -> None:
        began = self._clock()
        version = int(db.execute("PRAGMA data_version").fetchone()[0])
        if version == self._version:
            return
        self._runs = tuple(_entry(row) for row in db.execute(_RUNS))
        self._version = version
        now = self._clock()
        self._next = now + max(LEAST_PAUSE_S, SHARE * (now - began))


def _entry(row: tuple[object, ...]) -> Entry:
    path, _, _, sha256 = json.loads(str(row[12]))
    return Entry._make((*row[:12], path, sha256, *row[13:]))


def _last(instrument: str, row: tuple[bytes, str, str | None, float, int | None, str]) -> Last:
    path, state, proc, judged_at, rows, reason = row
    return Last(instrument, shown_path(os.fsencode(path)), state, proc, judged_at, rows, reason)


def _newest_first(one: Last) -> float:
    return -one.judged_at
