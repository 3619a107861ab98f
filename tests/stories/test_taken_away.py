"""Published files that somebody takes away or cuts short are made again after the next start, or told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import instrument
import pytest
from lab import Lab, assert_converged, until

from nanolab_daemon import verify


def _staged_file(lab: Lab) -> None:
    next(lab.stage.glob("proc=IV/*/*/part-000.parquet")).unlink()


def _segments(lab: Lab) -> None:
    shutil.rmtree(next(lab.output.glob("iv_segments/*/*/run_id=*")))


def _a_segment_cut_short(lab: Lab) -> None:
    file = next(lab.output.glob("iv_segments/*/*/run_id=*/segment=2/part-000.parquet"))
    file.write_bytes(file.read_bytes()[:100])


def _everything(lab: Lab) -> None:
    for path in (lab.stage / "proc=IV", lab.output / "iv_segments"):
        shutil.rmtree(path)


def lab_of(home: Path, files: int) -> Lab:
    lab = Lab(home)
    for number in range(files):
        (lab.raw / f"IV_{number}.csv").write_bytes(instrument.iv(number, start=1757018821.0 + number).data())
    lab.backfill()
    return lab


@pytest.mark.parametrize("harm", [_staged_file, _segments, _a_segment_cut_short, _everything])
@pytest.mark.parametrize("how", ["run", "backfill"])
def test_it_is_made_again(tmp_path: Path, harm: Callable[[Lab], None], how: str) -> None:
    lab = lab_of(tmp_path, 4)
    harm(lab)
    if how == "backfill":
        lab.backfill()
    else:
        with lab.daemon():
            until(lab.has_looked)
            lab.wait_quiet()
    assert not verify.verify(lab.config).problems
    assert_converged(lab)


def test_most_of_them_gone_is_told_and_left_alone(tmp_path: Path) -> None:
    """Another disk in the place of the right one is not filled with everything."""
    lab = lab_of(tmp_path, 25)
    _everything(lab)
    log = lab.home / "daemon.log"
    with lab.process():
        until(lab.has_looked)
        lab.wait_quiet()
    said = [json.loads(line) for line in log.read_text().splitlines()]
    (told,) = [one for one in said if one["event"].startswith("most published files are gone")]
    assert told["count"] == 25
    assert not list(lab.stage.glob("proc=IV/*/*/part-000.parquet"))


def test_what_can_not_be_made_again_is_told(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, 3)
    (lab.raw / "IV_0.csv").unlink()
    lab.backfill()
    (orphan,) = [run for run in lab.runs().values() if run.source_missing]
    (lab.stage / orphan.stage_file.path).unlink()
    with lab.process():
        lab.wait_quiet()
        until(lambda: "so is the raw file" in (lab.home / "daemon.log").read_text())
    assert orphan.run_id in (lab.home / "daemon.log").read_text()


def test_segments_are_made_from_the_staged_file_when_the_raw_file_is_gone(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, 3)
    (lab.raw / "IV_0.csv").unlink()
    lab.backfill()
    (orphan,) = [run for run in lab.runs().values() if run.source_missing]
    shutil.rmtree(lab.output / orphan.segments_folder)
    lab.backfill()
    assert not verify.verify(lab.config).problems
    assert len(list((lab.output / orphan.segments_folder).glob("segment=*/part-000.parquet"))) == 4


def test_it_is_made_again_in_the_middle_of_other_work(tmp_path: Path) -> None:
    """What the look finds is overtaken: files come, grow and vanish while it goes on."""
    lab = lab_of(tmp_path, 12)
    for number in range(0, 12, 2):
        shutil.rmtree(next(lab.output.glob("iv_segments/*/*/run_id=*")))
        (lab.raw / f"IV_{number}.csv").unlink()
    for number in range(20, 40):
        (lab.raw / f"IV_{number}.csv").write_bytes(instrument.iv(number, start=1757218821.0 + number).data())
    with lab.daemon():
        until(lab.has_looked)
        lab.wait_quiet()
    assert not verify.verify(lab.config).problems
    assert_converged(lab)


def test_a_folder_made_anew_beneath_the_daemon_is_filled_again(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, 4)
    with lab.process():
        lab.wait_quiet()
        shutil.rmtree(lab.stage)
        (lab.raw / "IV_9.csv").write_bytes(instrument.iv(9, start=1757118821.0).data())
        until(lambda: (lab.status() or {}).get("paused"))
        lab.stage.mkdir()
        until(lambda: len(list(lab.stage.glob("proc=IV/*/*/part-000.parquet"))) == 5, 60)
        lab.wait_quiet()
    assert not verify.verify(lab.config).problems
    assert_converged(lab)
