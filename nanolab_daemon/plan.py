"""What a pass would do, file by file, found out by doing all of it but the writing.

Leaves nothing anywhere: no ledger, no folder, no lock. Asks the backlog's and the registrar's own rules.
"""

from __future__ import annotations

import selectors
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from nanolab_daemon.backlog import Backlog, Passed, Reach, Rules
from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord
from nanolab_daemon.claim import refuse_another_lab
from nanolab_daemon.config import Config
from nanolab_daemon.engine import BACKLOG_FILES, BATCH_BYTES, BATCH_FILES, work_settings
from nanolab_daemon.foresee import Foresight
from nanolab_daemon.lane import Answer, Condemned, Lane
from nanolab_daemon.layout import check_paths
from nanolab_daemon.model import DateOrigin
from nanolab_daemon.names import shown_path
from nanolab_daemon.places import survey_for_a_pass
from nanolab_daemon.pool import Pool
from nanolab_daemon.registrar import AGAIN, Registrar, depends_on_time
from nanolab_daemon.scan import name_test
from nanolab_daemon.settings import counted
from nanolab_daemon.tally import Tally
from nanolab_daemon.tasks import (
    Changing,
    Gone,
    NoRows,
    Refused,
    Staged,
    StageJob,
    StageOutcome,
    Unchanged,
    Unreadable,
    Unselected,
)
from nanolab_daemon.terms import Terms
from nanolab_daemon.wakeup import Wakeup

STEP_S = 0.1


@dataclass(frozen=True, slots=True)
class CutQuestion:
    """Asks into how many segments a staged run would be cut."""

    run_id: str
    stage_path: str


@dataclass(frozen=True, slots=True)
class Planned:
    """What a worker would have made of a file; `segments` of its run, None where it has no second stage."""

    outcome: StageOutcome | None
    segments: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """What would become of one file, or of one run that waits for its second stage, and why."""

    file: str
    verdict: str  # stage, known, queued, started, reject, duplicate, superseded, wait, skip, missing, cut …
    why: str
    run_id: str | None = None
    rows: int | None = None
    segments: int | None = None
    line: int | None = None
    text: str | None = None
    other: str | None = None  # the file that is published instead, or the old name


@dataclass(slots=True)
class Plan:
    """All rows, in the order of their files, and the totals under the names that a pass's summary uses."""

    rows: list[Row] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    frozen: list[str] = field(default_factory=list)  # shares below raw that are not mounted: left alone


def plan(
    config: Config, rules: Rules, *, segment: bool = True, on_step: Callable[[Tally, bool], None] = lambda *_: None
) -> Plan:
    """Read and judge what a pass by these rules would read, and say what it would do."""
    check_paths(config)
    began = time.monotonic()
    catalog = _as_at_start(Catalog.open_to_read(config.paths.state / FILE_NAME), config)
    try:
        made = _Planner(
            config,
            replace(rules, dry=True, young_s=config.watch.abandoned_after_s),
            catalog,
            segment=segment,
            on_step=on_step,
        ).run()
    finally:
        if catalog is not None:
            catalog.close()
    made.seconds = time.monotonic() - began
    return made


def _as_at_start(catalog: Catalog | None, config: Config) -> Catalog | None:
    """Give the ledger as the start of a pass would leave it, which has done again what other settings have made."""
    if catalog is None:
        return None
    refuse_another_lab(catalog, config.lab.name)
    copy = catalog.copied()
    catalog.close()
    registrar = Registrar(copy, config.paths.stage, config.paths.output, time.time)
    registrar.terms = Terms(work_settings(config, "dry-run")).of
    registrar.renew()
    registrar.outdate()
    return copy


