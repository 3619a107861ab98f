"""Registrar: whatever comes in whatever order, the ledger and the disk end as if nothing had ever happened before."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import outputs
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from inprocess import Folders
from instrument import it, iv, ivg

from nanolab_daemon.backlog import Backlog, Rules
from nanolab_daemon.catalog import FILE_NAME, Catalog, RunRecord
from nanolab_daemon.errors import RejectCause
from nanolab_daemon.model import FileState, Rejection
from nanolab_daemon.registrar import AGAIN, Action, CutRun, Registrar, StageAgain, abandon
from nanolab_daemon.scan import name_test
from nanolab_daemon.tally import Tally
from nanolab_daemon.tasks import (
    Gone,
    NoRows,
    Refused,
    Segmented,
    SegmentJob,
    SegmentOutcome,
    Staged,
    StagedFileLost,
    StageJob,
    StageOutcome,
    Unchanged,
)
from nanolab_daemon.terms import Terms

_ONE = iv(1)
_UNDATED = replace(iv(2).first(12), start_time=None)
CONTENTS = {
    "whole": _ONE.data(),
    "part": _ONE.first(20).data(),
    "few": _ONE.first(3).data(),
    "other bytes": replace(_ONE, parameters={**_ONE.parameters, "Information": "again"}).data(),
    "bad row": _ONE.first(20).data() + b"x\r\n",
    "queued": _ONE.queued(),
    "started": _ONE.data(0),
    "series": it(3, rows=8).data(),
    "gate": ivg(4).data(),
    "undated": _UNDATED.data(),
    "undated, more": replace(iv(2).first(30), start_time=None).data(),
    "no file of ours": b"a,b\n1,2\n",
}
THEMES = [
    ["whole", "part", "other bytes"],
    ["undated", "undated, more"],
    ["whole", "bad row", "queued"],
    ["undated", "whole", "no file of ours"],
    ["few", "whole", "series", "gate"],
    sorted(CONTENTS),
]
"""What one lab meets: few files, so that they are often of one run."""
SETTINGS: list[dict[str, Any]] = [
    {"timezone": "America/Santiago"},
    {"timezone": "Asia/Tokyo"},
    {"min_segment_points": 5},
    {"min_segment_points": 12},
    {"procedures": None},
    {"procedures": {"IV": {"segments": ""}, "It": {"columns": ["t (s)", "I (A)", "VL (V)"]}}},
]
PATHS = ["a.csv", "b.csv", "2025-01-02/a.csv", "2025-01-02/c.csv", "2025-01-03/b.csv"]


class Ledgered:
    """Registrar, ledger and folders, with the part of the engine's flow that concerns them, one step at a time."""

    def __init__(self, folders: Folders, ledger: Path) -> None:
        self.folders = folders
        self.ledger = ledger
        self.open()

    def open(self) -> None:
        self.catalog = Catalog.open(self.ledger)
        self.folders = replace(self.folders, owner=self.catalog.ledger_id)
        self.registrar = Registrar(self.catalog, self.folders.stage, self.folders.output, time.time)
        self.registrar.recover()
        self.tune()
        self.folders.make()
        self.waiting: dict[bytes, StageJob] = {}
        self.answered: dict[bytes, tuple[StageJob, StageOutcome]] = {}
        self.to_cut: set[str] = set(self.catalog.pending_runs())
        self.cut: dict[str, tuple[SegmentJob, SegmentOutcome]] = {}

    def tune(self, **settings: Any) -> None:
        """Change the settings; what workers hold in their hands is done on the old ones."""
        self.folders = replace(self.folders, **settings)
        self.registrar.terms = Terms(self.folders.settings).of
        self.registrar.outdate()

    def crash(self) -> None:
        """Lose what is not committed, and everybody at work."""
        self.catalog._db.rollback()
        self.catalog._db.close()
        self.open()

    def act(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case CutRun():
                    self.to_cut.add(action.run_id)
                case StageAgain():
                    self.catalog.set_fingerprint(action.path, AGAIN)
                    self.offer(StageJob(action.path, force=True))

    def offer(self, job: StageJob) -> None:
        record = self.catalog.file(job.path)
        before = self.waiting.get(job.path)
        if (record is not None and record.fingerprint == AGAIN) or (before is not None and before.force):
            job = replace(job, force=True, known_sha256=None)
        self.waiting[job.path] = job

    def scan(self) -> None:
        backlog = Backlog(
            self.folders.raw,
            name_test(["*.csv"], []),
            self.catalog,
            Tally(),
            rules=Rules(),
            registrar=self.registrar,
            act=self.act,
        )
        backlog.start()
        while not backlog.finished:
            for job in backlog.take(100):
                self.offer(job)
        backlog.stop()

    def work(self, path: bytes) -> None:
        """Let a worker take a file; the answer is on its way."""
        if path in self.answered:
            return
        job = self.waiting.pop(path)
        (outcome,) = self.folders.stage_jobs(job)
        self.answered[path] = (job, outcome)

    def take_in(self, path: bytes) -> None:
        """Take in an answer of the first stage."""
        job, outcome = self.answered.pop(path)
        match outcome:
            case Staged():
                self.act(self.registrar.staged(job, outcome))
            case NoRows():
                self.act(self.registrar.no_rows(job, outcome, abandoned=False))
            case Refused():
                self.act(self.registrar.refused(job, outcome))
            case Unchanged():
                self.act(self.registrar.unchanged(job, outcome))
            case Gone():
                self.act(self.registrar.vanished(job.path))
            case _:
                raise AssertionError(outcome)

    def work_on(self, run_id: str) -> None:
        """Let a worker of the second stage take a run."""
        if run_id in self.cut:
            return
        self.to_cut.discard(run_id)
        job = self.registrar.segment_job(run_id, live=False)
        if job is not None:
            (outcome,) = self.folders.cut_jobs(job)
            self.cut[run_id] = (job, outcome)

    def take_in_cut(self, run_id: str) -> None:
        """Take in an answer of the second stage."""
        job, outcome = self.cut.pop(run_id)
        match outcome:
            case Segmented():
                self.act(self.registrar.segmented(job, outcome))
            case StagedFileLost():
                self.act(self.registrar.staged_file_lost(run_id))
            case _:
                raise AssertionError(outcome)

    def drain(self) -> None:
        """Do all there is to do; it must come to an end."""
        for _ in range(200):
            if self.answered:
                self.take_in(next(iter(self.answered)))
            elif self.cut:
                self.take_in_cut(next(iter(self.cut)))
            elif self.waiting:
                self.work(min(self.waiting))
            elif self.to_cut:
                self.work_on(min(self.to_cut))
            else:
                self.registrar.commit()
                while not self.registrar.tidy(0.0):
                    pass
                return
        raise AssertionError("it never ends")

    def settle(self) -> None:
        """Scan until a scan finds nothing more to do."""
        self.drain()
        for _ in range(5):
            self.scan()
            if not (self.waiting or self.to_cut):
                self.registrar.commit()
                return
            self.drain()
        raise AssertionError("each scan finds something to do")

    def states(self) -> dict[bytes, tuple[object, ...]]:
        """Give what the ledger says of each present file, but for times."""
        return {
            one.path: (one.state, one.reason, one.sha256, one.proc, one.run_id, one.rows, one.rejection)
            for one in self.catalog.files("present")
        }

    def runs(self) -> dict[str, RunRecord]:
        return {run.run_id: run for run in self.catalog.runs()}

    def check_disk(self) -> None:
        """Ledger and disk agree, both ways."""
        named: set[str] = set()
        for run in self.catalog.runs():
            for name, root, file in [
                ("stage", self.folders.stage, run.stage_file),
                *(("output", self.folders.output, file) for file in run.segment_files),
            ]:
                contents = (root / file.path).read_bytes()
                assert hashlib.sha256(contents).hexdigest() == file.sha256, file.path
                named.add(f"{name}/{file.path}")
        found = {f"stage/{path}" for path in outputs.published(self.folders.stage)}
        found |= {f"output/{path}" for path in outputs.published(self.folders.output)}
        assert found == named
        assert not self.folders.bundles()


def comparable(run: RunRecord) -> tuple[object, ...]:
    hashes = [file.rows for file in run.segment_files]
    return run.facts, run.source_sha256, run.stage_file.path, run.segmentation, hashes, run.rows_outside


def names_a_copy(states: dict[bytes, tuple[object, ...]]) -> dict[bytes, tuple[object, ...]]:
    """Leave out which of several identical copies is the source: they count as one file with all their states."""
    groups: dict[object, list[bytes]] = {}
    for path, state in states.items():
        groups.setdefault(state[2], []).append(path)
    return {b"|".join(sorted(paths)): tuple(sorted(str(states[path]) for path in paths)) for paths in groups.values()}


def assert_as_fresh(one: Ledgered, home: Path) -> None:
    """Compare with a ledger that saw only what is there now, in the order of paths."""
    fresh_home = Path(tempfile.mkdtemp(dir=home))
    fresh = Ledgered(replace(one.folders, root=fresh_home), fresh_home / FILE_NAME)
    shutil.rmtree(fresh.folders.raw)
    fresh.folders.raw.symlink_to(one.folders.raw)
    fresh.settle()
    assert names_a_copy(one.states()) == names_a_copy(fresh.states())
    mine, theirs = one.runs(), fresh.runs()
    living = {run_id: run for run_id, run in mine.items() if not run.source_missing}
    assert {k: comparable(v) for k, v in living.items()} == {k: comparable(v) for k, v in theirs.items()}
    ours = outputs.snapshot(one.folders.stage, one.folders.output)
    lost = {run_id for run_id, run in mine.items() if run.source_missing}
    ours = {path: frame for path, frame in ours.items() if not any(f"run_id={run_id}/" in path for run_id in lost)}
    outputs.assert_equal(
        ours, outputs.snapshot(fresh.folders.stage, fresh.folders.output), ignoring=outputs.BOOKKEEPING
    )
    fresh.check_disk()
    fresh.catalog.close()


class World(RuleBasedStateMachine):
    """Files come, go, grow, move, are copied and touched; answers come late and in any order."""

    crashes = False

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="nanolab-test-"))
        self.one = Ledgered(Folders(self.home), self.home / FILE_NAME)
        self.clock = 1_700_000_000

    def path(self, name: str) -> Path:
        path = self.one.folders.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def tick(self, path: Path) -> None:
        self.clock += 40_000  # about half a day
        os.utime(path, (self.clock, self.clock))

    def there(self) -> list[str]:
        return [name for name in PATHS if self.path(name).exists()]

    @initialize(theme=st.sampled_from(THEMES), names=st.sampled_from([PATHS, PATHS[1:4], PATHS[:2]]))
    def begin(self, theme: list[str], names: list[str]) -> None:
        self.theme = theme
        self.names = names

    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        path = self.path(data.draw(st.sampled_from(self.names)))
        path.write_bytes(CONTENTS[data.draw(st.sampled_from(self.theme))])
        self.tick(path)

    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        """Write all paths, and let the scan and the workers find them."""
        for name in self.names:
            self.path(name).write_bytes(CONTENTS[data.draw(st.sampled_from(self.theme))])
            self.tick(self.path(name))
        self.one.scan()
        for path in data.draw(st.permutations(sorted(self.one.waiting))):
            self.one.work(path)

    @precondition(lambda self: self.there())
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self.path(data.draw(st.sampled_from(self.there()))).unlink()

    @precondition(lambda self: self.there())
    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        origin = self.path(data.draw(st.sampled_from(self.there())))
        origin.replace(self.path(data.draw(st.sampled_from(self.names))))

    @precondition(lambda self: self.there())
    @rule(data=st.data(), keep=st.booleans())
    def copy(self, data: st.DataObject, keep: bool) -> None:
        origin, to = (self.path(data.draw(st.sampled_from(names))) for names in (self.there(), self.names))
        if origin != to:
            shutil.copy2(origin, to)
            if not keep:
                self.tick(to)

    @rule(change=st.sampled_from(SETTINGS))
    def tune(self, change: dict[str, Any]) -> None:
        self.one.tune(**change)

    @precondition(lambda self: self.there())
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        self.tick(self.path(data.draw(st.sampled_from(self.there()))))

    @rule()
    def scan(self) -> None:
        self.one.scan()

    @precondition(lambda self: self.one.waiting)
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        self.one.work(data.draw(st.sampled_from(sorted(self.one.waiting))))

    @precondition(lambda self: self.one.answered)
    @rule(data=st.data())
    def take_in(self, data: st.DataObject) -> None:
        self.one.take_in(data.draw(st.sampled_from(sorted(self.one.answered))))

    @precondition(lambda self: self.one.to_cut)
    @rule(data=st.data())
    def work_on(self, data: st.DataObject) -> None:
        self.one.work_on(data.draw(st.sampled_from(sorted(self.one.to_cut))))

    @precondition(lambda self: self.one.cut)
    @rule(data=st.data())
    def take_in_cut(self, data: st.DataObject) -> None:
        self.one.take_in_cut(data.draw(st.sampled_from(sorted(self.one.cut))))

    @rule()
    def commit(self) -> None:
        self.one.registrar.commit()

    @rule()
    def settle(self) -> None:
        self.one.settle()
        self.check()

    @precondition(lambda self: self.crashes)
    @rule()
    def crash(self) -> None:
        self.one.crash()

    def check(self) -> None:
        self.one.check_disk()
        assert_as_fresh(self.one, self.home)

    def teardown(self) -> None:
        try:
            self.one.settle()
            self.check()
        finally:
            self.one.catalog.close()
            shutil.rmtree(self.home, ignore_errors=True)


