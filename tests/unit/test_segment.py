"""The second stage: a staged run in, one file a segment out."""

from __future__ import annotations

import errno
from pathlib import Path

import polars as pl
import pytest
import reference
from inprocess import Folders
from instrument import Measurement, iv, ivg
from outputs import bits

from nanolab_daemon import publish
from nanolab_daemon.tasks import CannotWrite, Segmented, SegmentJob, StagedFileLost

SEGMENT_COLUMNS = {
    "segment_id": pl.Int64,
    "segment_type": pl.String,
    "segment_v_start": pl.Float64,
    "segment_v_end": pl.Float64,
    "segment_direction": pl.String,
    "point_in_segment": pl.Int64,
}


@pytest.fixture
def lab(tmp_path: Path) -> Folders:
    return Folders(tmp_path).make()


@pytest.mark.parametrize("measurement", [iv(1), ivg(2), iv(3).first(17)], ids=["iv", "ivg", "aborted"])
def test_segments_of_a_run(lab: Folders, measurement: Measurement) -> None:
    """Each segment is a file of the staged columns and the segment's own; values are the staged ones, bit for bit."""
    staged = lab.staged("a.csv", measurement.data())
    run = pl.read_parquet(lab.stage / staged.output.path, hive_partitioning=False)
    done = lab.cut(staged)
    step = 0.01 if staged.facts.proc == "IV" else 0.5
    wanted = reference.segments(run.to_series(0).to_list(), step)
    proc = staged.facts.proc
    folder = f"{proc.lower()}_segments/proc={proc}/date={staged.facts.date}/run_id={staged.facts.run_id}"
    assert [file.path for file in done.outputs] == [
        f"{folder}/segment={number}/part-000.parquet" for number in range(len(wanted))
    ]
    for number, (piece, file) in enumerate(zip(wanted, done.outputs, strict=True)):
        frame = pl.read_parquet(lab.output / file.path, hive_partitioning=False)
        assert list(frame.schema.items()) == [*run.schema.items(), *SEGMENT_COLUMNS.items()]
        rows = run[piece.start : piece.stop]
        assert bits(frame.select(run.columns)).equals(bits(rows), null_equal=True)
        (told,) = frame.select(list(SEGMENT_COLUMNS)[:-1]).unique().rows()
        volts = rows.to_series(0)
        assert told == (number, piece.kind, volts[0], volts[-1], piece.direction)
        assert frame["point_in_segment"].to_list() == list(range(frame.height))
        assert file.rows == frame.height
    assert done.rows_outside == run.height - sum(piece.stop - piece.start for piece in wanted)


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
