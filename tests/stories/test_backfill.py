"""A backfill with real processes: all files, whatever happens on the way, and nothing twice."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import instrument
import outputs
import polars as pl
import pytest
import reference
from realdata import REAL_DATA, real_files

from nanolab_daemon import batch, config
from nanolab_daemon.backlog import Rules
from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord, RunRecord
from nanolab_daemon.engine import Engine
from nanolab_daemon.header import parse_header
from nanolab_daemon.model import FileState
from nanolab_daemon.procedures import Registry
from nanolab_daemon.tally import Tally

pytestmark = pytest.mark.timeout(240)


class Place:
    """A raw folder and what is made of it."""

    def __init__(self, root: Path, workers: int = 1) -> None:
        self.root = root
        self.workers = workers
        self.raw, self.stage, self.output, self.state = (root / name for name in ("raw", "stage", "output", "state"))

    @property
    def overrides(self) -> dict[str, object]:
        return {
            "paths.raw": str(self.raw),
            "paths.stage": str(self.stage),
            "paths.output": str(self.output),
            "paths.state": str(self.state),
            "pools.stage_workers": self.workers,
            "pools.segment_workers": self.workers,
        }

    def backfill(self, file: Path | None = None, **rules: bool) -> Tally:
        """Run a backfill in this process (its workers are processes of their own)."""
        loaded = config.load(file, environ={}, overrides=self.overrides)
        found = Rules(abandoned_after_s=loaded.watch.abandoned_after_s, **rules) if rules else None  # type: ignore[arg-type]
        ended = batch.run(loaded, "backfill", rules=found)
        assert not ended.interrupted
        assert outputs.leftovers(self.stage, self.output) == []
        return ended.tally

    def files(self) -> dict[str, FileRecord]:
        with closing(Catalog.open(self.state / FILE_NAME)) as catalog:
            return {os.fsdecode(one.path): one for one in catalog.files("present")}

    def runs(self) -> dict[str, RunRecord]:
        with closing(Catalog.open(self.state / FILE_NAME)) as catalog:
            return {one.run_id: one for one in catalog.runs()}

    def states(self) -> dict[str, str]:
        return {path: str(one.state) for path, one in self.files().items()}

    def run_of(self, path: str) -> RunRecord:
        run_id = self.files()[path].run_id
        assert run_id is not None
        return self.runs()[run_id]

    def snapshot(self) -> dict[str, pl.DataFrame]:
        return outputs.snapshot(self.stage, self.output)

    def start(self) -> subprocess.Popen[bytes]:
        """Begin a backfill in a process of its own, the leader of its own group."""
        return subprocess.Popen(
            [sys.executable, __file__, *(f"{key}={value}" for key, value in self.overrides.items())],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def bits(values: Sequence[float]) -> list[bytes]:
    return [b"nan" if math.isnan(value) else struct.pack("d", value) for value in values]


def assert_true_to_text(place: Place, paths: Sequence[Path]) -> None:
    """Check each published value against Python's float() of the text, and all segments against the plain rule."""
    registry = Registry.builtin()
    for path in paths:
        raw = path.read_bytes()
        header = parse_header(raw)
        lines = raw[header.data_offset :].decode("ascii").split("\r\n")[:-1]
        if not lines:
            continue
        run = place.run_of(str(path.relative_to(place.raw)))
        frame = pl.read_parquet(place.stage / run.stage_file.path, hive_partitioning=False)
        for name, texts in zip(header.columns, zip(*(line.split(",") for line in lines), strict=True), strict=True):
            assert bits(frame[name].to_list()) == bits([float(text) for text in texts]), (path, name)
        procedure = registry.get(header.procedure)
        assert procedure is not None
        if procedure.segments is not None and procedure.segment_column is not None:
            step = procedure.number(header, procedure.step)
            wanted = reference.cut(procedure.segments, frame[procedure.segment_column].to_list(), step)
            assert [file.rows for file in run.segment_files] == [piece.stop - piece.start for piece in wanted]
            for file, piece in zip(run.segment_files, wanted, strict=True):
                segment = pl.read_parquet(place.output / file.path, hive_partitioning=False)
                assert outputs.bits(segment[:, : frame.width]).equals(outputs.bits(frame[piece.start : piece.stop]))
                assert set(segment["segment_type"]) == {piece.kind}
            assert run.rows_outside == frame.height - sum(piece.stop - piece.start for piece in wanted)