class CrashingWorld(World):
    """As that, and the program is killed at any moment, with the disk ahead of the ledger."""

    crashes = True


# Without shrinking: a failure of many steps is told by its blob, and shrinking it would take longer than a test may.
SEQUENCES = settings(
    max_examples=int(os.environ.get("SEQUENCES", "8")),
    stateful_step_count=25,
    derandomize="SEQUENCES" not in os.environ,  # the same ones each time, unless more are asked for
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    print_blob=True,
)
TestWorld = World.TestCase
TestWorld.settings = SEQUENCES
TestCrashingWorld = CrashingWorld.TestCase
TestCrashingWorld.settings = SEQUENCES


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Ledgered]:
    ledgered = Ledgered(Folders(tmp_path), tmp_path / FILE_NAME)
    yield ledgered
    ledgered.catalog.close()


def test_known_bytes_must_still_be_known(one: Ledgered) -> None:
    """When the ledger has learned other bytes of a file meanwhile, `unchanged` is no answer: it is staged again."""
    path = one.folders.put("a.csv", CONTENTS["whole"])
    one.settle()
    known = one.catalog.file(path)
    assert known is not None
    job = StageJob(path, known_sha256=known.sha256)
    one.folders.put("a.csv", CONTENTS["part"])
    one.settle()
    one.folders.put("a.csv", CONTENTS["whole"])
    one.waiting[path] = job
    one.drain()
    record = one.catalog.file(path)
    assert record is not None
    assert (record.sha256, record.rows, record.state) == (known.sha256, 44, FileState.SEGMENTED)
    one.check_disk()


