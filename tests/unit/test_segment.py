"""The second stage: a staged run in, one file a segment out."""

from __future__ import annotations

import errno
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reference
from inprocess import Folders
from instrument import Measurement, it, iv, ivg
from outputs import SEGMENT_COLUMNS, bits

from nanolab_daemon import parquet, publish, tables
from nanolab_daemon.header import quantity
from nanolab_daemon.procedures import PathKind, Registry
from nanolab_daemon.ramps import set_points
from nanolab_daemon.tasks import CannotWrite, Segmented, SegmentJob, StagedFileLost

TIMES = {"segment_t_start_s": pl.Float64, "segment_t_end_s": pl.Float64}
PHASES = ("It", "ITt", "It2", "Vt", "Pt", "ItVg", "ItWl")


def series(procedure: str, *phases: tuple[float, int]) -> Measurement:
    """Make a time series of a procedure, with so many rows at each level, ten rows a second."""
    known = Registry.builtin().get(procedure)
    assert known is not None
    assert known.level is not None
    levels = [level for level, rows in phases for _ in range(rows)]
    cells = {known.time: lambda at: at / 10, known.level: lambda at: levels[at], "I (A)": lambda at: 1e-9 * at}
    rows = [
        ",".join(repr(cells.get(name, lambda _: math.nan)(at)) for name in known.columns) for at in range(len(levels))
    ]
    return Measurement(procedure, {"Laser voltage": "2.11 V"}, known.columns, rows)


def cooldown(sweeps: int) -> Measurement:
    """Make the run of several sweeps from 0 to 0."""
    points = set_points(PathKind.ZERO_START_END_ZERO, -5, 5, 0.5)
    assert points is not None
    known = Registry.builtin().get("VVgCooldown")
    assert known is not None
    rows = [f"{volt!r},0.1,{at},nan,nan,nan" for at, volt in enumerate(list(points) * sweeps)]
    return Measurement("VVgCooldown", {"VG step": "0.5 V"}, known.columns, rows)


@pytest.fixture
def lab(tmp_path: Path) -> Folders:
    return Folders(tmp_path).make()


RUNS = {
    "iv": (iv(1), "sweep"),
    "fine iv": (iv(2, reach=0.001, step=1e-6), "sweep"),
    "ivg": (ivg(2), "sweep"),
    "aborted": (iv(3).first(17), "sweep"),
    "cooldown": (cooldown(3), "sweep"),
    "it": (it(1), "light"),
    "aborted it": (it(1).first(23), "light"),
    "dark it": (series("It", (0.0, 30)), "light"),
    "pt": (series("Pt", (0.0, 9), (2.11, 9), (0.0, 9)), "light"),
    "itvg": (series("ItVg", (-1.0, 6), (-0.5, 6), (0.0, 6), (0.5, 12), (0.0, 3), (-0.5, 6)), "plateau"),
    "itwl": (series("ItWl", (0.0, 7), (455.0, 20)), "wavelength"),
}


@pytest.mark.parametrize(("measurement", "kind"), RUNS.values(), ids=RUNS)
def test_segments_of_a_run(lab: Folders, measurement: Measurement, kind: str) -> None:
    """Each segment is a file of the staged columns and the segment's own; values are the staged ones, bit for bit."""
    staged = lab.staged("a.csv", measurement.data())
    assert staged.facts.segment_kind == kind
    run = pl.read_parquet(lab.stage / staged.output.path, hive_partitioning=False)
    done = lab.cut(staged)
    procedure = Registry.builtin().get(staged.facts.proc)
    assert procedure is not None
    assert procedure.segment_column is not None
    step = quantity(measurement.parameters.get(procedure.step or "", "")).value
    levels = run[procedure.segment_column]
    wanted = reference.cut(kind, levels.to_list(), step)
    folder = f"{procedure.name.lower()}_segments/proc={procedure.name}/date={staged.facts.date}"
    assert [file.path for file in done.outputs] == [
        f"{folder}/run_id={staged.facts.run_id}/segment={number}/part-000.parquet" for number in range(len(wanted))
    ]
    own = SEGMENT_COLUMNS | (TIMES if kind != "sweep" else {})
    for number, (piece, file) in enumerate(zip(wanted, done.outputs, strict=True)):
        contents = (lab.output / file.path).read_bytes()
        assert parquet.read(contents)[1]["segment_kind"] == kind
        frame = pl.read_parquet(contents)
        assert list(frame.schema.items()) == [*run.schema.items(), *own.items()]
        rows = slice(piece.start, piece.stop)
        assert bits(frame.select(run.columns)).equals(bits(run[rows]), null_equal=True)
        assert frame["point_in_segment"].to_list() == list(range(frame.height))
        (told,) = frame.select(list(own)).drop("point_in_segment").unique().rows()
        assert told[:5] == (number, piece.kind, levels[piece.start], levels[piece.stop - 1], piece.direction)
        assert list(told[5:]) == (
            [] if kind == "sweep" else [run["t (s)"][piece.start], run["t (s)"][piece.stop - 1]]
        )
        assert file.rows == frame.height
    assert wanted
    assert done.rows_outside == run.height - sum(piece.stop - piece.start for piece in wanted)


