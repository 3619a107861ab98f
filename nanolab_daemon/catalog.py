"""The ledger: what is known of every raw file and every published run, in SQLite, written by one engine alone.

Records decisions and never takes them. Changes gather in one transaction until `commit`, which the engine calls after
what they speak of is safely on the disk.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from nanolab_daemon import publish
from nanolab_daemon.catalog_schema import STEPS, migrate, version_of
from nanolab_daemon.errors import EngineError, RejectCause
from nanolab_daemon.kept import Kept
from nanolab_daemon.model import (
    BEYOND_END,
    Completeness,
    DateOrigin,
    FileState,
    Fingerprint,
    OutputFile,
    Rejection,
    RunFacts,
    SegmentKind,
)

FILE_NAME = "ledger.sqlite"
# Quicker than the enums, which are asked for each file and each run.
_STATES = {str(state): state for state in FileState}
_ORIGINS = {str(origin): origin for origin in DateOrigin}
MOST_KEPT = 2048
"""Of the records that an engine has just read or written, so many files and so many runs are kept at hand."""
GARBLED = "what SQLite says of it holds bytes of its own"  # such as the name of a table, of which garbage was made
HAS_RUN = frozenset({FileState.STAGED, FileState.SEGMENTED, FileState.DUPLICATE, FileState.SUPERSEDED})
"""States of a file whose bytes hold a run."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One raw file as the ledger knows it; fields in the order of the table's columns, less `folder`."""

    path: bytes
    present: bool
    fingerprint: Fingerprint
    sha256: str | None
    state: FileState
    reason: str
    proc: str | None
    run_id: str | None
    rows: int | None
    rejection: Rejection | None
    attempts: int
    republished: int
    skip_bad_rows: bool
    version: str
    seen_at: float
    judged_at: float
    terms: str | None = None  # on which it was judged


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One published run as the ledger knows it."""

    facts: RunFacts
    source: bytes
    source_sha256: str
    source_missing: bool
    revision: int
    version: str
    stage_file: OutputFile
    staged_at: float
    segmentation: str  # none, pending, done, failed
    segment_files: tuple[OutputFile, ...] = ()
    rows_outside: int | None = None
    segmented_at: float | None = None

    @property
    def run_id(self) -> str:
        """The identity of the run."""
        return self.facts.run_id

    @property
    def folder(self) -> str:
        """The folder of the run relative to the stage root, which its segments' folder repeats."""
        return _folder(self.stage_file.path)

    @property
    def segments_folder(self) -> str:
        """The folder of the run's segments relative to the output root."""
        return _segments_folder(self.facts.proc, self.folder)


def _folder(stage_path: str) -> str:
    return stage_path.rpartition("/")[0]


def _segments_folder(proc: str, folder: str) -> str:
    return f"{proc.lower()}_segments/{folder}"


class Agreement(NamedTuple):
    """How many runs of a procedure are what their headers prescribe.

    `complete`: just that; `incomplete`: less, as of an abort; `contrary`: other rows than the header can mean, or
    more of them, so that the rule may be wrong; `unknown`: the header tells no end.
    """

    complete: int
    incomplete: int
    contrary: int
    unknown: int

    @property
    def rate(self) -> float | None:
        """The part of the runs judged that are complete; None where none could be judged."""
        judged = self.complete + self.incomplete + self.contrary
        return self.complete / judged if judged else None


REBUILD = (
    "Run `nanolab-daemon verify --rebuild`: it keeps this one aside, and makes a new one from what is published."
)


def remedy(error: Exception) -> str:
    """Tell what to do about a ledger that can't be used."""
    code = getattr(error, "sqlite_errorcode", None)
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT) or not isinstance(
        error, sqlite3.OperationalError | OSError
    ):
        return REBUILD
    return "Check the folder's rights and free space."


def unusable(error: Exception, path: Path, verb: str) -> EngineError:
    """Tell that the ledger can't be used, and what to do."""
    return EngineError(f"The ledger {path} can't be {verb}: {error}.", advice=remedy(error))


def _barred(folder: Path) -> EngineError:
    """Tell that this user may not look into the state folder, and who may."""
    advice = "Use sudo."
    with contextlib.suppress(OSError, KeyError):  # a folder on the way to it is closed too, or a number has no name
        found = folder.stat()
        user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(found.st_gid).gr_name
        if found.st_mode & stat.S_IRGRP and found.st_mode & stat.S_IXGRP and found.st_gid != 0:
            advice = (
                f"Use sudo, or become a member of its group: sudo usermod --append --groups {group} {user},"
                " from the next login on."
            )
    return EngineError(f"This user may not read the state folder {folder}.", advice=advice)