@pytest.mark.parametrize("order", [["a.csv", "b.csv"], ["b.csv", "a.csv"]])
def test_dated_copies_converge(one: Ledgered, order: list[str]) -> None:
    """Of copies that would date one run differently, the first by path is the source, whichever came first."""
    for name in order:
        one.folders.put(name, CONTENTS["undated"])
        os.utime(one.folders.raw / name, (10**9 + 10**6 * "ab".index(name[0]),) * 2)
        one.settle()
    (run,) = one.runs().values()
    assert run.source == b"a.csv"
    assert run.facts.start_us == 10**15
    one.check_disk()


def test_what_is_to_be_made_again_survives_a_crash(one: Ledgered) -> None:
    """A staged file that was found damaged is made again, even if the program dies before it gets to it."""
    one.folders.put("a.csv", CONTENTS["whole"])
    one.settle()
    (run,) = one.runs().values()
    (one.folders.stage / run.stage_file.path).write_bytes(b"damaged")
    one.act(one.registrar.staged_file_lost(run.run_id))
    one.registrar.commit()
    one.crash()
    one.settle()
    one.check_disk()


def test_published_but_not_recorded_is_taken_away(one: Ledgered) -> None:
    """What was published just before a crash, of a file that is gone at the next start, does not stay."""
    path = one.folders.put("a.csv", CONTENTS["whole"])
    one.scan()
    one.work(path)
    assert outputs.published(one.folders.stage)
    (one.folders.raw / "a.csv").unlink()
    one.crash()
    one.settle()
    assert not outputs.published(one.folders.stage)
    one.check_disk()


