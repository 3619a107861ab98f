"""The ledger: what goes in comes out, commits are whole or not at all, other versions are handled with care."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanolab_daemon import catalog_schema
from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord, RunRecord
from nanolab_daemon.errors import EngineError, RejectCause
from nanolab_daemon.model import (
    Completeness,
    DateOrigin,
    FileState,
    Fingerprint,
    OutputFile,
    Rejection,
    RunFacts,
    SegmentKind,
)

INTEGERS = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
REALS = st.floats(allow_nan=False)
MAYBE_TEXT = st.none() | TEXT


@st.composite
def file_records(draw: st.DrawFn) -> FileRecord:
    reason = draw(TEXT)
    refused = st.builds(
        Rejection, st.sampled_from(RejectCause), st.just(reason), st.none() | st.integers(1, 9), MAYBE_TEXT, TEXT
    )
    return FileRecord(
        path=draw(st.binary(min_size=1, max_size=30)),
        present=draw(st.booleans()),
        fingerprint=Fingerprint(*draw(st.tuples(INTEGERS, INTEGERS, INTEGERS, INTEGERS))),
        sha256=draw(MAYBE_TEXT),
        state=draw(st.sampled_from(FileState)),
        reason=reason,
        proc=draw(MAYBE_TEXT),
        run_id=draw(MAYBE_TEXT),
        rows=draw(st.none() | st.integers(0, 10**9)),
        rejection=draw(st.none() | refused),
        attempts=draw(st.integers(0, 5)),
        republished=draw(st.integers(0, 5)),
        skip_bad_rows=draw(st.booleans()),
        version=draw(TEXT),
        seen_at=draw(REALS),
        judged_at=draw(REALS),
    )


OUTPUTS = st.builds(OutputFile, TEXT, st.integers(0, 10**9), st.integers(0, 10**9), TEXT)


@st.composite
def run_records(draw: st.DrawFn) -> RunRecord:
    segmentation = draw(st.sampled_from(["none", "pending", "done", "failed"]))
    facts = RunFacts(
        run_id=draw(TEXT),
        proc=draw(TEXT),
        start_us=draw(INTEGERS),
        date=draw(TEXT),
        date_origin=draw(st.sampled_from(DateOrigin)),
        rows=draw(st.integers(0, 10**9)),
        completeness=Completeness(
            draw(st.none() | st.booleans()),
            draw(st.none() | st.integers(0, 10**9)),
            draw(st.none() | REALS),
            draw(TEXT),
        ),
        chip_group=draw(MAYBE_TEXT),
        chip_number=draw(st.none() | st.integers(-(2**53), 2**53)),
        sample=draw(MAYBE_TEXT),
        procedure_version=draw(MAYBE_TEXT),
        with_light=draw(st.booleans()),
        wavelength_nm=draw(st.none() | REALS),
        laser_voltage_V=draw(st.none() | REALS),
        parameters=draw(st.dictionaries(TEXT, REALS, max_size=3)),
        bad_rows_skipped=draw(st.integers(0, 9)),
        segment_kind=draw(st.none() | st.sampled_from(SegmentKind)),
        flags=draw(st.none() | st.lists(TEXT, max_size=3).map(tuple)),
    )
    return RunRecord(
        facts=facts,
        source=draw(st.binary(max_size=20)),
        source_sha256=draw(TEXT),
        source_missing=draw(st.booleans()),
        revision=draw(st.integers(1, 99)),
        version=draw(TEXT),
        stage_file=draw(OUTPUTS),
        staged_at=draw(REALS),
        segmentation=segmentation,
        segment_files=tuple(draw(st.lists(OUTPUTS, max_size=3))),
        rows_outside=draw(st.none() | st.integers(0, 99)),
        segmented_at=draw(st.none() | REALS),
    )


def a_file(path: bytes = b"a.csv") -> FileRecord:
    return FileRecord(
        path,
        *(True, Fingerprint(1, 2, 3, 4), "sha", FileState.STAGED, "why", "IV", "run", 44, None),
        *(0, 0, False, "0.1", 1.0, 2.0),
    )


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with closing(Catalog.open(tmp_path / FILE_NAME)) as opened:
        yield opened


@given(file_records())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_files_come_back_as_they_were(catalog: Catalog, record: FileRecord) -> None:
    """Every field of a file's record survives, whatever bytes its name has."""
    catalog.put_file(record)
    assert catalog.file(record.path) == record
    assert record in list(catalog.files())


@given(run_records())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
def test_runs_come_back_as_they_were(catalog: Catalog, record: RunRecord) -> None:
    """Every field of a run's record survives."""
    catalog.put_run(record)
    assert catalog.run(record.run_id) == record