def _opened(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=30, cached_statements=64)
    try:
        # Of a new one: the record of a run is some 1.2 KB, and what is longer than a quarter of a page gets two.
        db.execute("PRAGMA page_size = 8192")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
        db.execute("PRAGMA cache_size = -8000")
        # Nothing is written before a commit, so that a full disk is met there and nowhere else.
        db.execute("PRAGMA cache_spill = OFF")
        db.execute("PRAGMA temp_store = MEMORY")
        trouble = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if trouble != "ok":
            raise sqlite3.DatabaseError(trouble)
        migrate(db)
    except UnicodeDecodeError as error:
        db.close()
        raise sqlite3.DatabaseError(GARBLED) from error
    except BaseException:
        db.close()  # an open transaction would lock the next one out
        raise
    return db


class Catalog:
    """The open ledger of one state directory."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._changes: list[tuple[str, Any]] = []  # since the last commit, to be made again if it fails
        self._noted: list[set[bytes]] = []  # each asked for by `note_met`
        # What the one connection that writes has last read or written: an engine asks for the same run some eight
        # times, from the answer to its file to that to its segments.
        self._keeps = False
        self._kept_files: Kept[bytes, FileRecord | None] = Kept(MOST_KEPT)
        self._kept_runs: Kept[str, RunRecord | None] = Kept(MOST_KEPT)
        self._holding: tuple[str, list[FileRecord]] | None = None  # what `holding` was asked last, and its answer
        self._settled: dict[bytes, int] = {}  # folder → the listing of which nothing is left to be done
        self.manifest_stale = False  # runs have changed; whoever has the manifest written resets it
        self.ledger_id: str = connection.execute("SELECT value FROM meta WHERE key = 'ledger_id'").fetchone()[0]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the ledger for writing; make it or bring it to the newest version. The caller holds the lock."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            catalog = cls(_opened(path))
        except (sqlite3.DatabaseError, OSError) as error:
            raise unusable(error, path, "opened") from error
        catalog._keeps = True
        return catalog

    @classmethod
    def open_to_read(cls, path: Path) -> Self | None:
        """Open the ledger beside its writer, and leave no trace in its folder; None where there is none yet.

        One that its writer is only just making is none yet. EngineError where this user may not read it.
        """
        # Looked at and never opened: a close would take the locks away that SQLite holds on it in this process.
        try:
            path.stat()
            if not os.access(path, os.R_OK, effective_ids=True):
                raise _barred(path.parent)
        except PermissionError as error:
            raise _barred(path.parent) from error
        except NotADirectoryError as error:
            raise EngineError(
                f"The state folder {path.parent} is no folder: a file is in its place.",
                advice="Name another in paths.state or with --state-dir, or move that file away.",
            ) from error
        except FileNotFoundError:
            return None
        # A writer keeps its journal beside the ledger. Without one nobody writes, and SQLite is told so: else it
        # would make that journal itself, in a folder in which the reader may have no right to.
        alone = not path.with_name(f"{path.name}-wal").exists()
        try:
            uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
            db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30)
        except sqlite3.DatabaseError as error:
            raise unusable(error, path, "read") from error
        try:
            # SQLite reads what is lacking of a page as zeros, and of these it makes records without contents.
            if alone and path.stat().st_size % db.execute("PRAGMA page_size").fetchone()[0]:
                raise sqlite3.DatabaseError("its last page is cut short")
            made = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0]
            if made and db.execute("SELECT count(*) FROM meta WHERE key = 'ledger_id'").fetchone()[0]:
                if (version := version_of(db)) < len(STEPS):
                    raise EngineError(
                        f"The ledger {path} is of an older nanolab-daemon (version {version} of {len(STEPS)}).",
                        advice="Restart the daemon or run `nanolab-daemon backfill`: that brings it up to date.",
                    )
                return cls(db)
        except EngineError:
            db.close()
            raise
        except sqlite3.DatabaseError as error:
            db.close()
            raise unusable(error, path, "read") from error
        except UnicodeDecodeError as error:
            db.close()
            raise unusable(sqlite3.DatabaseError(GARBLED), path, "read") from error
        db.close()
        return None

    def close(self) -> None:
        """Commit what is open and close."""
        try:
            self.commit()
        finally:
            self._db.close()

    def copied(self) -> Self:
        """Give a copy in memory, for asking what would be if something were written."""
        copy = sqlite3.connect(":memory:", isolation_level=None)
        self._db.backup(copy)
        return type(self)(copy)

    def write_anew(self, path: Path) -> None:
        """Write all of it to a place from which its file was deleted, and go on there.

        Nothing may be uncommitted, no question half answered. OSError or sqlite3.Error: it is of no more use.
        """
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as copy:
            copy.execute("PRAGMA synchronous = FULL")
            self._db.backup(copy)
        self._db.close()
        for rest in ("-wal", "-shm"):  # the old journal: the new ledger holds what is in it
            path.with_name(path.name + rest).unlink(missing_ok=True)
        new.replace(path)
        publish.sync(path.parent)
        self._db = _opened(path)

    @property
    def uncommitted(self) -> bool:
        """Whether changes wait for a commit."""
        return bool(self._changes)

    def commit(self) -> None:
        """Make all changes since the last commit durable, all or none of them.

        sqlite3.OperationalError if the disk does not take them. They are not lost by that: they stand as before, and
        wait for the next try.
        """
        if not self._changes:
            return
        try:
            self._db.execute("COMMIT")
        except sqlite3.OperationalError:
            self._repeat(self._changes)  # SQLite has rolled them back
            raise
        self._changes.clear()

    def rollback(self) -> None:
        """Forget all changes since the last commit."""
        self._changes.clear()
        self._forget_kept()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Undo what was recorded within, if the disk does not do what it speaks of (OSError)."""
        before, stale = len(self._changes), self.manifest_stale
        try:
            yield
        except OSError:
            del self._changes[before:]
            self.manifest_stale = stale
            self._repeat(self._changes)
            raise

    def _forget_kept(self) -> None:
        self._holding = None
        self._kept_files.clear()
        self._kept_runs.clear()

    def _repeat(self, changes: list[tuple[str, Any]]) -> None:
        self._forget_kept()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if changes:
            self._db.execute("BEGIN")
        for statement, values in changes:
            self._db.execute(statement, values)

    def _write(self, statement: str, values: Any = ()) -> int:
        if not self._db.in_transaction:
            self._db.execute("BEGIN")
        self._changes.append((statement, values))
        return self._db.execute(statement, values).rowcount

    # -- files ------------------------------------------------------------------------------------------------------

    def file(self, path: bytes) -> FileRecord | None:
        """Give what is known of one raw file."""
        if path in self._kept_files:
            return self._kept_files[path]
        row = self._db.execute(f"SELECT {_FILE} FROM files WHERE path = ?", (path,)).fetchone()
        record = None if row is None else _file(row)
        self._keep_file(path, record)
        return record

    def _keep_file(self, path: bytes, record: FileRecord | None) -> None:
        if self._keeps:
            self._kept_files[path] = record

    def files(self, where: str = "1", values: tuple[object, ...] = ()) -> Iterator[FileRecord]:
        """Give the raw files that an SQL condition selects, in the order of their paths."""
        for row in self._db.execute(f"SELECT {_FILE} FROM files WHERE {where} ORDER BY path", values):
            yield _file(row)

    def paths(self, where: str = "1", values: tuple[object, ...] = ()) -> Iterator[bytes]:
        """Give the paths of the raw files that an SQL condition selects; it may end with an order and a limit."""
        for (path,) in self._db.execute(f"SELECT path FROM files WHERE {where}", values):
            yield path

    def known_in(self, folder: bytes) -> dict[bytes, tuple[Fingerprint, FileState]]:
        """Give the present files directly in one folder, with what tells whether they have changed."""
        rows = self._db.execute(
            "SELECT path, size_bytes, mtime_ns, ctime_ns, inode, state FROM files WHERE folder = ? AND present",
            (folder,),
        )
        return {row[0]: (Fingerprint._make(row[1:5]), _STATES[row[5]]) for row in rows}

    def settle(self, folder: bytes, listing: int) -> None:
        """Note that a folder, listed so, asks for no work; it holds until one of its files is written about."""
        self._settled[folder] = listing

    def is_settled(self, folder: bytes, listing: int) -> bool:
        """Tell whether a folder is as it was when nothing was left to be done there."""
        return self._settled.get(folder) == listing

    def last_change(self, folder: bytes) -> float | None:
        """Give when a file in or below a folder was last changed (seconds since 1970); None where there is none."""
        below = (folder + b"/", folder + b"0")  # the byte after the slash
        query = "SELECT max(mtime_ns) FROM files WHERE path >= ? AND path < ?"
        newest = self._db.execute(query, below).fetchone()[0]
        return None if newest is None else newest / 1e9

    def known_folders(self) -> set[bytes]:
        """Give every folder that holds a present file."""
        return {row[0] for row in self._db.execute("SELECT DISTINCT folder FROM files WHERE present")}

    def same_inode(self, fingerprint: Fingerprint) -> list[FileRecord]:
        """Give the present files that may be this very file under another name."""
        where = "inode = ? AND size_bytes = ? AND mtime_ns = ? AND present"
        return list(self.files(where, (fingerprint.inode, fingerprint.size_bytes, fingerprint.mtime_ns)))

    def holding(self, run_id: str) -> list[FileRecord]:
        """Give the present files whose bytes hold this run, in the order of their paths."""
        if self._holding is None or self._holding[0] != run_id:
            found = list(self.files("run_id = ? AND present", (run_id,)))
            if not self._keeps:
                return found
            self._holding = run_id, found
        return list(self._holding[1])

    def put_file(self, record: FileRecord) -> None:
        """Record a file whole, over what was known of its path."""
        mark = record.fingerprint
        refused = record.rejection
        if record.run_id is not None or self._holds_run(record.path):
            self._runs_changed()
        self._met(record.path)
        self._write_file(
            record.path,
            f"INSERT OR REPLACE INTO files VALUES ({','.join('?' * 24)})",
            (
                record.path,
                os.path.dirname(record.path),
                record.present,
                mark.size_bytes,
                mark.mtime_ns,
                mark.ctime_ns,
                mark.inode,
                record.sha256,
                record.state,
                record.reason,
                record.proc,
                record.run_id,
                record.rows,
                *((refused.cause, refused.line, refused.text, refused.advice) if refused else (None,) * 4),
                record.attempts,
                record.republished,
                record.skip_bad_rows,
                record.version,
                record.seen_at,
                record.judged_at,
                record.terms,
            ),
        )
        if refused is None:  # of a refusal the table holds one reason, for the verdict and for its words
            self._keep_file(record.path, record)

    def set_state(self, path: bytes, state: FileState, reason: str) -> None:
        """Change a file's verdict where the file itself has not changed."""
        known = self._kept_files.get(path)
        self._write_file(path, "UPDATE files SET state = ?, reason = ? WHERE path = ?", (state, reason, path))
        if known is not None and known.rejection is None:
            self._keep_file(path, replace(known, state=state, reason=reason))

    def set_fingerprint(self, path: bytes, fingerprint: Fingerprint) -> None:
        """Note that the same bytes were found under another fingerprint."""
        if self._holds_run(path, present=False):
            self._runs_changed()
        self._met(path)
        self._write_file(
            path,
            "UPDATE files SET size_bytes = ?, mtime_ns = ?, ctime_ns = ?, inode = ?, present = 1 WHERE path = ?",
            (*fingerprint, path),
        )

    def terms_in_use(self) -> set[tuple[str | None, str | None]]:
        """Give procedure and terms of all that was judged for good: sources of runs, and what was refused."""
        return set(self._db.execute(f"SELECT DISTINCT proc, terms FROM files WHERE {_JUDGED}"))

    def outdate(self, proc: str | None, terms: str | None, fingerprint: Fingerprint) -> int:
        """Give all that was judged on some terms a fingerprint by which it is judged anew; tell how many."""
        self._settled.clear()
        self._kept_files.clear()
        self._holding = None
        return self._write(
            f"UPDATE files SET size_bytes = ?, mtime_ns = ?, ctime_ns = ?, inode = ? WHERE {_JUDGED}"
            " AND proc IS ? AND terms IS ?",
            (*fingerprint, proc, terms),
        )

    def set_missing(self, path: bytes) -> None:
        """Note that a path has vanished."""
        if self._holds_run(path):
            self._runs_changed()
        self._write_file(path, "UPDATE files SET present = 0 WHERE path = ?", (path,))

    def note_met(self) -> set[bytes]:
        """Give a set to which every file is added that is recorded as there from now on, until `forget_met`.

        A verdict that changes with what other files hold says nothing of whether the file is there.
        """
        self._noted.append(set())
        return self._noted[-1]

    def forget_met(self, noted: set[bytes]) -> None:
        """Add to a set no more. A second call does nothing."""
        self._noted = [one for one in self._noted if one is not noted]

    def _met(self, path: bytes) -> None:
        for noted in self._noted:
            noted.add(path)

    def _write_file(self, path: bytes, statement: str, values: tuple[object, ...]) -> None:
        self._settled.pop(os.path.dirname(path), None)
        self._kept_files.pop(path, None)
        self._holding = None
        self._write(statement, values)

    def _holds_run(self, path: bytes, *, present: bool = True) -> bool:
        """Tell whether a path, there or gone, is one of those whose names the manifest's flags are told from."""
        where = "path = ? AND present = ? AND run_id IS NOT NULL"
        return self._db.execute(f"SELECT 1 FROM files WHERE {where}", (path, present)).fetchone() is not None

    def move_file(self, old: bytes, new: bytes, fingerprint: Fingerprint) -> None:
        """Follow a file to its new path; runs that name it as their source follow too."""
        record = self.file(old)
        assert record is not None
        self._write_file(old, "DELETE FROM files WHERE path = ?", (old,))
        self.put_file(replace(record, path=new, fingerprint=fingerprint))
        self._kept_runs.clear()
        if self._write("UPDATE runs SET source = ? WHERE source = ?", (new, old)):
            self._runs_changed()

    # -- runs -------------------------------------------------------------------------------------------------------

    def run(self, run_id: str) -> RunRecord | None:
        """Give what is known of one published run."""
        if run_id in self._kept_runs:
            return self._kept_runs[run_id]
        row = self._db.execute(f"SELECT {_RUN} FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        run = None if row is None else _run(row)
        self._keep_run(run_id, run)
        return run

    def _keep_run(self, run_id: str, run: RunRecord | None) -> None:
        if self._keeps:
            self._kept_runs[run_id] = run

    def _write_run(self, run_id: str, statement: str, values: tuple[object, ...]) -> None:
        self._kept_runs.pop(run_id, None)
        self._runs_changed()
        self._write(statement, values)

    def runs(self, where: str = "1", values: tuple[object, ...] = ()) -> Iterator[RunRecord]:
        """Give the runs that an SQL condition selects, in the order of their start."""
        query = f"SELECT {_RUN} FROM runs WHERE {where} ORDER BY start_us, run_id"
        for row in self._db.execute(query, values):
            yield _run(row)

    def runs_in_parts(self, most: int) -> Iterator[list[RunRecord]]:
        """Give all runs in the order of their start, up to 32,766 at a time, as they stand at the first question.

        In memory, and in what is sorted, there are the ids alone and the runs of one part.
        """
        ids = self._db.execute("SELECT run_id FROM runs ORDER BY start_us, run_id")  # which holds the reading open
        while part := [run_id for (run_id,) in ids.fetchmany(most)]:
            rows = self._db.execute(f"SELECT {_RUN} FROM runs WHERE run_id IN ({_marks(part)})", part)
            found = {row[0]: row for row in rows}
            yield [_run(found[run_id]) for run_id in part]

    def parameter_names(self) -> set[str]:
        """Give the names of all further columns of the manifest that any run has."""
        return {name for (text,) in self._db.execute("SELECT parameters FROM runs") for name in json.loads(text)}

    def run_ids(self, where: str = "1", values: tuple[object, ...] = ()) -> Iterator[tuple[str, str, str, bytes]]:
        """Give run, procedure, date and source of the runs that an SQL condition selects; as `paths` takes it."""
        yield from self._db.execute(f"SELECT run_id, proc, date, source FROM runs WHERE {where}", values)

    def outputs_after(self, run_id: str, most: int) -> list[tuple[str, list[Any], list[list[Any]]]]:
        """Give of the next runs in the order of their ids each one's id, staged file and segments' files.

        A file is path, size in bytes, rows, SHA-256. This is what `runs` gives, less all that costs time.
        """
        query = "SELECT run_id, stage_file, segment_files FROM runs WHERE run_id > ? ORDER BY run_id LIMIT ?"
        found = self._db.execute(query, (run_id, most)).fetchall()
        return [(name, json.loads(staged), json.loads(cut) if cut != "[]" else []) for name, staged, cut in found]

    def published_folders(self) -> Iterator[tuple[str, str, str | None]]:
        """Give each run's id and its folders below the stage and the output root; None: it has no segments."""
        query = "SELECT run_id, proc, date, segment_files <> '[]' FROM runs"
        for run_id, proc, date, is_cut in self._db.execute(query):
            folder = f"proc={proc}/date={date}/run_id={run_id}"
            yield run_id, folder, _segments_folder(proc, folder) if is_cut else None

    def output_of(self, run_id: str) -> tuple[bytes, bool, list[Any], list[list[Any]]] | None:
        """Give a run's source, whether that has vanished, its staged file and its segments' files as those above."""
        query = "SELECT source, source_missing, stage_file, segment_files FROM runs WHERE run_id = ?"
        row = self._db.execute(query, (run_id,)).fetchone()
        return None if row is None else (row[0], bool(row[1]), json.loads(row[2]), json.loads(row[3]))

    def folders(self, run_id: str) -> tuple[str, ...]:
        """Give the folders in which a run is published, relative to stage and output root; none if unknown."""
        run = self._kept_runs.get(run_id)
        if run is not None:
            return run.folder, run.segments_folder
        row = self._db.execute("SELECT proc, stage_file FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        if row is None:
            return ()
        folder = _folder(json.loads(row[1])[0])
        return folder, _segments_folder(row[0], folder)

    def pending_runs(self) -> list[str]:
        """Give the runs whose second stage is not done, as ids."""
        return [row[0] for row in self._db.execute("SELECT run_id FROM runs WHERE segmentation = 'pending'")]

    def put_run(self, run: RunRecord) -> None:
        """Record a run whole, over what was known of it."""
        facts, end = run.facts, run.facts.completeness
        self._write_run(
            facts.run_id,
            f"INSERT OR REPLACE INTO runs VALUES ({','.join('?' * 32)})",
            (
                facts.run_id,
                facts.proc,
                facts.date,
                facts.date_origin,
                facts.start_us,
                run.source,
                run.source_sha256,
                run.source_missing,
                run.revision,
                facts.rows,
                end.expected_rows,
                end.expected_end_s,
                end.complete,
                end.rule,
                facts.bad_rows_skipped,
                facts.chip_group,
                facts.chip_number,
                facts.sample,
                facts.procedure_version,
                facts.with_light,
                facts.wavelength_nm,
                facts.laser_voltage_V,
                json.dumps(facts.parameters),
                run.version,
                json.dumps(_plain(run.stage_file)),
                run.staged_at,
                run.segmentation,
                json.dumps([_plain(file) for file in run.segment_files]),
                run.rows_outside,
                run.segmented_at,
                facts.segment_kind,
                None if facts.flags is None else json.dumps(facts.flags),
            ),
        )
        self._keep_run(facts.run_id, run)

    def set_segments(self, run_id: str, files: tuple[OutputFile, ...], rows_outside: int, at: float) -> None:
        """Record a run's published segments."""
        run = self._kept_runs.get(run_id)
        self._write_run(
            run_id,
            "UPDATE runs SET segmentation = 'done', segment_files = ?, rows_outside = ?, segmented_at = ?"
            " WHERE run_id = ?",
            (json.dumps([_plain(file) for file in files]), rows_outside, at, run_id),
        )
        if run is not None:
            done = replace(run, segmentation="done", segment_files=files, rows_outside=rows_outside, segmented_at=at)
            self._keep_run(run_id, done)

    def set_pending(self, run_id: str) -> None:
        """Ask for a run's second stage again."""
        self._write_run(run_id, "UPDATE runs SET segmentation = 'pending' WHERE run_id = ?", (run_id,))

    def set_not_segmented(self, run_id: str) -> None:
        """Give up a run's second stage, until it is published or asked for again."""
        self._write_run(run_id, "UPDATE runs SET segmentation = 'failed' WHERE run_id = ?", (run_id,))

    def set_source(self, run_id: str, source: bytes, *, missing: bool) -> None:
        """Name the raw file that holds a run, or say that none does any more."""
        self._write_run(
            run_id, "UPDATE runs SET source = ?, source_missing = ? WHERE run_id = ?", (source, missing, run_id)
        )

    # -- places -----------------------------------------------------------------------------------------------------

    def places(self) -> list[tuple[bytes, str, str]]:
        """Give the mounts that the raw folder had last: path below raw, mount point, kind."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'places'").fetchone()
        return [] if row is None else [(os.fsencode(p), point, kind) for p, point, kind in json.loads(row[0])]

    def set_places(self, places: Iterable[tuple[bytes, str, str]]) -> None:
        """Note which mounts the raw folder has."""
        text = json.dumps([(os.fsdecode(path), point, kind) for path, point, kind in places])
        self._write("INSERT OR REPLACE INTO meta VALUES ('places', ?)", (text,))

    # -- the quarantine ---------------------------------------------------------------------------------------------

    def quarantine(self, version: str) -> frozenset[str]:
        """Give the contents (SHA-256) that have cost workers of this version of the program their lives."""
        rows = self._db.execute("SELECT sha256 FROM quarantine WHERE version = ?", (version,))
        return frozenset(row[0] for row in rows)

    def quarantined(self, sha256: str) -> tuple[Rejection, int] | None:
        """Give why a content is in quarantine, and how many workers it has cost; None if it is not."""
        query = "SELECT cause, reason, advice, attempts FROM quarantine WHERE sha256 = ?"
        row = self._db.execute(query, (sha256,)).fetchone()
        return None if row is None else (Rejection(RejectCause(row[0]), row[1], advice=row[2]), row[3])

    def put_in_quarantine(self, sha256: str, rejection: Rejection, attempts: int, version: str) -> None:
        """Note that a content is not to be parsed any more by this version of the program."""
        values = (sha256, version, rejection.cause, rejection.reason, rejection.advice, attempts)
        self._write("INSERT OR REPLACE INTO quarantine VALUES (?,?,?,?,?,?)", values)

    def release(self, sha256: str) -> None:
        """Let a content out of quarantine: it was tried again, and harmed nobody."""
        self._write("DELETE FROM quarantine WHERE sha256 = ?", (sha256,))

    # -- the program ------------------------------------------------------------------------------------------------

    def program(self) -> str | None:
        """Give the version of the program that has judged all this; None where that was never noted."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'program'").fetchone()
        return None if row is None else str(row[0])

    def set_program(self, version: str) -> None:
        """Note which version of the program judges from now on; the quarantine of others is lifted."""
        self._write("INSERT OR REPLACE INTO meta VALUES ('program', ?)", (version,))
        self._write("DELETE FROM quarantine WHERE version <> ?", (version,))

    # -- the laboratory ---------------------------------------------------------------------------------------------

    def lab(self) -> str | None:
        """Give the name of the laboratory whose runs these are; None where that was never noted."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'lab'").fetchone()
        return None if row is None else str(row[0])

    def set_lab(self, name: str) -> None:
        """Note whose runs these are."""
        self._write("INSERT OR REPLACE INTO meta VALUES ('lab', ?)", (name,))

    # -- the manifest -----------------------------------------------------------------------------------------------

    def manifest_serial(self) -> str | None:
        """Give the mark of the manifest that tells what the ledger does; None if there is none as new as it."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'manifest'").fetchone()
        return None if row is None else str(row[0])

    def set_manifest_serial(self, serial: int) -> None:
        """Note that a manifest was written, and that no run has changed since."""
        self._write("INSERT OR REPLACE INTO meta VALUES ('manifest', ?)", (str(serial),))

    def _runs_changed(self) -> None:
        """Note, in the same transaction, that the manifest is behind: a killed engine's successor must know."""
        if not self.manifest_stale:
            self.manifest_stale = True
            self._write("DELETE FROM meta WHERE key = 'manifest'")

    # -- questions --------------------------------------------------------------------------------------------------

    def count_files(self) -> dict[FileState, int]:
        """Count the present files by state."""
        rows = self._db.execute("SELECT state, count(*) FROM files WHERE present GROUP BY state")
        return {FileState(state): number for state, number in rows}

    def judged_since(self, at: float) -> dict[tuple[FileState, str | None], int]:
        """Count the present files judged since a moment, by state and by the cause of a rejection."""
        rows = self._db.execute(
            "SELECT state, cause, count(*) FROM files WHERE present AND judged_at >= ? GROUP BY state, cause", (at,)
        )
        return {(FileState(state), cause): number for state, cause, number in rows}

    def cut_since(self, at: float) -> tuple[int, int]:
        """Count the runs whose second stage was done since a moment, and their segments."""
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(json_array_length(segment_files)), 0) FROM runs WHERE segmented_at >= ?",
            (at,),
        ).fetchone()
        return int(row[0]), int(row[1])

    def copies_of(self, run_ids: Sequence[str]) -> Iterator[tuple[str, str, bytes]]:
        """Give of some runs what `copies` gives of all."""
        return self._copies(f"runs.run_id IN ({_marks(run_ids)})", tuple(run_ids))

    def copies(self, run_id: str | None = None, since: float = 0.0) -> Iterator[tuple[str, str, bytes]]:
        """Give run, date and path of every present file with the very bytes that a run was made from.

        Of one run or of all that were staged since a moment, and only of those whose start is known. A run without
        such a file has its last source.
        """
        which, value = _staged_since(since) if run_id is None else ("runs.run_id = ?", (run_id,))
        return self._copies(which, value)

    def _copies(self, which: str, value: tuple[object, ...]) -> Iterator[tuple[str, str, bytes]]:
        return self._db.execute(
            "SELECT runs.run_id, runs.date, coalesce(files.path, runs.source) FROM runs LEFT JOIN files"
            " ON files.run_id = runs.run_id AND files.sha256 = runs.source_sha256 AND files.present"
            f" WHERE {which} AND runs.date_origin = ?",
            (*value, DateOrigin.META),
        )

    def flags_since(self, at: float = 0.0) -> dict[str, int]:
        """Count the stored flags of the runs staged since a moment."""
        which, value = _staged_since(at)
        rows = self._db.execute(
            f"SELECT value, count(*) FROM runs, json_each(runs.flags) WHERE {which} GROUP BY value", value
        )
        return dict(rows)

    def agreement_since(self, at: float) -> dict[str, Agreement]:
        """Tell for each procedure how the runs staged since a moment compare with their headers."""
        contrary = (
            "(expected_rows IS NOT NULL AND (complete IS NULL OR (NOT complete AND rows > expected_rows))"
            f" OR instr(rule, '{BEYOND_END}') > 0)"
        )
        which, value = _staged_since(at)
        rows = self._db.execute(
            f"SELECT proc, coalesce(sum(complete), 0), coalesce(sum(NOT complete AND NOT ({contrary})), 0),"
            f" sum({contrary}), sum(complete IS NULL AND NOT ({contrary}))"
            f" FROM runs WHERE {which} GROUP BY proc ORDER BY proc",
            value,
        )
        return {proc: Agreement(*numbers) for proc, *numbers in rows}

    def has_runs(self) -> bool:
        """Tell whether anything is published."""
        return self._db.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is not None

    def count_runs(self) -> int:
        """Count all runs."""
        return int(self._db.execute("SELECT count(*) FROM runs").fetchone()[0])

    def totals(self, since: float = 0.0) -> Mapping[str, int]:
        """Count runs, rows and segments, staged since a moment (seconds since 1970)."""
        which, value = _staged_since(since)
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(rows), 0), coalesce(sum(json_array_length(segment_files)), 0),"
            " coalesce(sum(source_missing), 0), coalesce(sum(segmentation = 'pending'), 0)"
            f" FROM runs WHERE {which}",
            value,
        ).fetchone()
        return dict(zip(("runs", "rows", "segments", "source_missing", "pending"), row, strict=True))