def test_published_but_not_recorded_stays_until_it_is_made_again(one: Ledgered) -> None:
    """Readers keep what a crash has left unrecorded: the run made again takes its place."""
    path = one.folders.put("a.csv", CONTENTS["whole"])
    one.scan()
    one.work(path)
    published = outputs.published(one.folders.stage)
    one.crash()
    assert outputs.published(one.folders.stage) == published
    one.scan()
    one.work(path)
    assert outputs.published(one.folders.stage) == published
    one.settle()
    one.check_disk()


@pytest.mark.parametrize("starts", [1, 2, 3])
def test_starts_that_are_cut_short_forget_nothing(one: Ledgered, starts: int) -> None:
    """A run that was replaced but not recorded is made again, however many starts come no further than the first."""
    path = one.folders.put("a.csv", CONTENTS["part"])
    one.settle()
    one.folders.put("a.csv", CONTENTS["whole"])
    one.scan()
    one.work(path)
    one.take_in(path)
    one.folders.put("a.csv", CONTENTS["part"])
    for _ in range(starts):
        one.crash()
    one.settle()
    one.check_disk()


def test_foreign_runs_are_never_taken_away(one: Ledgered) -> None:
    """A run that somebody else published, and this ledger never heard of, stays where it is."""
    other = replace(one.folders, owner="other").make()
    staged = other.staged("a.csv", CONTENTS["whole"])
    (one.folders.raw / "a.csv").unlink()
    one.crash()
    one.settle()
    assert outputs.published(one.folders.stage) == [staged.output.path]


