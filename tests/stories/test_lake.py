"""The published runs as frames: what is chosen, what is read, and that every way of reading gives the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import instrument
import polars as pl
import pytest
from lab import Lab

import nanolab_daemon as nl


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Lay out a folder of data as the laboratory's scripts know it, and change into the folder above it."""
    home = tmp_path_factory.mktemp("lake")
    lab = Lab(home)
    for number in range(3):
        (lab.raw / f"IV_{number}.csv").write_bytes(instrument.iv(number, start=1757018821.0 + 86400 * number).data())
    (lab.raw / "It.csv").write_bytes(instrument.it(9).data())
    lab.backfill()
    data = home / "data"
    (data / "02_stage").mkdir(parents=True)
    lab.stage.rename(data / "02_stage/raw_measurements")
    lab.output.rename(data / "03_intermediate")
    before = Path.cwd()
    os.chdir(home)
    yield data
    os.chdir(before)


def test_without_a_word_it_is_the_folder_data(data: Path) -> None:
    assert len(nl.runs()) == 4
    assert nl.runs().collect().equals(nl.runs(data).collect())
    assert nl.runs(data / "02_stage/raw_measurements").segments().collect().height
    by_name = nl.runs(stage=data / "02_stage/raw_measurements", output=data / "03_intermediate")
    assert by_name.segments().collect().equals(nl.runs("data").segments().collect())


def test_a_run_is_chosen_by_what_it_is(data: Path) -> None:
    manifest = nl.runs(data).collect()
    first = manifest.filter(proc="IV").row(0, named=True)
    assert len(nl.runs(data, procedure="IV")) == 3
    assert len(nl.runs(data, procedure=["IV", "It"])) == 4
    assert (
        len(nl.runs(data, chip=first["chip_number"], procedure="IV"))
        == manifest.filter(proc="IV", chip_number=first["chip_number"]).height
    )
    assert not len(nl.runs(data, chip=-1))
    assert len(nl.runs(data, procedure="IV", since=first["date"], until=first["date"])) == 1
    assert len(nl.runs(data, procedure="IV", until=date.fromisoformat(first["date"]))) == 1
    start = first["start_dt"]
    assert isinstance(start, datetime)
    assert len(nl.runs(data, procedure="IV", until=start)) == 0
    assert len(nl.runs(data, procedure="IV", since=start.astimezone(UTC))) == 3
    assert len(nl.runs(data).filter(pl.col("rows") > 0, proc="IV")) == 3


def test_rows_are_those_of_the_runs_chosen(data: Path) -> None:
    one = nl.runs(data, procedure="IV").filter(run_id=nl.runs(data, procedure="IV").collect()["run_id"][0])
    rows, segments = one.data().collect(), one.segments().collect()
    manifest = one.collect().row(0, named=True)
    assert rows.height == manifest["rows"]
    assert set(rows["run_id"]) == {manifest["run_id"]}
    assert segments.height == manifest["rows"] - manifest["rows_outside_segments"]
    assert segments["segment_id"].n_unique() == manifest["segments"]


def test_several_procedures_stand_in_one_frame(data: Path) -> None:
    everything = nl.runs(data).data().collect()
    assert everything.height == nl.runs(data).collect()["rows"].sum()
    assert everything.filter(proc="IV")["t (s)"].null_count() == everything.filter(proc="IV").height


def test_no_run_is_an_empty_frame(data: Path) -> None:
    assert nl.runs(data, procedure="IVg").data().collect().is_empty()
    assert nl.runs(data, procedure="IVg").segments().collect().is_empty()
    none = nl.runs(data, procedure="IVg")
    some = nl.runs(data, procedure="IV")
    for empty, full in ((none.data(), some.data()), (none.segments(), some.segments())):
        schema = full.collect_schema()
        assert empty.collect_schema() == {name: schema[name] for name in schema if "(" not in name}
    assert none.segments().filter(segment_type="forward_positive").collect().is_empty()
    for name in ("runs", "data", "segments"):
        assert none.to_duckdb().sql(f"SELECT count(run_id) FROM {name}").fetchall() == [(0,)]


def test_values_of_another_kind_are_refused(data: Path) -> None:
    number = nl.runs(data).collect()["chip_number"][0]
    assert len(nl.runs(data, chip=float(number))) == len(nl.runs(data, chip=number)) > 0
    wrong = ({"chip": "75"}, {"chip": 75.5}, {"chip": True}, {"procedure": 3}, {"complete": "yes"}, {"sample": 1})
    for one in wrong:
        with pytest.raises(TypeError, match=next(iter(one))):
            nl.runs(data, **one)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"did you mean IV\?"):
        nl.runs(data, procedure="IVV")


def test_columns_that_only_some_files_have_are_kept(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    (lab.raw / "IV_1.csv").write_bytes(instrument.iv(1).data())
    lines = instrument.iv(2, start=1757918821.0).data().split(b"\r\n")
    at = next(number for number, line in enumerate(lines) if line.startswith(b"Vsd"))
    wider = [*lines[:at], lines[at] + b",Gate leak (A)", *(line and line + b",2.5e-12" for line in lines[at + 1 :])]
    (lab.raw / "IV_2.csv").write_bytes(b"\r\n".join(wider))
    lab.backfill()
    runs = nl.runs(stage=lab.stage, output=lab.output)
    for frame in (runs.data().collect(), runs.segments().collect()):
        assert set(frame["Gate leak (A)"].unique()) == {None, 2.5e-12}


def test_pandas_and_duckdb_read_the_same(data: Path) -> None:
    runs = nl.runs(data)
    assert list(runs.to_pandas()["run_id"]) == runs.collect()["run_id"].to_list()
    db = runs.to_duckdb()
    for name, frame in (
        ("runs", runs.collect()),
        ("data", runs.data().collect()),
        ("segments", runs.segments().collect()),
    ):
        found = db.sql(f"SELECT run_id, count(*) AS n FROM {name} GROUP BY run_id ORDER BY run_id").fetchall()
        assert found == frame.group_by("run_id").agg(pl.len()).sort("run_id").rows()
    total = db.sql('SELECT sum("I (A)") FROM segments').fetchall()[0][0]
    assert total == pytest.approx(runs.segments().select(pl.col("I (A)").sum()).collect().item())


def test_mistakes_are_told(tmp_path: Path, data: Path) -> None:
    with pytest.raises(nl.NoRunsError, match=r"Nothing is published in .* Name the folder"):
        nl.runs(tmp_path)
    with pytest.raises(ValueError, match="no day: write it as"):
        nl.runs(data, since="yesterday")
    with pytest.raises(ValueError, match="no time zone"):
        nl.runs(data, since=datetime(2025, 9, 4))
    with pytest.raises(nl.NoRunsError, match="folder of segments is not known"):
        nl.runs(stage=data / "02_stage/raw_measurements").segments()
    with pytest.raises(AttributeError, match="no attribute 'run'"):
        nl.run  # noqa: B018


@pytest.mark.parametrize("contents", [b"junk", b"", b"PAR1" + b"x" * 99 + b"PAR1"])
def test_a_manifest_that_is_none_is_told_with_what_mends_it(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "_manifest").mkdir()
    (tmp_path / "_manifest" / "manifest.parquet").write_bytes(contents)
    with pytest.raises(nl.NoRunsError, match=r"manifest\.parquet is no table .*verify --repair"):
        nl.runs(tmp_path)


def test_who_does_not_analyse_loads_no_polars() -> None:
    code = "import sys, nanolab_daemon; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