@pytest.mark.parametrize("name", ["iv", "it", "itvg"])
def test_runs_of_older_notes_are_cut_to_the_same(lab: Folders, name: str) -> None:
    """A staged run whose notes do not tell the constants, as once they did not, has the same segments to the byte."""
    staged = lab.staged("a.csv", RUNS[name][0].data())
    usual = {file.path: file.sha256 for file in lab.cut(staged).outputs}
    path = lab.stage / staged.output.path
    table, notes = parquet.read(path.read_bytes())
    how = json.loads(notes["segments"])
    notes["segments"] = json.dumps({key: how[key] for key in ("kind", "column", "step", "time")})
    pq.write_table(table.replace_schema_metadata({f"nanolab.{key}": note for key, note in notes.items()}), path)
    shutil.rmtree(lab.output)
    lab.make()
    assert {file.path: file.sha256 for file in lab.cut(staged).outputs} == usual


@pytest.mark.parametrize("kind", [pa.int64(), pa.float32(), pa.string()])
def test_a_staged_file_with_other_types_is_made_anew(lab: Folders, kind: pa.DataType) -> None:
    """What is none of ours is not cut: its numbers would be read as others."""
    staged = lab.staged("a.csv", RUNS["iv"][0].data())
    path = lab.stage / staged.output.path
    table, notes = parquet.read(path.read_bytes())
    at = table.schema.get_field_index("I (A)")
    table = table.set_column(at, "I (A)", pa.array(range(table.num_rows)).cast(kind))
    pq.write_table(table.replace_schema_metadata({f"nanolab.{key}": note for key, note in notes.items()}), path)
    (job,) = lab.cut_jobs(SegmentJob(staged.facts.run_id, staged.output.path, "x_segments/x"))
    assert isinstance(job, StagedFileLost)
    assert "I (A)" in job.reason


@pytest.mark.parametrize(
    ("name", "value"), [("proc", 7), ("chip_number", 3.5), ("chip_number", 1 << 63), ("wavelength_nm", "x")]
)
def test_constants_are_what_they_are_to_be(name: str, value: object) -> None:
    """Notes that say something else than a run can are none of ours."""
    right = dict.fromkeys((one for one, _ in tables.RUN), None)
    assert tables.checked(right) == right
    with pytest.raises(ValueError, match=name):
        tables.checked({**right, name: value})
    del right[name]
    with pytest.raises(KeyError):
        tables.checked(right)


@pytest.mark.parametrize("name", PHASES)
def test_time_series_of_all_procedures_have_phases(lab: Folders, name: str) -> None:
    """Off, on, off is found in each procedure that sets a level, and scanned without options."""
    levels = (0.0, 9), (1.5, 8), (0.0, 7)
    for number in range(2):
        made = replace(series(name, *levels), start_time=f"175701882{number}.5")
        done = lab.cut(lab.staged(f"{number}.csv", made.data()))
        assert ([file.rows for file in done.outputs], done.rows_outside) == ([9, 8, 7], 0)
    frame = pl.scan_parquet(lab.output / f"{name.lower()}_segments").collect()
    told = frame.select("segment_id", "segment_type", *TIMES).unique().sort("segment_id").rows()
    plateaus = name == "ItVg"
    assert told == [
        (0, "plateau_1" if plateaus else "dark_1", 0.0, 0.8),
        (1, "plateau_2" if plateaus else "light_1", 0.9, 1.6),
        (2, "plateau_3" if plateaus else "dark_2", 1.7, 2.3),
    ]
    assert frame["run_id"].n_unique() == 2


def test_series_without_a_clock_has_phases_without_times(lab: Folders) -> None:
    """A file that lacks the column of the time has the same columns as the others, the times as nulls."""
    made = series("It", (0.0, 9), (1.5, 8))
    made = replace(made, columns=made.columns[1:], rows=[row.partition(",")[2] for row in made.rows])
    done = lab.cut(lab.staged("a.csv", made.data()))
    frame = pl.read_parquet(lab.output / done.outputs[1].path, hive_partitioning=False)
    assert frame["segment_type"].unique().to_list() == ["light_1"]
    assert {name: frame.schema[name] for name in TIMES} == TIMES
    assert frame.select(list(TIMES)).unique().rows() == [(None, None)]


def test_a_row_without_a_time_takes_none_from_its_phase(lab: Folders) -> None:
    """A phase begins and ends with the first and last row that have a time."""
    made = series("It", (0.0, 9), (1.5, 8))
    rows = ["nan," + row.partition(",")[2] if at in (0, 8, 16) else row for at, row in enumerate(made.rows)]
    done = lab.cut(lab.staged("a.csv", replace(made, rows=rows).data()))
    frames = [pl.read_parquet(lab.output / file.path, hive_partitioning=False) for file in done.outputs]
    assert [frame.select(list(TIMES)).row(0) for frame in frames] == [(0.1, 0.7), (0.9, 1.5)]