def test_touched_file_that_was_given_up_waits_again(one: Ledgered) -> None:
    """A file without rows that was rejected as abandoned is queued again once somebody touches it."""
    path = one.folders.put("a.csv", CONTENTS["queued"])
    one.settle()
    record = one.catalog.file(path)
    assert record is not None
    one.catalog.put_file(abandon(record))
    os.utime(one.folders.raw / "a.csv", (1, 1))
    one.scan()
    one.drain()
    assert [record.state for record in one.catalog.files()] == [FileState.QUEUED]


def test_choice_between_equals_knows_no_order(one: Ledgered) -> None:
    """Of two files of one run with as many rows but other bytes, the same one is published whichever came first."""
    chosen = set()
    for first, second in (("whole", "other bytes"), ("other bytes", "whole")):
        for name in ("a.csv", "b.csv"):
            (one.folders.raw / name).unlink(missing_ok=True)
        one.settle()
        one.folders.put("b.csv", CONTENTS[first])
        one.settle()
        one.folders.put("a.csv", CONTENTS[second])
        one.settle()
        (run,) = one.runs().values()
        chosen.add(run.source_sha256)
        one.check_disk()
    assert len(chosen) == 1


def test_late_segments_leave_a_file_with_other_contents_alone(one: Ledgered) -> None:
    """Segments that come when a run's source holds no run any more and its heir is not staged are not its own."""
    for name in ("a.csv", "b.csv"):
        one.folders.put(name, CONTENTS["undated"])
    one.settle()
    (run,) = one.runs().values()
    assert run.source == b"a.csv"
    known = one.catalog.file(b"a.csv")
    assert known is not None
    refused = Refused(known.fingerprint, "0" * 64, Rejection(RejectCause.NOT_INSTRUMENT_FILE, "It is none."))
    assert one.registrar.refused(StageJob(b"a.csv"), refused) == [StageAgain(b"b.csv")]
    job = SegmentJob(run.run_id, run.stage_file.path, run.segments_folder)
    one.registrar.segmented(job, Segmented(run.run_id, run.source_sha256, run.segment_files, 0, None))
    record = one.catalog.file(b"a.csv")
    assert record is not None
    assert (record.state, record.reason) == (FileState.REJECTED, "It is none.")


def test_an_heir_that_vanishes_before_it_is_staged(one: Ledgered) -> None:
    """When a run's source holds something else and the copy that was to take its place goes too, nobody holds it."""
    for name in ("a.csv", "b.csv"):
        one.folders.put(name, CONTENTS["undated"])
    one.settle()
    (run,) = one.runs().values()
    known = one.catalog.file(b"a.csv")
    assert known is not None
    refused = Refused(known.fingerprint, "0" * 64, Rejection(RejectCause.NOT_INSTRUMENT_FILE, "It is none."))
    assert one.registrar.refused(StageJob(b"a.csv"), refused) == [StageAgain(b"b.csv")]
    assert one.registrar.vanished(b"b.csv") == []
    found = one.catalog.run(run.run_id)
    assert found is not None
    assert found.source_missing