def test_every_file_of_a_lab(place: Place) -> None:
    """Sweeps, series, aborted and queued files: each value and each segment is right, each state as it should be."""
    lab = instrument.lab(place.raw)
    waiting = instrument.iv(99)
    (place.raw / "queued.csv").write_bytes(waiting.queued())
    (place.raw / "started.csv").write_bytes(waiting.data(0))
    (place.raw / "bad.csv").write_bytes(instrument.iv(98).data() + b"x\r\n")
    tally = place.backfill()
    assert_true_to_text(place, [place.raw / path for path in lab])
    states = place.states()
    assert {path: states.pop(path) for path in ("queued.csv", "started.csv", "bad.csv")} == {
        "queued.csv": "queued",
        "started.csv": "started",
        "bad.csv": "rejected",
    }
    assert states == dict.fromkeys(lab, "segmented")
    incomplete = {run.run_id for run in place.runs().values() if run.facts.completeness.complete is False}
    assert len(incomplete) == sum(seed % 7 == 6 for seed in range(24)) == tally.incomplete
    manifest = pl.read_parquet(place.stage / "_manifest/manifest.parquet")
    assert manifest.height == manifest["run_id"].n_unique() == len(place.runs()) == len(lab)
    assert set(manifest.filter(~pl.col("complete"))["run_id"]) == incomplete


@pytest.mark.skipif(not real_files(), reason="no real files here")
def test_every_real_file(place: Place) -> None:
    """The lab's own files: 202 runs, one file that waits, five aborted sweeps; each value is that of the text."""
    shutil.copytree(REAL_DATA, place.raw)
    paths = [place.raw / path.relative_to(REAL_DATA) for path in real_files()]
    (empty,) = [path for path in paths if path.stat().st_size < 600]
    os.utime(empty)
    place.backfill()
    states = place.files()
    assert len(states) == 203
    assert states[str(empty.relative_to(place.raw))].state is FileState.QUEUED
    runs = place.runs()
    assert len(runs) == 202
    aborted = [
        (one.facts.rows, one.facts.completeness.expected_rows)
        for one in runs.values()
        if one.facts.completeness.complete is False and one.facts.completeness.expected_rows is not None
    ]
    assert sorted(aborted) == [(59, 601), (74, 404), (201, 301), (483, 601), (799, 1201)]
    assert_true_to_text(place, paths)
    before = place.snapshot()
    day_s = 86400
    os.utime(empty, (time.time() - 2 * day_s,) * 2)
    place.backfill()
    record = place.files()[str(empty.relative_to(place.raw))]
    assert record.state is FileState.REJECTED
    assert record.rejection is not None
    assert record.rejection.cause == "abandoned"
    outputs.assert_equal(before, place.snapshot())