def test_file_without_the_level_has_no_second_stage(lab: Folders) -> None:
    """An older file that lacks the column along which its procedure is cut is staged, and that is all."""
    made = series("It", (0.0, 9))
    made = replace(made, columns=made.columns[:2], rows=[",".join(row.split(",")[:2]) for row in made.rows])
    facts = lab.staged("a.csv", made.data()).facts
    assert facts.segment_kind is None


def test_user_says_how_a_procedure_is_cut(tmp_path: Path) -> None:
    """A procedure of the configuration is cut along its own column; one that is told not to be is not."""
    own = {"columns": ["t (s)", "B (T)"], "segments": "plateau", "level": "B (T)", "time": "t (s)"}
    lab = Folders(tmp_path, procedures={"Hall": own, "It": {"segments": ""}}).make()
    rows = [f"{at},{level}" for at, level in enumerate([0.1] * 6 + [0.2] * 5)]
    done = lab.cut(lab.staged("a.csv", Measurement("Hall", {}, ["t (s)", "B (T)"], rows).data()))
    assert [file.rows for file in done.outputs] == [6, 5]
    facts = lab.staged("b.csv", it(1).data()).facts
    assert facts.segment_kind is None


def test_plain_iv_gives_the_four_segments(lab: Folders) -> None:
    """A complete IV gives the four segments that the analysis asks for; all runs are scanned without options."""
    for seed in range(3):
        lab.cut(lab.staged(f"{seed}.csv", iv(seed).data()))
    frame = pl.scan_parquet(lab.output / "iv_segments").collect()
    kinds = frame.group_by("run_id").agg(pl.col("segment_type").unique(maintain_order=True))
    assert (
        kinds["segment_type"].to_list()
        == [["forward_negative", "return_negative", "forward_positive", "return_positive"]] * 3
    )


def test_least_points_are_a_setting(tmp_path: Path) -> None:
    """Pieces below the configured number of rows are no segments; their rows are counted."""
    lab = Folders(tmp_path, min_segment_points=11).make()
    done = lab.cut(lab.staged("a.csv", iv(1).data()))
    everything = Folders(tmp_path, min_segment_points=1).make()
    every = everything.cut(everything.staged("b.csv", iv(2).data()))
    assert sum(file.rows for file in done.outputs) + done.rows_outside == 44
    assert all(file.rows >= 11 for file in done.outputs)
    assert every.rows_outside == 0


def test_run_without_segments(lab: Folders) -> None:
    """A run too short for any segment gives none, and leaves no folder."""
    done = lab.cut(lab.staged("a.csv", iv(1).first(3).data()))
    assert (done.outputs, done.rows_outside, done.bundle) == ((), 3, None)
    assert not list(lab.output.glob("*_segments"))


def test_older_segments_wait_to_be_replaced(lab: Folders) -> None:
    """Segments of an earlier state stay whole until the new ones are put in their place at once."""
    first = lab.cut(lab.staged("a.csv", iv(1).data()))
    again = lab.staged("a.csv", iv(1).first(20).data())
    assert again.bundle is not None
    publish.replace(Path(again.bundle), lab.stage / again.target)
    second = lab.cut(again)
    assert second.bundle is not None
    assert len(second.outputs) < len(first.outputs)
    assert all((lab.output / file.path).is_file() for file in first.outputs)
    folder = (lab.output / first.outputs[0].path).parents[1]
    publish.replace(Path(second.bundle), folder)
    assert sorted(folder.rglob("*.parquet")) == sorted(lab.output / file.path for file in second.outputs)


@pytest.mark.parametrize("harm", ["missing", "cut", "empty", "noise", "foreign"])
def test_damaged_staged_file_is_lost_and_said(lab: Folders, harm: str) -> None:
    """A staged file that can't be read back is to be made again; the others of its batch are cut."""
    staged, other = lab.staged("a.csv", iv(1).data()), lab.staged("b.csv", iv(2).data())
    path = lab.stage / staged.output.path
    contents = path.read_bytes()
    match harm:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(contents[:-20])
        case "empty":
            path.write_bytes(b"")
        case "noise":
            path.write_bytes(bytes(len(contents)))
        case "foreign":
            pl.DataFrame({"a": [1]}).write_parquet(path)
    jobs = [SegmentJob(one.facts.run_id, one.output.path, f"iv_segments/{one.target}") for one in (staged, other)]
    outcomes = lab.cut_jobs(*jobs)
    assert [type(outcome) for outcome in outcomes] == [StagedFileLost, Segmented]
    assert not lab.bundles()


def test_failed_sync_leaves_no_bundle(lab: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk reports an error, no run is blamed and nothing is left behind."""
    staged = lab.staged("a.csv", iv(1).data())

    def fail(root: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(root))

    monkeypatch.setattr(publish, "sync", fail)
    (outcome,) = lab.cut_jobs(SegmentJob(staged.facts.run_id, staged.output.path, f"iv_segments/{staged.target}"))
    assert isinstance(outcome, CannotWrite)
    assert not lab.bundles()
