"""The first stage: columns, types, order and notes of a staged run, and what becomes of files that are none."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inprocess import Folders
from instrument import Measurement, it, iv, ivg
from outputs import RUN_COLUMNS

from nanolab_daemon import __version__, publish
from nanolab_daemon.errors import RejectCause
from nanolab_daemon.model import DateOrigin, FileState
from nanolab_daemon.procedures import RESERVED_COLUMNS, Registry
from nanolab_daemon.tasks import (
    CannotWrite,
    Gone,
    NoRows,
    Refused,
    Selection,
    Staged,
    StageJob,
    Unchanged,
    Unreadable,
    Unselected,
)

IV_COLUMNS = ["Vsd (V)", "I (A)", "Plate T (degC)", "Ambient T (degC)", "Clock (ms)"]


@pytest.fixture
def lab(tmp_path: Path) -> Folders:
    return Folders(tmp_path).make()


def read(lab: Folders, staged: Staged) -> pl.DataFrame:
    return pl.read_parquet(lab.stage / staged.output.path, hive_partitioning=False)


def ask(query: str) -> list[tuple[object, ...]]:
    answer = duckdb.sql(query)
    assert answer is not None
    return answer.fetchall()


def notes(path: Path) -> dict[str, str]:
    pairs = pq.ParquetFile(path).metadata.metadata
    return {key.decode(): value.decode() for key, value in pairs.items()}


def test_columns_types_and_order(lab: Folders) -> None:
    """A staged run has its data columns as Float64, then the constant ones of the contract, and no others."""
    frame = read(lab, lab.staged("a.csv", iv(1).data()))
    assert list(frame.schema.items()) == [*((name, pl.Float64) for name in IV_COLUMNS), *RUN_COLUMNS.items()]


def test_constant_columns_tell_the_header(lab: Folders) -> None:
    """What is constant over a run stands in each of its rows, as the header says it."""
    staged = lab.staged("2025-09-04/ä b.csv", replace(iv(1), start_time="1757018821.6358175").data())
    frame = read(lab, staged)
    (row,) = frame.select(list(RUN_COLUMNS)).unique().iter_rows(named=True)
    assert row["start_dt"].isoformat() == "2025-09-04T20:47:01.635818+00:00"
    assert {key: value for key, value in row.items() if key not in ("run_id", "start_dt")} == {
        "proc": "IV",
        "source_file": "2025-09-04/ä b.csv",
        "with_light": True,
        "wavelength_nm": 455.0,
        "laser_voltage_V": 2.11,
        "chip_group": "Alisson",
        "chip_number": 79,
        "sample": "F",
        "procedure_version": "2.0.1",
    }
    assert row["run_id"] == staged.facts.run_id
    assert staged.output.path == f"proc=IV/date=2025-09-04/run_id={row['run_id']}/part-000.parquet"


def test_light_is_the_voltage_never_the_wavelength(lab: Folders) -> None:
    """A dark run is dark although its header keeps a wavelength."""
    (row,) = read(lab, lab.staged("a.csv", iv(0).data())).select("with_light", "wavelength_nm").unique().rows()
    assert row == (False, 455.0)


def test_procedure_without_chip_and_laser_has_nulls(lab: Folders) -> None:
    """What a procedure does not have is null, in columns of the usual types."""
    tt = Measurement("Tt", {"Step time": "1 s"}, ("Time (s)", "Plate T (degC)"), ["0.0,nan", "1.0,25.5"])
    frame = read(lab, lab.staged("a.csv", tt.data()))
    assert [frame.schema[name] for name in RUN_COLUMNS] == list(RUN_COLUMNS.values())
    nulls = frame.select("wavelength_nm", "laser_voltage_V", "chip_group", "chip_number", "sample").null_count()
    assert set(nulls.row(0)) == {2}
    assert not frame["with_light"].any()


def test_values_and_nan_come_through(lab: Folders) -> None:
    """Values are those of the text, to the last bit; nan is NaN and never null."""
    measurement = iv(3)
    frame = read(lab, lab.staged("a.csv", measurement.data()))
    assert frame["I (A)"].to_list() == [float(row.split(",")[1]) for row in measurement.rows]
    assert frame["Plate T (degC)"].is_nan().all()
    assert frame["Plate T (degC)"].null_count() == 0


def test_older_file_has_nulls_for_columns_it_lacks(lab: Folders) -> None:
    """A column that came later is there as nulls, in its place."""
    old = iv(1)
    old = replace(old, columns=("Vsd (V)", "I (A)"), rows=[",".join(row.split(",")[:2]) for row in old.rows])
    frame = read(lab, lab.staged("a.csv", old.data()))
    assert frame.columns[:5] == IV_COLUMNS
    assert set(frame.dtypes[:5]) == {pl.Float64}
    assert frame["Clock (ms)"].null_count() == frame.height
    assert frame["I (A)"].null_count() == 0


def test_unknown_column_is_kept_after_the_known_ones(lab: Folders) -> None:
    """A column that the registry does not know is kept, after those it knows, and said."""
    new = iv(1)
    new = replace(new, columns=("Ig (A)", *new.columns), rows=[f"{at},{row}" for at, row in enumerate(new.rows)])
    staged = lab.staged("a.csv", new.data())
    frame = read(lab, staged)
    assert frame.columns == [*IV_COLUMNS, "Ig (A)", *RUN_COLUMNS]
    assert frame["Ig (A)"].to_list() == list(range(44))
    assert any("'Ig (A)'" in remark for remark in staged.remarks)


def test_unknown_procedure_is_staged_as_it_is(lab: Folders) -> None:
    """A procedure that nobody knows is staged with its own columns in its own order, and said."""
    strange = Measurement("Strange", {"Laser voltage": "1 V"}, ("z", "a"), ["1,2", "3,4"])
    staged = lab.staged("a.csv", strange.data())
    assert read(lab, staged).columns == ["z", "a", *RUN_COLUMNS]
    assert not staged.facts.is_cut
    assert "Strange" in staged.remarks[0]


def test_column_under_an_old_name_gets_the_present_one(lab: Folders) -> None:
    """Canonical names are published, whatever the file's age; two names of one column reject it."""
    procedure = next(one for one in Registry.builtin() if one.column_aliases)
    old, present = next(iter(procedure.column_aliases.items()))
    frame = read(lab, lab.staged("a.csv", Measurement(procedure.name, {}, (old,), ["1.5"]).data()))
    assert frame[present].to_list() == [1.5]
    assert old not in frame.columns
    both = lab.refused(Measurement(procedure.name, {}, (old, present), ["1,2"]).data())
    assert both.rejection.cause is RejectCause.BAD_COLUMNS