def workers_of(group: int) -> list[int]:
    """Give the processes of a group that still live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == group and "State:\tZ" not in (entry / "status").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def await_(condition: object, within_s: float = 10.0) -> None:
    until = time.monotonic() + within_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.01)


def killed_at(place: Place, published: int) -> bool:
    """Begin a backfill and kill it once so many runs are published; tell whether it was still at work."""
    process = place.start()
    while process.poll() is None and len(list(place.stage.glob("proc=*/date=*/run_id=*"))) < published:
        time.sleep(0.005)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL) if alive else None
    process.wait()
    await_(lambda: not workers_of(process.pid))
    return alive


@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_killed_and_resumed(place: Place, tmp_path: Path, kills: int) -> None:
    """Killed again and again, a backfill ends as one that nobody disturbed; no worker outlives it."""
    place.workers = 2
    instrument.lab(place.raw, 120)
    chance = random.Random(kills)
    moments = sorted(chance.randrange(1, 115) for _ in range(kills))
    for moment in moments:
        killed_at(place, moment)
    place.backfill()
    other = Place(tmp_path / "other")
    shutil.copytree(place.raw, other.raw)
    other.backfill()
    outputs.assert_equal(place.snapshot(), other.snapshot(), ignoring=outputs.TIMES)
    assert place.states() == other.states()
    assert len(place.runs()) == 120


def test_interrupted_ends_tidily(place: Place) -> None:
    """SIGTERM ends a backfill soon, with everything recorded and nothing temporary left; the next one goes on."""
    instrument.lab(place.raw, 120)
    process = place.start()
    await_(lambda: process.poll() is not None or list(place.stage.glob("proc=*/date=*/run_id=*")), 60)
    process.terminate()
    process.wait(timeout=20)
    await_(lambda: not workers_of(process.pid))
    assert outputs.leftovers(place.stage, place.output) == []
    before = len(place.runs())
    assert before == len(list(place.stage.glob("proc=*/date=*/run_id=*")))
    assert place.backfill().staged_done == 120 - before


class TestChanges:
    """One small lab, backfilled; then something happens, and it is backfilled again."""

    @pytest.fixture
    def lab(self, place: Place) -> Place:
        instrument.lab(place.raw, 9)
        place.backfill()
        return place

    def paths(self, lab: Place) -> list[Path]:
        return sorted(lab.raw.rglob("*.csv"))

    def test_nothing_new(self, lab: Place) -> None:
        """Without a change nothing is opened and nothing is written."""
        before = {
            path: path.stat().st_mtime_ns for root in (lab.stage, lab.output) for path in root.rglob("*.parquet")
        }
        assert lab.backfill().staged_done == 0
        after = {
            path: path.stat().st_mtime_ns for root in (lab.stage, lab.output) for path in root.rglob("*.parquet")
        }
        assert after == before

    def test_all_files_moved(self, lab: Place) -> None:
        """When all files are renamed nothing is staged again; the ledger and the manifest follow."""
        before = lab.snapshot()
        states = lab.states()
        for path in self.paths(lab):
            (lab.raw / "moved").mkdir(exist_ok=True)
            path.rename(lab.raw / "moved" / path.name)
        tally = lab.backfill()
        assert (tally.staged_done, tally.missing, tally.missing_ignored) == (0, 0, 0)
        assert lab.states() == {f"moved/{Path(path).name}": state for path, state in states.items()}
        assert all(run.source.startswith(b"moved/") and not run.source_missing for run in lab.runs().values())
        outputs.assert_equal(before, lab.snapshot(), ignoring=outputs.BOOKKEEPING)

    def test_copy_is_a_duplicate(self, lab: Place) -> None:
        """The same bytes at a second path are no second run; when the first goes, the second takes its place."""
        path = self.paths(lab)[0]
        name = str(path.relative_to(lab.raw))
        shutil.copy(path, lab.raw / "copy.csv")
        runs = lab.runs()
        lab.backfill()
        assert lab.runs() == runs
        assert lab.states()["copy.csv"] == "duplicate"
        path.unlink()
        lab.backfill()
        assert lab.states()["copy.csv"] == "segmented"
        assert name not in lab.states()
        assert lab.run_of("copy.csv").source == b"copy.csv"

    def test_fuller_file_supersedes(self, lab: Place) -> None:
        """Of two files of one run the one with more rows is published, whichever came first."""
        seed = instrument.iv(50)
        seed.first(30).write(lab.raw / "short.csv")
        lab.backfill()
        assert lab.run_of("short.csv").facts.rows == 30
        seed.write(lab.raw / "long.csv")
        lab.backfill()
        assert (lab.states()["short.csv"], lab.states()["long.csv"]) == ("superseded", "segmented")
        run = lab.run_of("long.csv")
        assert (run.facts.rows, run.revision, len(run.segment_files)) == (44, 2, 4)
        (lab.raw / "long.csv").unlink()
        lab.backfill()
        assert lab.states()["short.csv"] == "segmented"
        assert lab.run_of("short.csv").facts.rows == 30

    def test_grown_file_is_published_again(self, lab: Place) -> None:
        """New rows of the same run make a new revision; no segment of the old one is left."""
        seed = instrument.iv(51)
        path = seed.first(40).write(lab.raw / "x.csv")
        lab.backfill()
        segments = lab.run_of("x.csv").segment_files
        seed.first(14).write(path)
        lab.backfill()
        run = lab.run_of("x.csv")
        assert (run.revision, run.facts.rows) == (2, 14)
        assert len(run.segment_files) < len(segments)
        on_disk = sorted((lab.output / run.segments_folder).rglob("*.parquet"))
        assert on_disk == sorted(lab.output / file.path for file in run.segment_files)

    def test_other_measurement_at_the_same_path(self, lab: Place) -> None:
        """Another measurement at a known path is a run of its own; the old run stays, without a source."""
        path = self.paths(lab)[0]
        name = str(path.relative_to(lab.raw))
        old = lab.run_of(name).run_id
        instrument.ivg(52).write(path)
        lab.backfill()
        assert lab.run_of(name).run_id != old
        assert lab.runs()[old].source_missing
        assert (lab.stage / lab.runs()[old].stage_file.path).exists()

    def test_vanished_file_leaves_its_run(self, lab: Place) -> None:
        """A raw file that is deleted leaves its run and says so; when it comes back, so does its state."""
        path = self.paths(lab)[0]
        name = str(path.relative_to(lab.raw))
        run_id, contents = lab.run_of(name).run_id, path.read_bytes()
        before = lab.snapshot()
        path.unlink()
        lab.backfill()
        assert lab.runs()[run_id].source_missing
        path.write_bytes(contents)
        lab.backfill()
        assert not lab.runs()[run_id].source_missing
        assert lab.states()[name] == "segmented"
        outputs.assert_equal(before, lab.snapshot(), ignoring=outputs.TIMES)

    @pytest.mark.parametrize("what", ["stage", "output"])
    def test_deleted_output_is_made_again_by_force(self, lab: Place, what: str) -> None:
        """What somebody deleted by hand is made again when known files are done again."""
        before = lab.snapshot()
        run = lab.run_of(str(self.paths(lab)[0].relative_to(lab.raw)))
        shutil.rmtree(lab.stage / run.folder if what == "stage" else lab.output / run.segments_folder)
        lab.backfill(force=True)
        outputs.assert_equal(before, lab.snapshot(), ignoring=outputs.TIMES)

    def test_mended_file_is_taken(self, lab: Place) -> None:
        """A rejected file is tried again when its bytes change, and only then."""
        good = instrument.iv(53)
        path = lab.raw / "x.csv"
        path.write_bytes(replace(good, rows=[*good.rows[:5], "oops", *good.rows[5:]]).data())
        lab.backfill()
        assert lab.states()["x.csv"] == "rejected"
        assert lab.backfill().staged_done == 0
        good.write(path)
        lab.backfill()
        assert lab.states()["x.csv"] == "segmented"


def test_registry_that_learns_how_a_procedure_is_cut(place: Place) -> None:
    """What was staged before the registry knew its phases gets them by the next backfill, and loses them so, too."""
    lab = instrument.lab(place.raw, 6)
    place.backfill()
    cut, states = place.snapshot(), place.states()
    assert states == dict.fromkeys(lab, "segmented")
    untaught = place.root / "untaught.toml"
    untaught.write_text('[procedures.It]\nsegments = ""\n')

    assert place.backfill(untaught).staged_done == 2
    assert place.states() == {path: "staged" if "It" in path else "segmented" for path in lab}
    assert not list(place.output.glob("it_segments/**/*.parquet"))
    kinds = {run.facts.proc: run.facts.segment_kind for run in place.runs().values()}
    assert kinds == {"IV": "sweep", "IVg": "sweep", "It": None}

    assert place.backfill(untaught).staged_done == 0
    assert place.backfill().staged_done == 2
    assert place.states() == states
    assert place.backfill().staged_done == 0
    outputs.assert_equal(cut, place.snapshot(), ignoring=outputs.TIMES)


def test_nothing_to_do_starts_no_worker(place: Place) -> None:
    """A rerun over files that are all known ends without a process of its own, and writes nothing."""
    instrument.iv(1).write(place.raw / "a.csv")
    place.backfill()
    before = {
        path: path.stat().st_mtime_ns for root in (place.stage, place.output) for path in root.rglob("*.parquet")
    }
    started: set[int] = set()

    def look(engine: Engine) -> None:
        started.update(lane.pool.counts.started for lane in (engine.staging, engine.cutting))

    loaded = config.load(None, environ={}, overrides=place.overrides)
    assert batch.run(loaded, "backfill", on_step=look).tally.known == 1
    assert started == {0}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_vanished_share_is_no_deletion(place: Place) -> None:
    """When nearly all files are gone at once, nothing is concluded: a share was unmounted, not a lab emptied."""
    instrument.lab(place.raw, 30)
    place.backfill()
    files, runs = place.files(), place.runs()
    place.raw.rename(place.root / "elsewhere")
    place.raw.mkdir()
    assert place.backfill().missing_ignored == 30
    assert (place.files(), place.runs()) == (files, runs)
    place.raw.rmdir()
    (place.root / "elsewhere").rename(place.raw)
    assert place.backfill().staged_done == 0
    assert (place.files(), place.runs()) == (files, runs)


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    numbers = {key: int(value) for key, value in given.items() if key.startswith("pools.")}
    batch.run(config.load(None, environ={}, overrides={**given, **numbers}), "backfill")
