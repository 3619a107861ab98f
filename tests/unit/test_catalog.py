"""The ledger: what goes in comes out, commits are whole or not at all, other versions are handled with care."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
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


PATHS, RUN_IDS = st.sampled_from([b"a.csv", b"x/b.csv", b"x/c.csv"]), st.sampled_from(["1", "2"])
MARKS = st.builds(Fingerprint, *[st.integers(0, 9)] * 4)
FILES = st.builds(lambda r, p, i: replace(r, path=p, run_id=i), file_records(), PATHS, RUN_IDS)
RUNS = st.builds(lambda r, i: replace(r, facts=replace(r.facts, run_id=i)), run_records(), RUN_IDS)
ASKED = (
    st.tuples(st.just("file"), PATHS),
    st.tuples(st.just("run"), RUN_IDS),
    st.tuples(st.just("holding"), RUN_IDS),
    st.tuples(st.just("put_file"), FILES),
    st.tuples(st.just("set_state"), PATHS, st.sampled_from(FileState), TEXT),
    st.tuples(st.just("set_fingerprint"), PATHS, MARKS),
    st.tuples(st.just("set_missing"), PATHS),
    st.tuples(st.just("outdate"), st.none(), st.none(), MARKS),
    st.tuples(st.just("put_run"), RUNS),
    st.tuples(st.just("set_segments"), RUN_IDS, st.lists(OUTPUTS, max_size=2).map(tuple), st.integers(0, 9), REALS),
    st.tuples(st.just("set_pending"), RUN_IDS),
    st.tuples(st.just("set_not_segmented"), RUN_IDS),
    st.tuples(st.just("commit")),
    st.tuples(st.just("rollback")),
)


@given(st.lists(st.one_of(ASKED), max_size=25))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=100)
def test_what_is_kept_at_hand_is_what_the_tables_hold(catalog: Catalog, asked: list[tuple[Any, ...]]) -> None:
    """Whatever is asked and written in whatever order, each record that is given is that of the table."""
    for name, *values in asked:
        getattr(catalog, name)(*values)
    for path in (b"a.csv", b"x/b.csv", b"x/c.csv"):
        assert catalog.file(path) == next(catalog.files("path = ?", (path,)), None)
    for run_id in ("1", "2"):
        assert catalog.run(run_id) == next(catalog.runs("run_id = ?", (run_id,)), None)
        assert catalog.holding(run_id) == list(catalog.files("run_id = ? AND present", (run_id,)))
        kept = catalog.folders(run_id)
        catalog._forget_kept()
        assert catalog.folders(run_id) == kept


@pytest.mark.parametrize(
    "change",
    [
        lambda catalog: catalog.put_file(replace(a_file(b"b.csv"), run_id="1")),
        lambda catalog: catalog.set_state(b"a.csv", FileState.SUPERSEDED, "another"),
        lambda catalog: catalog.set_fingerprint(b"a.csv", Fingerprint(9, 9, 9, 9)),
        lambda catalog: catalog.set_missing(b"a.csv"),
        lambda catalog: catalog.move_file(b"a.csv", b"c.csv", Fingerprint(1, 2, 3, 4)),
        lambda catalog: catalog.outdate(None, None, Fingerprint(-2, -2, -2, -2)),
        lambda catalog: catalog.rollback(),
    ],
    ids=["put", "state", "fingerprint", "missing", "move", "outdate", "rollback"],
)
def test_who_holds_a_run_is_told_anew_after_every_change(
    catalog: Catalog, change: Callable[[Catalog], object]
) -> None:
    catalog.put_file(replace(a_file(), run_id="1", proc=None, terms=None, state=FileState.STAGED, rejection=None))
    before = catalog.holding("1")
    change(catalog)
    assert catalog.holding("1") == list(catalog.files("run_id = ? AND present", ("1",)))
    assert catalog.holding("1") != before


@given(run_records())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
def test_runs_come_back_as_they_were(catalog: Catalog, record: RunRecord) -> None:
    """Every field of a run's record survives."""
    catalog.put_run(record)
    assert catalog.run(record.run_id) == record
    assert list(catalog.runs("run_id = ?", (record.run_id,))) == [record]


@given(st.lists(run_records(), max_size=5, unique_by=lambda run: run.run_id), st.integers(0, 4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
def test_what_happened_since_a_moment_is_what_the_runs_say(
    catalog: Catalog, runs: list[RunRecord], pick: int
) -> None:
    """Of all runs for the moment 0, else of those from the moment on, which here is that of one of them."""
    assume(not any("\0" in flag for run in runs for flag in run.facts.flags or ()))  # SQLite's JSON ends there
    catalog._db.execute("DELETE FROM runs")
    for run in runs:
        catalog.put_run(run)
    at = abs(runs[pick].staged_at) if pick < len(runs) else 0.0
    since = [run for run in runs if not at or run.staged_at >= at]
    flags = Counter(flag for run in since for flag in run.facts.flags or ())
    cut = [run for run in runs if run.segmented_at is not None and run.segmented_at >= at]
    assert catalog.count_runs() == len(runs)
    assert catalog.totals(at) == {
        "runs": len(since),
        "rows": sum(run.facts.rows for run in since),
        "segments": sum(len(run.segment_files) for run in since),
        "source_missing": sum(run.source_missing for run in since),
        "pending": sum(run.segmentation == "pending" for run in since),
    }
    assert catalog.flags_since(at) == flags
    assert catalog.cut_since(at) == (len(cut), sum(len(run.segment_files) for run in cut))
    dated = {run.run_id: run.source for run in since if run.facts.date_origin is DateOrigin.META}
    assert {run_id: path for run_id, _, path in catalog.copies(since=at)} == dated
    for run in runs:
        assert {one[0] for one in catalog.copies(run.run_id)} <= {run.run_id}
    assert sum(sum(agreed) for agreed in catalog.agreement_since(at).values()) == len(since)


def test_what_happened_since_a_moment_is_not_searched_for_among_all_runs(catalog: Catalog) -> None:
    asked: list[str] = []
    catalog._db.set_trace_callback(asked.append)
    catalog.totals(1.0), catalog.flags_since(1.0), catalog.cut_since(1.0), catalog.agreement_since(1.0)
    list(catalog.copies(since=1.0)), list(catalog.copies("a"))
    catalog._db.set_trace_callback(None)
    assert len(asked) == 6
    for question in asked:
        plan = " ".join(row[3] for row in catalog._db.execute(f"EXPLAIN QUERY PLAN {question}"))
        assert "SCAN runs" not in plan, (question, plan)


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