@pytest.mark.parametrize("name", sorted(RESERVED_COLUMNS | {"date", "segment"}))
def test_reserved_column_names_are_refused(lab: Folders, name: str) -> None:
    """No data column may carry a name that the outputs use themselves."""
    refused = lab.refused(Measurement("Strange", {}, ("x", name), ["1,2"]).data())
    assert refused.rejection.cause is RejectCause.BAD_COLUMNS
    assert repr(name) in refused.rejection.reason


def test_notes_hold_the_whole_header(lab: Folders) -> None:
    """The header as written, the raw file's SHA-256 and the program's version stand in the file's metadata."""
    measurement = iv(1)
    staged = lab.staged("a.csv", measurement.data())
    found = notes(lab.stage / staged.output.path)
    assert found["nanolab.header"] == measurement.header
    assert found["nanolab.source_sha256"] == hashlib.sha256(measurement.data()).hexdigest() == staged.sha256
    assert found["nanolab.version"] == __version__
    assert '"Information": "test 71: muerto :( \\u00b5 "' in found["nanolab.parameters"]


def test_record_describes_the_published_file(lab: Folders) -> None:
    """What is told of the output is true of it: path, size, rows, hash."""
    output = lab.staged("a.csv", iv(1).data()).output
    contents = (lab.stage / output.path).read_bytes()
    assert (output.size_bytes, output.sha256) == (len(contents), hashlib.sha256(contents).hexdigest())
    assert output.rows == 44


