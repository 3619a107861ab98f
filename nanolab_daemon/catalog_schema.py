"""The ledger's tables, as named steps from one version to the next. Steps already released are never edited."""

from __future__ import annotations

import sqlite3
import uuid

from nanolab_daemon.errors import EngineError

_FIRST = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- one row for each path below raw that was ever judged
CREATE TABLE files (
    path BLOB PRIMARY KEY,          -- relative to raw, as the file system has it
    folder BLOB NOT NULL,
    present INTEGER NOT NULL,       -- 0: the path has vanished since
    size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
    sha256 TEXT,                    -- of the bytes that were judged; NULL if they were never read
    state TEXT NOT NULL,
    reason TEXT NOT NULL,           -- the verdict in words
    proc TEXT,
    run_id TEXT,                    -- the run these bytes hold, published from here or not
    rows INTEGER,
    cause TEXT, line INTEGER, text TEXT, advice TEXT,   -- of a rejection
    attempts INTEGER NOT NULL,      -- times that a worker was lost over these bytes
    republished INTEGER NOT NULL,   -- times that the file grew after its run was published
    skip_bad_rows INTEGER NOT NULL,
    version TEXT NOT NULL,          -- of the program that judged
    seen_at REAL NOT NULL, judged_at REAL NOT NULL      -- seconds since 1970
) WITHOUT ROWID;
CREATE INDEX files_by_folder ON files (folder);
CREATE INDEX files_by_run ON files (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX files_by_inode ON files (inode);
CREATE INDEX files_by_state ON files (state);

-- one row for each published run
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY,
    proc TEXT NOT NULL, date TEXT NOT NULL, date_origin TEXT NOT NULL, start_us INTEGER NOT NULL,
    source BLOB NOT NULL,           -- the raw file it was made from, as a path in `files`
    source_sha256 TEXT NOT NULL,
    source_missing INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    rows INTEGER NOT NULL, expected_rows INTEGER, expected_end_s REAL, complete INTEGER, rule TEXT NOT NULL,
    bad_rows_skipped INTEGER NOT NULL,
    chip_group TEXT, chip_number INTEGER, sample TEXT, procedure_version TEXT,
    with_light INTEGER NOT NULL, wavelength_nm REAL, laser_voltage_V REAL,
    parameters TEXT NOT NULL,       -- JSON: further columns of the manifest
    version TEXT NOT NULL,
    stage_file TEXT NOT NULL,       -- JSON: the published file as [path, size, rows, sha256]
    staged_at REAL NOT NULL,
    segmentation TEXT NOT NULL,     -- none, pending, done, failed
    segment_files TEXT NOT NULL,    -- JSON: a list of such
    rows_outside INTEGER,
    segmented_at REAL
) WITHOUT ROWID;
CREATE INDEX runs_pending ON runs (segmentation) WHERE segmentation = 'pending';
CREATE INDEX runs_by_source ON runs (source);
"""

_FLAGS = """
ALTER TABLE runs ADD COLUMN segment_kind TEXT;  -- sweep, light, plateau, wavelength; NULL: no second stage
ALTER TABLE runs ADD COLUMN flags TEXT;         -- JSON: a list; NULL: staged before there were flags
-- What was staged before lacks both, and the marks by which it is cut: the next scan stages it anew. The fingerprint
-- is the registrar's AGAIN.
UPDATE files SET size_bytes = -2, mtime_ns = -2, ctime_ns = -2, inode = -2
    WHERE path IN (SELECT source FROM runs WHERE NOT source_missing) AND present;
UPDATE runs SET segment_kind = 'sweep' WHERE segmentation <> 'none';
DELETE FROM meta WHERE key = 'manifest';
"""

_QUARANTINE = """
-- contents that have cost workers their lives: neither their files nor copies of these are parsed again
CREATE TABLE quarantine (
    sha256 TEXT PRIMARY KEY,
    version TEXT NOT NULL,          -- of the program that can't stand it
    cause TEXT NOT NULL, reason TEXT NOT NULL, advice TEXT NOT NULL,
    attempts INTEGER NOT NULL
) WITHOUT ROWID;
"""

_TERMS = """
-- on which terms the file was judged (see terms.py); NULL: before that was noted, so it is judged anew
ALTER TABLE files ADD COLUMN terms TEXT;
"""

_MOMENTS = """
-- what has happened since a moment is asked at the end of each command, and by whoever looks at today
CREATE INDEX runs_by_staged_at ON runs (staged_at);
CREATE INDEX runs_by_segmented_at ON runs (segmented_at) WHERE segmented_at IS NOT NULL;
"""

STEPS: tuple[tuple[str, str], ...] = (
    ("files and runs", _FIRST),
    ("flags and kinds of segments", _FLAGS),
    ("quarantine", _QUARANTINE),
    ("terms", _TERMS),
    ("moments", _MOMENTS),
)


def version_of(connection: sqlite3.Connection) -> int:
    """Give a ledger's version, from 0; one that this program is too old for is refused."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(STEPS):
        raise EngineError(
            f"The ledger was written by a newer nanolab-daemon (version {version}, this one knows {len(STEPS)}).",
            advice="Upgrade nanolab-daemon, or give this one a state folder of its own.",
        )
    return version


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a ledger to the newest version, step by step, each committed with its mark."""
    version = version_of(connection)
    for number, (_, script) in enumerate(STEPS[version:], version + 1):
        connection.executescript(f"BEGIN;{script}PRAGMA user_version = {number};COMMIT;")
    connection.execute("INSERT OR IGNORE INTO meta VALUES ('ledger_id', ?)", (uuid.uuid4().hex[:12],))
    connection.commit()