def _marks(values: Sequence[str]) -> str:
    return ",".join("?" * len(values))


def _staged_since(at: float) -> tuple[str, tuple[float, ...]]:
    """Select the runs staged since a moment. All of them without a condition: an index would only lead astray."""
    return ("runs.staged_at >= ?", (at,)) if at > 0.0 else ("1", ())


# What has cost workers their lives, or was given up for want of rows, is not judged by the settings.
_JUDGED = (
    "present AND (state IN ('staged', 'segmented') OR state = 'rejected'"
    " AND cause NOT IN ('abandoned', 'crashed', 'timed_out', 'out_of_memory', 'internal'))"
)
_FILE = (
    "path, present, size_bytes, mtime_ns, ctime_ns, inode, sha256, state, reason, proc, run_id, rows,"
    " cause, line, text, advice, attempts, republished, skip_bad_rows, version, seen_at, judged_at, terms"
)
_RUN = (
    "run_id, proc, start_us, date, date_origin, rows, complete, expected_rows, expected_end_s, rule,"
    " chip_group, chip_number, sample, procedure_version, with_light, wavelength_nm, laser_voltage_V, parameters,"
    " bad_rows_skipped, source, source_sha256, source_missing, revision, version, stage_file, staged_at,"
    " segmentation, segment_files, rows_outside, segmented_at, segment_kind, flags"
)