def test_strings_are_plain_for_every_reader(lab: Folders) -> None:
    """Polars, pandas and DuckDB all get plain strings, no categories."""
    path = lab.stage / lab.staged("a.csv", iv(1).data()).output.path
    assert pl.read_parquet(path)["sample"].dtype == pl.String
    assert pd.read_parquet(path)["sample"].dtype == pd.Series(["a"]).dtype
    ((kind,),) = ask(f"select distinct typeof(sample) from read_parquet('{path}')")
    assert kind == "VARCHAR"
    ((kind,),) = ask(f"select distinct typeof(start_dt) from read_parquet('{path}')")
    assert kind == "TIMESTAMP WITH TIME ZONE"


def test_one_scan_over_all_runs_of_a_procedure(lab: Folders) -> None:
    """Files with old and new columns are scanned together, without options, by Polars and by DuckDB."""
    old = iv(1)
    short = replace(old, columns=("Vsd (V)", "I (A)"), rows=[",".join(row.split(",")[:2]) for row in old.rows])
    for at, measurement in enumerate((iv(0), short, iv(2))):
        lab.staged(f"{at}.csv", measurement.data())
    frame = pl.scan_parquet(lab.stage / "proc=IV").collect()
    assert frame.height == 3 * 44
    assert frame["Clock (ms)"].null_count() == 44
    pattern = lab.stage / "proc=IV/**/*.parquet"
    assert ask(f"select count(*) from '{pattern}'") == [(3 * 44,)]


def test_torn_last_line_is_no_data(lab: Folders) -> None:
    """Cut anywhere in its last line, a file holds the rows before it, whatever the stump looks like."""
    measurement = iv(1)
    whole = measurement.first(10).data()
    for cut in range(len(measurement.first(9).data()), len(whole)):
        (outcome,) = lab.stage_jobs(StageJob(lab.put("a.csv", whole[:cut]), dry=True))
        assert isinstance(outcome, Staged)
        assert outcome.facts.rows == 9
        assert outcome.facts.completeness.complete is False


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\0" * 4096 + b"\n", b"0.1,\0\0\0", b"0.1,1,nan,nan,nan\r\n\0"])
def test_nul_tail_is_refused(lab: Folders, tail: bytes) -> None:
    """A file whose end is NUL bytes lost what was written last: it is refused, and its good rows can be had."""
    contents = iv(1).first(9).data() + tail
    refused = lab.refused(contents)
    assert refused.rejection.cause is RejectCause.NUL_BYTES
    assert refused.rejection.line == contents.split(b"\0")[0].count(b"\n") + 1
    (outcome,) = lab.stage_jobs(StageJob(b"x.csv", skip_bad_rows=True))
    assert isinstance(outcome, Staged)
    assert outcome.facts.rows == 9 + tail.startswith(b"0.1,1,")
    assert outcome.facts.bad_rows_skipped == 1


def test_skipping_bad_rows_needs_leave(lab: Folders) -> None:
    """A bad row refuses the file; with leave, or leave for just these bytes, the rest is staged and counted."""
    contents = iv(1).data() + b"OVERFLOW,1\r\n" + b"0.5,1,2,3,4\r\n"
    refused = lab.refused(contents)
    assert (refused.rejection.line, refused.rejection.text) == (contents.count(b"\n") - 1, "OVERFLOW,1")
    sha256 = hashlib.sha256(contents).hexdigest()
    (other,) = lab.stage_jobs(StageJob(b"x.csv", skip_bad_rows_of="0" * 64))
    assert isinstance(other, Refused)
    (outcome,) = lab.stage_jobs(StageJob(b"x.csv", skip_bad_rows_of=sha256))
    assert isinstance(outcome, Staged)
    assert (outcome.facts.rows, outcome.facts.bad_rows_skipped, outcome.skipped) == (45, 1, True)
    assert notes(lab.stage / outcome.output.path)["nanolab.bad_rows_skipped"] == "1"


def test_comments_are_kept_aside(lab: Folders) -> None:
    """Lines beginning with # between the rows are no data; they are kept in the notes."""
    contents = iv(1).first(5).data() + b"#Metadata:\r\n#\tStart time: 5\r\n" + b"0.5,1,2,3,4\r\n"
    staged = lab.staged("a.csv", contents)
    assert staged.facts.rows == 6
    assert "Start time: 5" in notes(lab.stage / staged.output.path)["nanolab.comments"]


