"""The lab's own analysis scripts go on working: they find files by path and pattern, and know columns by name.

Each test reads in one of the ways in which those scripts do; nothing here asks the program or its ledger.
"""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import instrument
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from making import reference
from outputs import RUN_COLUMNS, SEGMENT_COLUMNS

from nanolab_daemon import batch, config

STAGE, OUTPUT = Path("data/02_stage/raw_measurements"), Path("data/03_intermediate")
DAY = "2025-09-04"
LEGS = ["forward_negative", "return_negative", "forward_positive", "return_positive"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work off a folder with the default settings alone: the lab's paths are the program's own."""
    home = tmp_path_factory.mktemp("lab")
    (home / "config.toml").write_text("[pools]\nstage_workers = 1\nsegment_workers = 1\n")
    raw = home / "data/01_raw" / DAY
    for number in range(3):
        instrument.iv(number).write(raw / f"IV{DAY}_{number}.csv")
    instrument.ivg(4).write(raw / f"IVg{DAY}_1.csv")
    instrument.it(5).write(raw / f"It{DAY}_1.csv")
    batch.run(config.load(home / "config.toml", environ={}), "backfill")
    return home


@pytest.fixture(autouse=True)
def _there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def test_runs_of_a_day_are_scanned_by_pattern(home: Path) -> None:
    pattern = str(STAGE / "proc=IV" / f"date={DAY}" / "run_id=*" / "part-*.parquet")
    frame = pl.scan_parquet(pattern).collect()
    assert frame["run_id"].n_unique() == 3
    assert frame.height == 3 * 44
    assert {name: frame.schema[name] for name in RUN_COLUMNS} == RUN_COLUMNS
    assert frame.columns[:2] == ["Vsd (V)", "I (A)"]
    longest = frame.group_by("run_id").agg(pl.col("Vsd (V)").max())
    assert longest["Vsd (V)"].to_list() == pytest.approx([0.1] * 3, abs=0.01)


def test_segments_of_a_day_are_scanned_by_pattern_and_told_apart_by_their_label(home: Path) -> None:
    folder = OUTPUT / "iv_segments"
    pattern = str(folder / "proc=IV" / f"date={DAY}" / "run_id=*" / "segment=*" / "part-*.parquet")
    frame = pl.scan_parquet(pattern).collect()
    assert {name: frame.schema[name] for name in RUN_COLUMNS | SEGMENT_COLUMNS} == RUN_COLUMNS | SEGMENT_COLUMNS
    back = frame.filter(pl.col("segment_type").str.contains("return"))
    forth = frame.filter(pl.col("segment_type").str.contains("forward"))
    assert back.height + forth.height == frame.height
    assert set(back["segment_id"]) == {1, 3}
    assert set(frame["segment_direction"]) == {"increasing", "decreasing"}


def test_folders_are_walked_and_say_what_is_in_them(home: Path) -> None:
    """Neither a temporary folder nor a second file is met on the way; the folders' names are the columns' values."""
    folders = sorted((OUTPUT / "iv_segments").glob("**/run_id=*"))
    assert len(folders) == 3
    for folder in folders:
        named = dict(part.split("=") for part in folder.parts if "=" in part)
        assert named["proc"] == "IV"
        assert named["date"] == DAY
        pieces = {int(piece.name.split("=")[1]): piece for piece in sorted(folder.glob("segment=*"))}
        assert sorted(pieces) == [0, 1, 2, 3]
        for number, piece in pieces.items():
            (file,) = piece.iterdir()
            frame = pl.read_parquet(file)
            assert set(frame["run_id"]) == {named["run_id"]}
            assert set(frame["segment_id"]) == {number}
            assert set(frame["segment_type"]) == {LEGS[number]}
            outward = abs(frame["Vsd (V)"][-1]) > abs(frame["Vsd (V)"][0])
            assert outward == ("forward" in LEGS[number])
            assert frame["point_in_segment"].to_list() == list(range(frame.height))


def test_the_manifest_leads_to_every_staged_file(home: Path) -> None:
    manifest = pl.read_parquet(STAGE / "_manifest" / "manifest.parquet")
    assert {"run_id", "proc", "status", "rows", "path", "source_file", "date_origin"} <= set(manifest.columns)
    assert manifest["run_id"].n_unique() == manifest.height == 5
    for run in manifest.iter_rows(named=True):
        built = STAGE / f"proc={run['proc']}" / f"date={run['date']}" / f"run_id={run['run_id']}" / "part-000.parquet"
        assert pl.read_parquet(built, hive_partitioning=False).height == run["rows"]
        assert STAGE / run["path"] == built
        assert (Path("data/01_raw") / run["source_file"]).is_file()
    kinds = manifest.filter(pl.col("proc").is_in(["IV", "It"])).sort("start_dt")
    assert kinds["proc"].to_list() == ["IV", "IV", "IV", "It"]


@pytest.mark.parametrize("proc", ["IV", "IVg", "It"])
def test_a_procedure_is_read_whole_by_each_reader(home: Path, proc: str) -> None:
    folder = STAGE / f"proc={proc}"
    rows = pl.scan_parquet(folder).collect().height
    assert rows == pl.scan_parquet(folder / "**" / "*.parquet").collect().height
    assert rows == sum(len(pd.read_parquet(file)) for file in folder.rglob("*.parquet"))
    pattern = f"{folder}/**/*.parquet"
    for hive in ("true", "false"):
        (counted,) = duckdb.sql(
            f"SELECT count(*) FROM read_parquet('{pattern}', hive_partitioning = {hive})"
        ).fetchall()
        assert counted == (rows,)


def test_the_reference_has_every_column_and_every_note_of_these_files(home: Path) -> None:
    page = reference.columns(home)
    told = set(re.findall(r"`([^`]+)`", page))
    files = [*STAGE.rglob("*.parquet"), *OUTPUT.rglob("*.parquet")]
    names = {name for file in files for name in pq.read_schema(file).names}
    assert len(names) > 40
    assert names <= told
    notes = {key.decode() for file in STAGE.rglob("part-*.parquet") for key in pq.read_schema(file).metadata}
    assert {key.removeprefix("nanolab.") for key in notes if key.startswith("nanolab.")} <= told


def test_the_segments_of_each_procedure_stand_below_its_name_in_small_letters(home: Path) -> None:
    assert sorted(path.name for path in OUTPUT.iterdir() if path.name[0] not in "._") == [
        "it_segments",
        "iv_segments",
        "ivg_segments",
    ]
