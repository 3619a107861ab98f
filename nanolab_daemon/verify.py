"""Whether the ledger and the disk agree, both ways: what is published is there and whole, what is there is published.

Changes nothing. Files are read and hashed by workers; this process reads names and the ledger alone.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from nanolab_daemon import lock
from nanolab_daemon.catalog import FILE_NAME, Catalog, RunRecord
from nanolab_daemon.claim import refuse_another_lab
from nanolab_daemon.config import Config
from nanolab_daemon.lane import Answer, Condemned, Lane
from nanolab_daemon.model import OutputFile
from nanolab_daemon.names import shown_path
from nanolab_daemon.pool import Pool
from nanolab_daemon.publish import LAB_MARK, MANIFEST, SET_ASIDE, TEMP_FOLDER
from nanolab_daemon.sections import LAB_PARTITION
from nanolab_daemon.tasks import StageJob

PART = "part-000.parquet"
LOOKS_BESIDE_AN_ENGINE = 3
LOOK_AGAIN_AFTER_S = 1.0
BATCH_FILES = 64
BATCH_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class FileQuestion:
    """Asks whether a published file is what the ledger says."""

    path: str
    size_bytes: int
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ManifestQuestion:
    """Asks what the manifest tells of each run."""

    path: str


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """What is wrong with the file in words; empty if nothing is."""

    trouble: str


ManifestRow = tuple[int, int, str, int | None]
"""Of one run: rows, revision, status, segments."""


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """The manifest's rows by run id; `trouble` if it can't be read."""

    trouble: str
    runs: dict[str, ManifestRow]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One disagreement; `kind` names its sort, `remedy` what to do."""

    kind: str
    path: str
    detail: str
    remedy: str
    run_id: str = ""  # the run that would have to be made again


@dataclass(frozen=True, slots=True)
class Verified:
    """What was looked at, and what is wrong. `notes` are no disagreements, but good to know."""

    runs: int
    files: int
    rows: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    seconds: float


def verify(config: Config, on_step: Callable[[int, int], None] = lambda *_: None) -> Verified:
    """Compare everything. Beside an engine at work, only what is wrong time and again counts.

    What is wrong with a run that was done anew between two looks does not: it may have been caught in between twice.
    """
    began = time.monotonic()
    looks = LOOKS_BESIDE_AN_ENGINE if lock.holder(config.paths.state) is not None else 1
    look = _Look(config, on_step, beside_engine=looks > 1)
    found = look.run()
    for _ in range(looks - 1):
        if not found.problems:
            break
        time.sleep(LOOK_AGAIN_AFTER_S)
        lasting = {look.mark(one) for one in found.problems}
        look = _Look(config, on_step, beside_engine=True)
        again = look.run()
        found = replace(again, problems=tuple(one for one in again.problems if look.mark(one) in lasting))
    return replace(found, seconds=time.monotonic() - began)


REPAIR = "Run `nanolab-daemon verify --repair`, which makes it again from its raw file."
_STALE = (
    "Name the state folder that knows it (--state-dir). If its ledger is lost, run `nanolab-daemon verify --rebuild`."
    " Else delete it."
)
_FOREIGN = "Move it elsewhere, or delete it: nothing in these folders is kept by hand."