def test_no_rows_yet(lab: Folders) -> None:
    """Without metadata it is queued, with metadata started; nothing is published."""
    queued, started = lab.put("q.csv", iv(1).queued()), lab.put("s.csv", iv(1).data(0))
    outcomes = lab.stage_jobs(StageJob(queued), StageJob(started))
    assert [outcome.state for outcome in outcomes if isinstance(outcome, NoRows)] == [
        FileState.QUEUED,
        FileState.STARTED,
    ]
    assert not list(lab.stage.glob("proc=*"))


@pytest.mark.parametrize(
    ("path", "origin", "date"),
    [("2025-03-01/x.csv", DateOrigin.PATH, "2025-03-01"), ("x.csv", DateOrigin.MTIME, "2001-09-08")],
)
def test_date_of_a_file_without_a_start_time(lab: Folders, path: str, origin: DateOrigin, date: str) -> None:
    """Its date comes from its path, else from its time of change in the lab's time zone; its id from its content."""
    contents = replace(iv(1), start_time=None).data()
    lab.put(path, contents)
    os.utime(lab.raw / path, ns=(10**18, 10**18))  # 2001-09-09T01:46:40 UTC
    (outcome,) = lab.stage_jobs(StageJob(path.encode()))
    assert isinstance(outcome, Staged)
    assert (outcome.facts.date_origin, outcome.facts.date) == (origin, date)
    lab.put("grown.csv", contents + b"0.5,1,2,3,4\r\n")
    (grown,) = lab.stage_jobs(StageJob(b"grown.csv", dry=True))
    assert isinstance(grown, Staged)
    assert grown.facts.run_id == outcome.facts.run_id


@pytest.mark.parametrize("start", ["yesterday", "1e99", "-5", "nan"])
def test_start_time_that_is_no_time_is_refused(lab: Folders, start: str) -> None:
    """A Start time that is no time refuses the file, rows or not."""
    for rows in (0, 44):
        refused = lab.refused(replace(iv(1), start_time=start).data(rows))
        assert refused.rejection.cause is RejectCause.BAD_START_TIME


def test_what_can_not_be_read(lab: Folders) -> None:
    """What is gone, no file, or not to be opened is told apart."""
    (lab.raw / "folder.csv").mkdir()
    os.mkfifo(lab.raw / "pipe.csv")
    (lab.raw / "link.csv").symlink_to("/etc/passwd")
    (lab.raw / "large.csv").write_bytes(b"#Procedure: <a.IV>\n" + b"x" * (1 << 24))
    outcomes = lab.stage_jobs(*(StageJob(p) for p in (b"none.csv", b"link.csv", b"pipe.csv", b"large.csv")))
    assert [type(outcome) for outcome in outcomes] == [Gone, Gone, Refused, Refused]
    assert isinstance(outcomes[3], Refused)
    assert outcomes[3].rejection.cause is RejectCause.TOO_LARGE