class _Planner:
    """One dry pass."""

    def __init__(
        self,
        config: Config,
        rules: Rules,
        catalog: Catalog | None,
        *,
        segment: bool,
        on_step: Callable[[Tally, bool], None],
    ) -> None:
        self._config = config
        self._rules = rules
        self._catalog = catalog
        self._segment = segment
        self._on_step = on_step
        self._tally = Tally()
        self._plan = Plan()
        self._foresight = Foresight(catalog, force=rules.force)
        self._segments: dict[bytes, int | None] = {}
        self._again: set[bytes] = set()  # to be staged once more, for a reason of their own
        settings = work_settings(config, "dry-run")
        self._lane: Lane[StageJob | CutQuestion, Planned] = Lane(
            Pool(
                "plan",
                "nanolab_daemon.audit:plan_batch",
                workers=config.pools.stage_processes,
                settings=settings,
                task_timeout_s=config.pools.task_timeout_s,
                task_memory_mb=config.pools.task_memory_mb,
            ),
            key=lambda job: job.path if isinstance(job, StageJob) else job.run_id,
            size_bytes=lambda job: job.size_bytes if isinstance(job, StageJob) else 0,
            most_jobs=BATCH_FILES,
            most_bytes=BATCH_BYTES,
        )

    def run(self) -> Plan:
        wakeup = Wakeup()
        selector = selectors.DefaultSelector()
        paths, watch = self._config.paths, self._config.watch
        known = [] if self._catalog is None else self._catalog.places()
        places = survey_for_a_pass(paths.raw, watch.mode, known)
        gone = frozenset(place.path for place in places.values() if place.gone)
        self._plan.frozen = sorted(map(shown_path, gone))
        backlog = Backlog(
            paths.raw,
            name_test(watch.include, watch.exclude),
            self._catalog,
            self._tally,
            rules=self._rules,
            reach=Reach(skip=gone),
            wake=wakeup.call,
            passed=self._passed,
            missed=self._missed,
        )
        try:
            self._lane.pool.start()
            selector.register(self._lane.pool, selectors.EVENT_READ)
            selector.register(wakeup, selectors.EVENT_READ)
            backlog.start()
            while not (backlog.finished and self._lane.empty):
                if not backlog.finished and self._lane.waiting < BACKLOG_FILES:
                    for job in backlog.take(BACKLOG_FILES - self._lane.waiting):
                        self._offer(job)
                self._turn(selector, wakeup, last=backlog.finished)
            self._offer_again()
            self._offer_pending()
            self._drain(selector, wakeup)
        finally:
            backlog.stop()
            self._lane.pool.kill()
            selector.close()
            wakeup.close()
        self._resolve()
        return self._finish()

    def _offer(self, job: StageJob | CutQuestion) -> None:
        if isinstance(job, StageJob) and self._catalog is not None:
            record = self._catalog.file(job.path)
            if record is not None and record.fingerprint == AGAIN:
                self._foresight.forced.add(job.path)
                job = replace(job, force=True, known_sha256=None)
        self._tally.to_stage += 1
        self._lane.offer(job, live=False)

    def _drain(self, selector: selectors.BaseSelector, wakeup: Wakeup) -> None:
        while not self._lane.empty:
            self._turn(selector, wakeup, last=True)

    def _turn(self, selector: selectors.BaseSelector, wakeup: Wakeup, *, last: bool) -> None:
        self._lane.dispatch(last=last)
        due = self._lane.pool.next_deadline()
        wait_s = STEP_S if due is None else min(STEP_S, max(0.0, due - time.monotonic()))
        selector.select(wait_s)
        wakeup.clear()
        for event in self._lane.poll(time.monotonic()):
            match event:
                case Answer():
                    self._tally.staged_done += 1
                    self._take(event.job, event.result)
                case Condemned():
                    self._tally.staged_done += 1
                    if isinstance(event.job, StageJob):
                        self._add(event.job.path, "reject", event.words, cause=event.cause)
        self._on_step(self._tally, not last)

    # -- what the scan passes over ----------------------------------------------------------------------------------

    def _passed(self, path: bytes, why: Passed, record: FileRecord | None) -> None:
        match why:
            case Passed.KNOWN:
                known = self._catalog.file(path) if self._catalog else None
                self._add(path, "known", f"{known.state if known else 'judged'}, and unchanged since")
            case Passed.GIVEN_UP:
                self._add(path, "known", "has no rows and has not changed for long: it is given up")
            case Passed.RETURNED:
                self._add(path, "known", "had vanished and is back as it was")
            case Passed.MOVED:
                assert record is not None
                self._foresight.move(record.path, path)
                other = shown_path(record.path)
                self._add(path, "known", f"was {other}: the ledger follows, nothing is done again", other=other)
                run = self._foresight.run(record.run_id)
                if run is not None and run.facts.date_origin is not DateOrigin.META:
                    self._again.add(path)

    def _missed(self, path: bytes) -> None:
        self._foresight.gone.add(path)
        self._add(path, "missing", "its raw file has gone; its run, if it had one, stays published")

    # -- what the workers say ---------------------------------------------------------------------------------------

    def _take(self, job: StageJob | CutQuestion, planned: Planned) -> None:
        if isinstance(job, CutQuestion):
            self._plan.totals["runs_cut"] += 1
            self._plan.totals["segments"] += planned.segments or 0
            why = "its staged run waits for the second stage"
            self._plan.rows.append(Row(job.stage_path, "cut", why, job.run_id, segments=planned.segments))
            return
        outcome, path = planned.outcome, job.path
        self._foresight.judged.add(path)
        match outcome:
            case Staged():
                self._foresight.stage(path, outcome)
                self._segments[path] = planned.segments
            case NoRows():
                age_s = time.time() - outcome.fingerprint.mtime_ns / 1e9
                if age_s > self._rules.abandoned_after_s:
                    self._add(path, "reject", "no rows, and unchanged for long: never measured", cause="abandoned")
                else:
                    self._add(path, outcome.state, outcome.reason)
                    self._plan.totals[outcome.state] += 1
            case Refused():
                refusal = outcome.rejection
                self._add(path, "reject", refusal.reason, cause=refusal.cause, line=refusal.line, text=refusal.text)
            case Unchanged():
                self._foresight.judged.discard(path)
                self._count(path, "unchanged", "unchanged", "touched, but with the bytes that are known")
                record = self._catalog.file(path) if self._catalog else None
                if record is not None and depends_on_time(record, self._foresight.run(record.run_id)):
                    self._again.add(path)
            case Unreadable():
                self._foresight.judged.discard(path)
                self._count(path, "wait", "waiting", outcome.reason)
            case Unselected():
                self._foresight.judged.discard(path)
                self._count(path, "skip", "unselected", f"{outcome.proc} of {outcome.date}, which was not asked for")
            case Changing():
                self._foresight.judged.discard(path)
                self._count(path, "wait", "changing", outcome.reason)
            case Gone():
                self._foresight.gone.add(path)
                self._count(path, "gone", "gone", "it vanished before it was read")

    def _add(
        self,
        path: bytes,
        verdict: str,
        why: str,
        *,
        cause: str | None = None,
        line: int | None = None,
        text: str | None = None,
        other: str | None = None,
    ) -> None:
        if cause is not None:
            self._plan.totals["rejected"] += 1
            self._plan.causes[cause] += 1
        self._plan.rows.append(Row(shown_path(path), verdict, why, line=line, text=text, other=other))

    def _count(self, path: bytes, verdict: str, total: str, why: str) -> None:
        self._plan.totals[total] += 1
        self._add(path, verdict, why)

    # -- what follows from it ---------------------------------------------------------------------------------------

    def _offer_again(self) -> None:
        """Offer the files that a pass would stage because another file no longer holds their run."""
        for path in self._foresight.to_stage_again() | self._again:
            if path not in self._foresight.judged:
                self._foresight.forced.add(path)
                self._offer(StageJob(path, force=True, dry=True))

    def _offer_pending(self) -> None:
        """Ask about the runs that an earlier pass staged and did not cut."""
        if self._catalog is None or not self._segment:
            return
        for run_id in self._catalog.pending_runs():
            run = self._foresight.run(run_id)
            if run is not None and not self._foresight.stages(run_id):
                self._offer(CutQuestion(run_id, run.stage_file.path))

    def _resolve(self) -> None:
        """Say for each file with a run what would become of it."""
        totals = self._plan.totals
        for fate in self._foresight.resolve():
            facts, file = fate.outcome.facts, shown_path(fate.path)
            if fate.best is not None:
                same = fate.outcome.sha256 == fate.best.sha256
                other = shown_path(fate.best.path)
                verdict = "duplicate" if same else "superseded"
                why = (
                    f"the same bytes as {other}"
                    if same
                    else f"{other} holds the same run, {counted(fate.best.rows or 0, 'row')}"
                )
                totals[verdict] += 1
                self._plan.rows.append(Row(file, verdict, why, facts.run_id, facts.rows, other=other))
                continue
            totals["staged"] += 1
            segments = self._segments.get(fate.path) if self._segment else None
            if fate.published_anew:
                totals["runs"] += 1
                if facts.is_cut and self._segment:
                    totals["runs_cut"] += 1
                    totals["segments"] += segments or 0
            rows = counted(facts.rows, "row")
            why = f"{fate.why}; {facts.proc} of {facts.date}, {rows}{_complete_words(fate.outcome)}"
            self._plan.rows.append(Row(file, "stage", why, facts.run_id, facts.rows, segments))

    def _finish(self) -> Plan:
        totals, tally = self._plan.totals, self._tally
        for name in ("found", "known", "missing", "missing_ignored", "unreadable_folders"):
            totals[name] = getattr(tally, name)
        self._plan.rows.sort(key=lambda row: row.file)
        return self._plan


def _complete_words(outcome: Staged) -> str:
    end = outcome.facts.completeness
    if end.complete is None:
        return ""
    if end.complete:
        return ", complete"
    return f" of {end.expected_rows}" if end.expected_rows is not None else ", fewer than its header prescribes"