class _Look:
    """One comparison."""

    def __init__(self, config: Config, on_step: Callable[[int, int], None], *, beside_engine: bool) -> None:
        self._config = config
        self._stage, self._output = str(config.paths.stage), str(config.paths.output)
        self._on_step = on_step
        self._beside_engine = beside_engine
        self._problems: list[Problem] = []
        self._notes: list[str] = []
        self._expected: dict[str, FileQuestion] = {}
        self._runs: dict[str, ManifestRow] = {}
        self._done: dict[str, tuple[object, ...]] = {}  # run → how often and when it was done
        self._rows = 0
        self._owner = ""
        self._manifest: str | None = None  # its mark in the ledger
        self._known: set[str] = set()  # segments of an earlier revision, soon to be replaced
        self._remedies: dict[str, tuple[str, str]] = {}  # of a published file: what mends it, and which run

    def run(self) -> Verified:
        catalog = Catalog.open_to_read(self._config.paths.state / FILE_NAME)
        if catalog is None:
            self._notes.append("There is no ledger yet: nothing was published.")
        else:
            try:
                refuse_another_lab(catalog, self._config.lab.name)
                self._owner, self._manifest = catalog.ledger_id, catalog.manifest_serial()
                for run in catalog.runs():
                    self._expect(run)
            finally:
                catalog.close()
        self._look_around()
        if catalog is not None:
            self._ask_workers()
        problems = tuple(sorted(self._problems))
        return Verified(len(self._runs), len(self._expected), self._rows, problems, tuple(self._notes), 0.0)

    def mark(self, problem: Problem) -> tuple[object, ...]:
        """Tell a problem from one with the same file of the same run as it was done at another time."""
        run_id = problem.run_id or problem.path.partition("run_id=")[2][:16]
        return problem.kind, problem.path, self._done.get(run_id)

    # -- what the ledger says ---------------------------------------------------------------------------------------

    def _expect(self, run: RunRecord) -> None:
        facts, done = run.facts, run.segmentation == "done"
        self._done[run.run_id] = run.revision, run.staged_at, run.segmentation, run.segmented_at
        self._rows += facts.rows
        status = "segmented" if done else "staged"
        self._runs[run.run_id] = (facts.rows, run.revision, status, len(run.segment_files) if done else None)
        remedy = f"{REPAIR} ({shown_path(run.source)})"
        if run.source_missing:
            remedy = (
                f"Its raw file has gone ({shown_path(run.source)}): put that back, or take this one from a backup."
            )
        again = "" if run.source_missing else run.run_id
        self._question(self._stage, run.stage_file, remedy, again)
        if run.stage_file.rows != facts.rows:
            detail = f"the ledger says {facts.rows} rows, and {run.stage_file.rows} of its file"
            self._problem("ledger", run.stage_file.path, detail, remedy, again)
        if run.segmentation == "failed":
            self._notes.append(f"The second stage of {shown_path(run.source)} failed: its run has no segments.")
        if run.segmentation == "pending":
            self._pending(run)
            return
        inside = 0
        for file in run.segment_files:
            inside += file.rows
            self._question(self._output, file, remedy, again)
        if done and inside + (run.rows_outside or 0) != facts.rows:
            detail = f"its segments hold {inside} rows and {run.rows_outside} are outside, of {facts.rows}"
            self._problem("segments", run.segments_folder, detail, remedy, again)

    def _pending(self, run: RunRecord) -> None:
        remedy = "Run `nanolab-daemon preprocess`."
        if run.segment_files and not self._beside_engine:
            detail = "its segments are of an earlier revision: the run was published again and not cut since"
            self._problem("stale", os.path.join(self._output, run.segments_folder), detail, remedy)
        for file in run.segment_files:
            self._known.add(os.path.join(self._output, file.path))
        if not run.segment_files:
            self._notes.append(f"{run.run_id} ({shown_path(run.source)}) has no segments yet. {remedy}")

    def _question(self, root: str, file: OutputFile, remedy: str, again: str) -> None:
        question = _question(root, file)
        self._expected[question.path] = question
        self._remedies[question.path] = remedy, again

    # -- what the disk says -----------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        for path in _files_below(Path(self._stage), lambda name: name.startswith("proc=")):
            self._look_at(path)
        for path in _files_below(Path(self._stage), lambda name: name == "_manifest"):
            if not os.path.join(self._stage, MANIFEST).startswith(path):  # the file, or its folder without it
                self._problem("foreign", path, "is not the program's, in the manifest's folder", _FOREIGN)
        for path in _files_below(Path(self._output), lambda name: name.endswith("_segments")):
            self._look_at(path)
        for root in (self._stage, self._output):
            for path in _files_below(Path(root), lambda name: name == SET_ASIDE):
                self._problem("set_aside", path, "was in the way of a run, and is not the program's", _FOREIGN)
            self._look_at_temporary(Path(root) / TEMP_FOLDER)
        self._look_for_strangers(
            self._stage, lambda name: name.startswith("proc=") or name == Path(MANIFEST).parts[0]
        )
        self._look_for_strangers(self._output, lambda name: name.endswith("_segments"))

    def _look_for_strangers(self, root: str, ours: Callable[[str], bool]) -> None:
        """Note what lies beside the program's folders. No reader meets it, and a person may have put it there."""
        with contextlib.suppress(OSError):  # told where it matters
            others = sorted(
                name
                for name in os.listdir(root)  # noqa: PTH208
                if not (ours(name) or name in (SET_ASIDE, TEMP_FOLDER, LAB_MARK) or name.startswith(LAB_PARTITION))
            )
            if others:
                more = f" and {len(others) - 1} more" if len(others) > 1 else ""
                name = shown_path(os.fsencode(os.path.join(root, others[0])))
                self._notes.append(f"{name}{more}: not the program's. {_FOREIGN}")

    def _look_at(self, path: str) -> None:
        if path in self._expected or path in self._known or f"{path}/{PART}" in self._expected:
            return  # the last: a folder that has lost its file, which is told of the file
        parts = path.split("/")
        run_id = next((part[7:] for part in parts if part.startswith("run_id=")), None)
        if run_id in self._runs or (run_id and parts[-1].startswith("part-")):
            detail = "is not of this run as it is published: readers would take it for a part of it"
            if run_id not in self._runs:
                detail = "belongs to no run in the ledger: it is of another ledger, or of one that was lost"
            self._problem("stale", path, detail, _STALE if run_id not in self._runs else _FOREIGN)
        else:
            self._problem("foreign", path, "is nothing that the program has written", _FOREIGN)

    def _look_at_temporary(self, folder: Path) -> None:
        try:
            owners = sorted(os.listdir(folder))  # noqa: PTH208 -- names alone
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._problem("temporary", str(folder), f"can't be listed: {error.strerror}", "Mend the rights.")
            return
        for owner in owners:
            if owner == self._owner and self._beside_engine:
                continue
            left = sum(len(files) for _, _, files in os.walk(folder / owner))
            whose = "of this ledger" if owner == self._owner else "of another ledger"
            detail = f"holds {left} temporary files of an engine {whose} that is not running or was killed"
            remedy = "The next run or backfill removes it."
            if owner != self._owner:
                remedy = "If no engine with another state folder is at work here, delete it."
            self._problem("temporary", str(folder / owner), detail, remedy)

    # -- what is in the files ---------------------------------------------------------------------------------------

    def _ask_workers(self) -> None:
        pools = self._config.pools
        lane: Lane[FileQuestion | ManifestQuestion, FileAnswer | ManifestAnswer] = Lane(
            Pool(
                "verify",
                "nanolab_daemon.audit:verify_batch",
                workers=pools.stage_processes,
                settings=None,
                task_timeout_s=pools.task_timeout_s,
                task_memory_mb=pools.task_memory_mb,
            ),
            key=lambda job: job.path,
            size_bytes=lambda job: job.size_bytes if isinstance(job, FileQuestion) else 0,
            most_jobs=BATCH_FILES,
            most_bytes=BATCH_BYTES,
        )
        lane.offer(ManifestQuestion(os.path.join(self._stage, MANIFEST)), live=True)
        for question in self._expected.values():
            lane.offer(question, live=False)
        total = done = len(self._expected)
        selector = selectors.DefaultSelector()
        try:
            lane.pool.start()
            selector.register(lane.pool, selectors.EVENT_READ)
            while not lane.empty:
                lane.dispatch(last=True)
                due = lane.pool.next_deadline()
                selector.select(1.0 if due is None else max(0.0, min(1.0, due - time.monotonic())))
                for event in lane.poll(time.monotonic()):
                    match event:
                        case Answer():
                            self._take(event.job, event.result)
                        case Condemned():
                            remedy = "Is the file damaged, or pools.task_timeout_s too short?"
                            self._problem("unreadable", event.job.path, event.words, remedy)
                done = total - lane.waiting - lane.busy
                self._on_step(done, total)
        finally:
            lane.pool.kill()
            selector.close()

    def _take(self, job: FileQuestion | ManifestQuestion, answer: FileAnswer | ManifestAnswer) -> None:
        if isinstance(answer, ManifestAnswer):
            self._compare_manifest(job.path, answer)
        elif answer.trouble:
            self._problem("damaged", job.path, answer.trouble, *self._remedies[job.path])

    def _compare_manifest(self, path: str, answer: ManifestAnswer) -> None:
        if answer.trouble and not self._runs:
            return  # nothing was ever published
        detail = answer.trouble
        if not detail:
            lacking = [run_id for run_id in self._runs if run_id not in answer.runs]
            unknown = [run_id for run_id in answer.runs if run_id not in self._runs]
            other = [run_id for run_id, row in self._runs.items() if answer.runs.get(run_id, row) != row]
            if lacking or unknown or other:
                first = [*lacking, *unknown, *other][0]
                detail = (
                    f"differs from the ledger in its runs: {len(lacking)} are lacking, {len(unknown)} unknown, "
                    f"{len(other)} not up to date; the first is {first}"
                )
        if not detail:
            return
        if self._beside_engine and (self._manifest is None or self._manifest != self._manifest_now()):
            self._notes.append("The manifest is behind the ledger; the engine at work writes it anew.")
        else:
            self._problem("manifest", path, detail, "Run `nanolab-daemon verify --repair`, which writes it anew.")

    def _manifest_now(self) -> str | None:
        catalog = Catalog.open_to_read(self._config.paths.state / FILE_NAME)
        if catalog is None:
            return None
        try:
            return catalog.manifest_serial()
        finally:
            catalog.close()

    def _problem(self, kind: str, path: str, detail: str, remedy: str, run_id: str = "") -> None:
        self._problems.append(Problem(kind, path, detail, remedy, run_id))


def _question(root: str, file: OutputFile) -> FileQuestion:
    return FileQuestion(os.path.join(root, file.path), file.size_bytes, file.rows, file.sha256)


def _files_below(root: Path, chosen: Callable[[str], bool]) -> Iterator[str]:
    """Give every file, and every folder without anything in it, below the chosen folders of a root."""
    try:
        tops = sorted(entry.path for entry in os.scandir(root) if chosen(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return
    for top in tops:
        if not os.path.isdir(top) or os.path.islink(top):  # noqa: PTH112, PTH114 -- strings throughout: many files
            yield top
            continue
        for folder, folders, files in os.walk(top):
            if not folders and not files:
                yield folder
            for name in files:
                yield os.path.join(folder, name)


def to_repair(config: Config, found: Verified) -> tuple[StageJob, ...]:
    """Give the raw files from which what is lacking or damaged can be made again, as jobs."""
    catalog = Catalog.open_to_read(config.paths.state / FILE_NAME)
    if catalog is None:
        return ()
    try:
        runs = [catalog.run(run_id) for run_id in sorted({one.run_id for one in found.problems if one.run_id})]
    finally:
        catalog.close()
    return tuple(StageJob(run.source, force=True) for run in runs if run is not None)