def _plain(file: OutputFile) -> tuple[str, int, int, str]:
    return file.path, file.size_bytes, file.rows, file.sha256


def _file(row: tuple[Any, ...]) -> FileRecord:
    path, present, size, mtime, ctime, inode, sha256, state, reason, proc, run_id, rows = row[:12]
    cause, line, text, advice, attempts, republished, skip, version, seen_at, judged_at, terms = row[12:]
    return FileRecord(
        path=path,
        present=bool(present),
        fingerprint=Fingerprint(size, mtime, ctime, inode),
        sha256=sha256,
        state=_STATES[state],
        reason=reason,
        proc=proc,
        run_id=run_id,
        rows=rows,
        rejection=None if cause is None else Rejection(RejectCause(cause), reason, line, text, advice or ""),
        attempts=attempts,
        republished=republished,
        skip_bad_rows=bool(skip),
        version=version,
        seen_at=seen_at,
        judged_at=judged_at,
        terms=terms,
    )


def _run(row: tuple[Any, ...]) -> RunRecord:
    run_id, proc, start_us, date, origin, rows, complete, expected_rows, expected_end_s, rule = row[:10]
    chip_group, chip_number, sample, version, light, wavelength, voltage, parameters, skipped = row[10:19]
    source, sha256, missing, revision, program, stage_file, staged_at = row[19:26]
    segmentation, segment_files, rows_outside, segmented_at, kind, flags = row[26:]
    return RunRecord(
        facts=RunFacts(
            run_id=run_id,
            proc=proc,
            start_us=start_us,
            date=date,
            date_origin=_ORIGINS[origin],
            rows=rows,
            completeness=Completeness(
                None if complete is None else bool(complete), expected_rows, expected_end_s, rule
            ),
            chip_group=chip_group,
            chip_number=chip_number,
            sample=sample,
            procedure_version=version,
            with_light=bool(light),
            wavelength_nm=wavelength,
            laser_voltage_V=voltage,
            parameters=json.loads(parameters),
            bad_rows_skipped=skipped,
            segment_kind=None if kind is None else SegmentKind(kind),
            flags=None if flags is None else tuple(json.loads(flags)),
        ),
        source=source,
        source_sha256=sha256,
        source_missing=bool(missing),
        revision=revision,
        version=program,
        stage_file=OutputFile(*json.loads(stage_file)),
        staged_at=staged_at,
        segmentation=segmentation,
        segment_files=tuple(OutputFile(*file) for file in json.loads(segment_files)),
        rows_outside=rows_outside,
        segmented_at=segmented_at,
    )