def test_file_that_may_not_be_opened_is_unreadable(lab: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing rights are the file's trouble; an input error is the machine's."""
    lab.put("a.csv", iv(1).data())
    for code, machine in ((errno.EACCES, False), (errno.EIO, True), (errno.ESTALE, True), (errno.EMFILE, True)):

        def refuse(*_: object, code: int = code, **__: object) -> int:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            (outcome,) = lab.stage_jobs(StageJob(b"a.csv"))
        assert isinstance(outcome, Unreadable)
        assert (outcome.errno, outcome.machine) == (code, machine)


def test_known_bytes_need_no_work(lab: Folders) -> None:
    """Bytes that are known are not staged again, unless that is asked for."""
    staged = lab.staged("a.csv", iv(1).data())
    (same,) = lab.stage_jobs(StageJob(b"a.csv", known_sha256=staged.sha256))
    assert isinstance(same, Unchanged)
    assert same.fingerprint == staged.fingerprint


def test_dry_run_writes_nothing(lab: Folders) -> None:
    """Dry, a file is read and judged, and nothing is written."""
    before = sorted(lab.root.rglob("*"))
    (outcome,) = lab.stage_jobs(StageJob(lab.put("a.csv", iv(1).data()), dry=True))
    assert isinstance(outcome, Staged)
    assert sorted(lab.root.rglob("*")) == sorted([*before, lab.raw / "a.csv"])


def test_selection(lab: Folders) -> None:
    """What is not selected is left alone, by procedure and by the lab's dates, both ends included."""
    lab.put("a.csv", iv(1, start=1757018821.0).data())  # 2025-09-04 in Santiago
    for selection, taken in (
        (Selection(frozenset({"IV"})), True),
        (Selection(frozenset({"It"})), False),
        (Selection(since="2025-09-04", until="2025-09-04"), True),
        (Selection(since="2025-09-05"), False),
        (Selection(until="2025-09-03"), False),
    ):
        (outcome,) = lab.stage_jobs(StageJob(b"a.csv", dry=True, selection=selection))
        assert isinstance(outcome, Staged if taken else Unselected)


def test_second_file_of_a_run_waits_aside(lab: Folders) -> None:
    """What is published stays untouched; the second bundle waits for the ledger's word."""
    first = lab.staged("a.csv", iv(1).first(20).data())
    contents = (lab.stage / first.output.path).read_bytes()
    second = lab.staged("b.csv", iv(1).data())
    assert first.bundle is None
    assert second.bundle is not None
    assert lab.bundles() == [Path(second.bundle)]
    assert (lab.stage / first.output.path).read_bytes() == contents


def test_failed_sync_publishes_nothing_new(lab: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk reports an error at the sync, no file is blamed, and no bundle is left behind."""

    def fail(root: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(root))

    monkeypatch.setattr(publish, "sync", fail)
    jobs = [StageJob(lab.put("a.csv", iv(1).data())), StageJob(lab.put("b.csv", iv(2).queued()))]
    outcomes = lab.stage_jobs(*jobs)
    assert [type(outcome) for outcome in outcomes] == [CannotWrite, NoRows]
    assert not list(lab.stage.glob("proc=*"))
    assert not lab.bundles()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount")
def test_full_disk_blames_no_file(lab: Folders) -> None:
    """On a full disk the verdict is on the machine, and no half-written bundle takes up what room there is."""
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(lab.stage)], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("can't mount here")
    try:
        lab.make()
        small, large = lab.put("small.csv", ivg(1).first(5).data()), lab.put("large.csv", it(1, rows=5000).data())
        outcomes = lab.stage_jobs(StageJob(large), StageJob(small))
        assert isinstance(outcomes[0], CannotWrite)
        assert outcomes[0].errno == errno.ENOSPC
        assert isinstance(outcomes[1], Staged)
        assert not lab.bundles()
    finally:
        subprocess.run(["umount", "-l", str(lab.stage)], check=True)


@given(st.binary(max_size=300), st.integers(0, 1200), st.booleans())
@settings(max_examples=150)
def test_any_damage_gives_a_verdict(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, insert: bool
) -> None:
    """Whatever bytes a file holds, the stage has a verdict on it and never fails."""
    lab = Folders(tmp_path_factory.getbasetemp() / "damage").make()
    whole = iv(1).data()
    at = min(at, len(whole))
    contents = whole[:at] + noise + whole[at + (0 if insert else len(noise)) :]
    (outcome,) = lab.stage_jobs(StageJob(lab.put("x.csv", contents), dry=True))
    assert isinstance(outcome, Staged | NoRows | Refused)


def test_too_many_columns_are_refused(lab: Folders) -> None:
    """A file with more columns than the limit is refused with the number, before anything is made of them."""
    labels = ",".join(f"c{n}" for n in range(300))
    lab.put("wide.csv", f"#Procedure: <a.Odd>\n#Parameters:\n#Data:\n{labels}\n{'1,' * 299}1\n".encode())
    (outcome,) = lab.stage_jobs(StageJob(b"wide.csv"))
    assert isinstance(outcome, Refused)
    assert outcome.rejection.cause is RejectCause.TOO_LARGE
    assert "300" in outcome.rejection.reason