def test_folders_and_inodes(catalog: Catalog) -> None:
    """Files are found by the folder that they are directly in, and by what a rename does not change."""
    for path in (b"a.csv", b"x/a.csv", b"x/y/a.csv", b"x/gone.csv"):
        catalog.put_file(replace(a_file(path), present=path != b"x/gone.csv"))
    assert set(catalog.known_in(b"x")) == {b"x/a.csv"}
    assert set(catalog.known_in(b"")) == {b"a.csv"}
    assert catalog.known_folders() == {b"", b"x", b"x/y"}
    same = catalog.same_inode(Fingerprint(1, 2, 99, 4))
    assert [record.path for record in same] == [b"a.csv", b"x/a.csv", b"x/y/a.csv"]
    assert catalog.same_inode(Fingerprint(1, 3, 3, 4)) == []


def test_moved_file_takes_its_record_along(catalog: Catalog) -> None:
    """A renamed file keeps all that is known of it, under its new name alone."""
    catalog.put_file(a_file())
    catalog.move_file(b"a.csv", b"b/c.csv", Fingerprint(1, 2, 9, 4))
    assert catalog.file(b"a.csv") is None
    assert catalog.file(b"b/c.csv") == replace(a_file(b"b/c.csv"), fingerprint=Fingerprint(1, 2, 9, 4))
    assert set(catalog.known_in(b"b")) == {b"b/c.csv"}


def test_readers_see_commits_only(catalog: Catalog, tmp_path: Path) -> None:
    """A reader beside the writer sees what is committed, whole, and can't write."""
    catalog.put_file(a_file())
    catalog.commit()
    catalog.put_file(a_file(b"b.csv"))
    reader = Catalog.open_to_read(tmp_path / FILE_NAME)
    assert reader is not None
    assert [record.path for record in reader.files()] == [b"a.csv"]
    with pytest.raises(sqlite3.OperationalError):
        reader.put_file(a_file(b"c.csv"))
    reader._db.close()
    assert Catalog.open_to_read(tmp_path / "none") is None


_WRITER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_catalog import a_file
from nanolab_daemon.catalog import Catalog
catalog = Catalog.open(Path(sys.argv[1]))
for number in range(1000):
    catalog.put_file(a_file(b"%d.csv" % number))
    if number == 499:
        catalog.commit()
print("ready", flush=True)
signal.pause()
"""


def test_killed_between_write_and_commit(tmp_path: Path) -> None:
    """A writer killed before its commit leaves what was committed before, all of it and nothing else."""
    path = tmp_path / FILE_NAME
    here = str(Path(__file__).parent)
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(path), here], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        os.kill(writer.pid, signal.SIGKILL)
    catalog = Catalog.open(path)
    assert len(list(catalog.files())) == 500
    catalog.close()


def test_newer_ledger_is_refused(tmp_path: Path) -> None:
    """A ledger of a newer program is refused with advice, and not touched."""
    Catalog.open(tmp_path / FILE_NAME).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(EngineError, match="newer nanolab-daemon"):
        Catalog.open(tmp_path / FILE_NAME)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_older_ledger_is_not_read_as_if_it_were_new(tmp_path: Path) -> None:
    """Who may only read can't bring a ledger up to date: it is told who can, and nothing is touched."""
    path = tmp_path / FILE_NAME
    with sqlite3.connect(path) as db:
        db.executescript(catalog_schema.STEPS[0][1] + "PRAGMA user_version = 1;")
        db.execute("INSERT INTO meta VALUES ('ledger_id', 'old')")
    db.close()
    before = path.read_bytes()
    with pytest.raises(EngineError, match="older nanolab-daemon") as told:
        Catalog.open_to_read(path)
    assert "backfill" in told.value.advice
    assert path.read_bytes() == before


def test_migrations_commit_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails leaves the ledger at the step before it, with all its contents; mended, it goes on."""
    first = Catalog.open(tmp_path / FILE_NAME)
    first.put_file(a_file())
    first.close()
    steps = catalog_schema.STEPS
    broken = ("broken", "ALTER TABLE files ADD COLUMN half TEXT; SELECT no_such_function();")
    monkeypatch.setattr(catalog_schema, "STEPS", (*steps, broken))
    with pytest.raises(EngineError, match="can't be opened"):
        Catalog.open(tmp_path / FILE_NAME)
    monkeypatch.setattr(catalog_schema, "STEPS", steps)
    again = Catalog.open(tmp_path / FILE_NAME)
    assert again.file(b"a.csv") == a_file()
    assert again.ledger_id == first.ledger_id
    again.close()


@pytest.mark.parametrize("contents", [b"no database at all" * 100, b"SQLite format 3\0" + b"x" * 4096])
def test_damaged_ledger_is_told(tmp_path: Path, contents: bytes) -> None:
    """A file that is no ledger stops the program with a clear word."""
    (tmp_path / FILE_NAME).write_bytes(contents)
    with pytest.raises(EngineError, match=r"ledger .* can't be opened"):
        Catalog.open(tmp_path / FILE_NAME)
