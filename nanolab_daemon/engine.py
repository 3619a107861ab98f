"""The flow: files wait in line, go through two pools, and end in the ledger. One thread owns all of it.

Finds no files itself and does not decide what an answer means: it keeps the pools busy, the queues short, live files
first, and the ledger behind what is safely on the disk.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from errno import ENOSPC, EROFS, ETIMEDOUT
from pathlib import Path
from typing import Any, Protocol

from nanolab_daemon import __version__, claim, publish, rawfile
from nanolab_daemon.catalog import Catalog
from nanolab_daemon.claim import Claim, note_lab
from nanolab_daemon.config import Config
from nanolab_daemon.courier import SilentError
from nanolab_daemon.errors import EngineError, RejectCause
from nanolab_daemon.halts import MACHINE, SHARE, Halts
from nanolab_daemon.lane import Answer, Condemned, Event, Lane
from nanolab_daemon.log import (
    COUNT,
    DURATION_MS,
    PROC,
    REASON,
    ROWS,
    RUN_ID,
    SEGMENTS,
    SOURCE_FILE,
    STATE,
    WORKER,
    logger,
)
from nanolab_daemon.model import Fingerprint, Rejection
from nanolab_daemon.names import shown_path
from nanolab_daemon.outputs import Outputs
from nanolab_daemon.pauses import Pause
from nanolab_daemon.places import Place, place_of
from nanolab_daemon.pools import local_pools, pools_of
from nanolab_daemon.rawfolder import Identity, RawFolder
from nanolab_daemon.reconcile import Reconciler, key_of
from nanolab_daemon.registrar import AGAIN, UNKNOWN, Action, CutRun, Registrar, StageAgain
from nanolab_daemon.sections import Fallback
from nanolab_daemon.tally import Tally
from nanolab_daemon.tasks import (
    CannotWrite,
    Gone,
    HouseJob,
    Inspected,
    InspectJob,
    ManifestJob,
    ManifestWritten,
    NoRows,
    Quarantined,
    Reading,
    Refused,
    Segmented,
    SegmentJob,
    SegmentOutcome,
    Staged,
    StagedFileLost,
    StageJob,
    StageOutcome,
    Unchanged,
    Unreadable,
    WorkSettings,
)
from nanolab_daemon.terms import Terms
from nanolab_daemon.workpool import WorkPool

BATCH_FILES = 32
BATCH_BYTES = 2 << 20
BACKLOG_FILES = 256  # the source is asked for more when fewer wait
WAITING_RUNS = 512  # the first stage takes no backlog while more wait for the second
COMMIT_AFTER_S = 0.1
TIDY_S = 0.1  # at a time, that a live file does not have to wait
TIDY_AT_THE_END_S = 2.0  # the next start does the rest
LONGEST_WAIT_S = 1.0
MANIFEST_RUNS_A_S = 500
"""While runs come in; one takes some 50 µs of a worker: the manifest is to cost a few per cent of its time."""

MANIFEST_AGAIN_S = 10.0  # after it has cost workers their lives
MANIFEST_TRIES = 3  # until another run makes it due
FAULTS_ALLOWED = 4
MOST_REMARKS = 10_000  # headers full of ever new names must not fill the memory


class Source(Protocol):
    """Where the backlog comes from."""

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""

    def take(self, most: int) -> Iterable[StageJob]:
        """Give about so many files that are to be staged, without waiting; none if none are at hand."""


class Engine:
    """Two persistent pools, the queues before them, and the ledger behind them.

    `answered` is told of each file's outcome after it was recorded; what it returns of jobs is done as well.
    """

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        *,
        segment: bool = True,
        quiet: bool = True,
        batch_files: int = BATCH_FILES,
        answered: Callable[[StageJob, StageOutcome], None] | None = None,
    ) -> None:
        self.config = config
        self.catalog = catalog
        self.source: Source | None = None
        self.tally = Tally()
        self.outputs = Outputs((config.paths.stage, config.paths.output))
        self._halts = Halts(config.paths, catalog.ledger_id, self.outputs)
        self.registrar = Registrar(catalog, config.paths.stage, config.paths.output, time.time, self.outputs)
        self._segment = segment
        self._answered = answered
        self._log = logger(__name__)
        self._tell = self._log.debug if quiet else self._log.info
        self._began = time.monotonic()
        self._quarantine = catalog.quarantine(__version__)
        settings = work_settings(config, catalog.ledger_id, self._quarantine)
        self.registrar.terms = Terms(settings).of
        pools = pools_of(config, settings)
        self.staging: Lane[StageJob, StageOutcome] = Lane(
            pools.stage,
            key=lambda job: job.path,
            size_bytes=lambda job: job.size_bytes,
            most_jobs=batch_files,
            most_bytes=BATCH_BYTES,
            merge=_merged,
        )
        self.cutting = self._cutting_lane(pools.segment, batch_files)
        self.house = self.cutting if pools.house is None else self._cutting_lane(pools.house, batch_files)
        self.reconciler = Reconciler(
            config.paths,
            catalog,
            self.outputs,
            lambda: self.house,
            again=self._restage,
            cut=lambda run_id: self._cut(run_id, live=False),
        )
        self.again: Callable[[StageJob], None] = self.offer  # with a file whose run's published file is gone
        self.selector = selectors.DefaultSelector()
        self._commit_due: float | None = None
        self._manifest_serial = 0
        self._manifest_wanted = False
        self._manifest_due = 0.0
        self.manifest_rest = 0.0  # how many times as long as the last one took none is written, though all is done
        self._manifest_began = self._manifest_rested = 0.0
        self._manifest_failed = 0
        self._said: set[str] = set()
        self._killed = False
        self._all_committed = False
        self._untidy = True
        self._has_pools = False
        self._offered_at: dict[bytes | str, float] = {}  # by file or run
        self._lost: set[str] = set()  # runs made again since their staged file could not be cut, and not cut since
        self._faults: dict[bytes, int] = {}  # file → times in a row that reading it met a fault of its share
        self._waited: dict[bytes, int] = {}  # place → times in a row that everything has waited for it
        self.raw = RawFolder(config.paths.raw)
        self._claim = Claim((config.paths.stage, config.paths.output), catalog.ledger_id)
        self._places = {b"": self._identity(b"")}

    @staticmethod
    def _cutting_lane(
        pool: WorkPool[SegmentJob | HouseJob, SegmentOutcome], most_jobs: int
    ) -> Lane[SegmentJob | HouseJob, SegmentOutcome]:
        return Lane(pool, key=key_of, size_bytes=lambda _: 0, most_jobs=most_jobs, most_bytes=BATCH_BYTES)

    @property
    def lanes(self) -> tuple[Lane[Any, Any], ...]:
        """Every lane, each once."""
        return (
            (self.staging, self.cutting) if self.house is self.cutting else (self.staging, self.cutting, self.house)
        )

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self, *, warm: bool = True) -> None:
        """Make the output folders and clear away what an earlier life left half made.

        `warm`: start both pools now; else when there is something for them to do, which in most reruns there isn't.
        """
        paths, owner = self.config.paths, self.catalog.ledger_id
        note_lab(self.catalog, self.config.lab.name)
        self._claim.take()
        claim.mark(self.config, self.catalog.ledger_id)
        try:
            self.registrar.recover()
        except OSError as error:
            words = f"What an earlier life left can't be put in order: {error.filename}: {error.strerror}."
            raise EngineError(words, advice="Mend the disk or the rights, then start again.") from error
        if renewed := self.registrar.renew():
            self._log.info("tried anew, since the program is another one", **{COUNT: renewed})
        self._outdate()
        for root in (paths.stage, paths.output):
            publish.make_temp_folder(root, owner)
            self._halts.opened(root)
        if warm:
            self._start_pools()
        if self._segment:
            for run_id in self.catalog.pending_runs():
                self._cut(run_id, live=False)
        there = (paths.stage / publish.MANIFEST).exists()
        if there and not self.catalog.count_runs():
            self._log.warning(
                "the ledger is new, but runs are published here; what has a raw file is taken over",
                advice="`nanolab-daemon verify --rebuild` takes over the others too.",
            )
        self.want_manifest(not there or self.catalog.manifest_serial() is None)

    def _start_pools(self) -> None:
        try:
            for lane in self.lanes:
                lane.pool.start()
        except EngineError as error:
            if self.config.pools.fallback is not Fallback.LOCAL:
                raise
            self._log.warning("the work is done on this machine", **{REASON: error.message}, remedy=error.advice)
            self._work_here()
        self._has_pools = True
        for lane in self.lanes:
            self.selector.register(lane.pool, selectors.EVENT_READ)

    def _work_here(self) -> None:
        for lane in self.lanes:
            lane.pool.kill()
        pools = local_pools(self.config, work_settings(self.config, self.catalog.ledger_id, self._quarantine))
        self.staging.pool, self.cutting.pool, self.house = pools.stage, pools.segment, self.cutting
        for lane in self.lanes:
            lane.pool.start()

    def stop(self, limit_s: float) -> None:
        """End within the limit: running tasks finish and are recorded, or are handed back; all is committed."""
        self.reconciler.kill()
        withdrawn = sum(lane.withdraw() for lane in self.lanes)
        if withdrawn:
            self._log.info("handed back", **{COUNT: withdrawn})
        until = time.monotonic() + limit_s
        while any(lane.busy for lane in self.lanes) and time.monotonic() < until:
            self._wait(min(LONGEST_WAIT_S, max(0.0, until - time.monotonic())))
            self._collect(time.monotonic())

        try:
            self.registrar.commit()
        except OSError as error:
            words = f"What was done last can't be recorded: {error.filename}: {error.strerror}."
            raise EngineError(words, advice="The next start does it again.") from error
        self._all_committed = True
        for lane in self.lanes:
            lane.pool.close(0.5)
        self.kill()

    def kill(self) -> None:
        """End the workers at once and leave no temporary file; what is not committed will be done again.

        It may speak of names that no sync has followed: it must not come into the ledger now.
        """
        if self._killed:
            return
        self._killed = True
        for lane in self.lanes:
            lane.pool.kill()
        self.reconciler.kill()
        self.selector.close()
        if not self._claim.is_held:
            self.outputs.stop()
            return  # what lies there may be another engine's
        try:
            self.catalog.rollback()
            if not self._all_committed:
                self.registrar.recover()
            self.registrar.tidy(TIDY_AT_THE_END_S)
        except (sqlite3.Error, OSError):
            self._claim.release()
            return  # the next start clears up
        for root in (self.config.paths.stage, self.config.paths.output):
            with contextlib.suppress(SilentError):
                self.outputs.call(root, publish.remove_temp_folder, root, self.catalog.ledger_id)
        self._claim.release()
        self.outputs.stop()

    def reconfigure(self, config: Config) -> None:
        """Take over changed settings; the workers do with their next batch. Folders and pools stay what they are."""
        self.config = config
        settings = work_settings(config, self.catalog.ledger_id, self._quarantine)
        for lane in self.lanes:
            lane.pool.reconfigure(settings)
        self.registrar.terms = Terms(settings).of
        self._outdate()

    def _outdate(self) -> None:
        if number := self.registrar.outdate():
            self._log.info("done anew, since the settings have changed", **{COUNT: number})

    def _restage(self, path: bytes) -> None:
        self.again(StageJob(path, force=True))

    def adopt_places(
        self, places: Iterable[Place], identities: Mapping[bytes, Identity | None] | None = None
    ) -> None:
        """Take the raw folder and the mounts below it, as they were seen to be, for the true ones.

        Without `identities` they are asked now; one that is slow to answer then is not trusted until the next time.
        """
        every = list(places)
        self.raw.set_places(every)
        if identities is None:
            identities = {place.path: self._identity(place.path) for place in every if not place.gone}
        self._places = {place.path: None if place.gone else identities.get(place.path) for place in every}

    def trusts(self, path: bytes) -> bool:
        """Tell whether the place of a file is still the one that was adopted; if not, nothing on it has vanished."""
        place = place_of(self._places, path)
        adopted = self._places.get(place)
        return adopted is not None and self._identity(place) == adopted

    def _identity(self, place: bytes) -> Identity | None:
        try:
            return self.raw.identity(place)
        except SilentError:
            return None

    def let_go(self, places: Collection[bytes]) -> None:
        """Take back what is to be done with files on some places, which can't be read now; a scan offers it again."""
        number = self.staging.recall(lambda job: place_of(self._places, job.path) in places)
        if number:
            self.tally.to_stage -= number
            self._log.info("called back", **{COUNT: number})

    # -- offers -----------------------------------------------------------------------------------------------------

    def offer(self, job: StageJob) -> None:
        """Put a raw file in line for the first stage. Offering it twice does no harm."""
        record = None if job.dry else self.catalog.file(job.path)
        if record is not None and record.fingerprint == AGAIN:
            job = replace(job, force=True, known_sha256=None)
        if record is not None and record.skip_bad_rows and job.skip_bad_rows_of is None:
            job = replace(job, skip_bad_rows_of=record.sha256)  # as was allowed, for as long as its bytes are these
        if not self.staging.holds(job.path):
            self.tally.to_stage += 1
            self._offered_at[job.path] = time.monotonic()
        self.staging.offer(job, live=job.live)

    def oldest_in_line_s(self, now: float) -> float:
        """Tell for how many seconds the file or run has waited that was put in line first; 0 where none waits."""
        for key, at in list(self._offered_at.items()):
            if self.staging.holds(key) or self.cutting.holds(key):
                return max(0.0, now - at)
            del self._offered_at[key]  # it came to an end of which nobody asked how long it took
        return 0.0

    def act(self, actions: Iterable[Action], *, live: bool) -> None:
        """Do what the registrar found to be necessary."""
        for action in actions:
            match action:
                case CutRun():
                    self._cut(action.run_id, live=live)
                case StageAgain():
                    # Should the program end before it is done, the next scan finds a file that it does not know.
                    self.catalog.set_fingerprint(action.path, AGAIN)
                    record = self.catalog.file(action.path)
                    allowed = record.sha256 if record and record.skip_bad_rows else None
                    self.offer(StageJob(action.path, force=True, live=live, skip_bad_rows_of=allowed))

    def want_manifest(self, wanted: bool = True) -> None:
        """Have the manifest written again when it is due."""
        self._manifest_wanted = self._manifest_wanted or wanted

    def look_after_manifest(self) -> None:
        """Have the manifest written again if somebody has taken it away."""
        stage = self.config.paths.stage
        with contextlib.suppress(OSError):  # another look follows
            self.want_manifest(not self.outputs.call(stage, os.path.exists, stage / publish.MANIFEST))

    # -- the loop ---------------------------------------------------------------------------------------------------

    def step(self, wait_s: float) -> None:
        """Hand out work, wait for an answer or anything else in `selector`, take in what has come."""
        now = time.monotonic()
        self._halts.look_for_life(now)
        if self._halts.try_again(now, self._commit):
            self._put_in_order(now)
        self._feed(now)
        self._wait(min(wait_s, self._until_due(now)))
        now = time.monotonic()
        self._collect(now)
        self.reconciler.work(now, at_rest=self._is_at_rest)

    @property
    def idle(self) -> bool:
        """Whether all that was offered is done and recorded, and the source is at its end."""
        through = self._is_through and not self._manifest_wanted and not self._untidy and self.paused is None
        return through and not self.reconciler.busy

    @property
    def _is_through(self) -> bool:
        return (self.source is None or self.source.finished) and all(lane.empty for lane in self.lanes)

    @property
    def _is_at_rest(self) -> bool:
        return self._is_through and not self.catalog.uncommitted and self.paused is None

    @property
    def paused(self) -> Pause | None:
        """The fault of the machine for which everything waits."""
        return self._halts.first

    def _feed(self, now: float) -> None:
        if self.paused is not None:
            return
        self._take_from_source()
        last = self.source is None or self.source.finished
        self.staging.dispatch(backlog=self.cutting.waiting <= WAITING_RUNS or not self._segment, last=last)
        self._offer_manifest(now)
        self.cutting.dispatch(last=last and self.staging.empty)
        if self.house is not self.cutting:
            self.house.dispatch()
        if not self._has_pools and not all(lane.empty for lane in self.lanes):
            self._start_pools()

    def _take_from_source(self) -> None:
        if self.source is None or self.source.finished or self.staging.waiting >= BACKLOG_FILES:
            return
        for job in self.source.take(BACKLOG_FILES - self.staging.waiting):
            self.offer(job)

    def _wait(self, wait_s: float) -> None:
        self.selector.select(max(0.0, wait_s))

    def _until_due(self, now: float) -> float:
        due = [now + LONGEST_WAIT_S]
        due += [at for lane in self.lanes if (at := lane.pool.next_deadline()) is not None]
        if self._commit_due is not None:
            due.append(self._commit_due)
        due.append(self._halts.until)
        if self._untidy and self._is_through and self.paused is None and self._commit_due is None:
            due.append(now)
        due.append(self.reconciler.due(at_rest=self._is_at_rest))
        if self._manifest_wanted:
            due.append(max(self._manifest_at, now + 0.01))
        return min(due) - now

    def _collect(self, now: float) -> None:
        if self._has_pools:
            for event in self.staging.poll(now):
                self._take_staging(event, now)
            for lane in self.lanes[1:]:
                for cut in lane.poll(now):
                    self._take_cutting(cut, now)
        if self.catalog.manifest_stale and not self._manifest_wanted:
            self.want_manifest()
        if self.catalog.uncommitted:
            if self._commit_due is None:
                self._commit_due = now + COMMIT_AFTER_S
            if now < self._commit_due and not (self.staging.empty and self.cutting.empty):
                return
            if self.paused is not None:
                self._commit_due = self.paused.until  # it is tried then
            elif self._commit(now):
                self._commit_due = None
                self._untidy = True
        else:
            self._commit_due = None
            self._tidy(now)

    # -- the first stage --------------------------------------------------------------------------------------------

    def _take_staging(self, event: Event[StageJob, StageOutcome], now: float) -> None:
        match event:
            case Answer():
                self._staged(event.job, event.result, now)
            case Condemned():
                self._condemned(event, now)
            case _:
                file = shown_path(event.job.path) if event.job else None
                self._log.warning("worker lost", **{REASON: event.words, WORKER: event.pid, SOURCE_FILE: file})

    def _staged(self, job: StageJob, outcome: StageOutcome, now: float) -> None:
        if isinstance(outcome, CannotWrite):
            self._halts.hold(Path(outcome.root), outcome.reason, outcome.errno, now)
            self.staging.offer(job, live=job.live)
            return
        if isinstance(outcome, Unreadable) and outcome.machine and self._is_machine(job, outcome, now):
            self.staging.offer(job, live=job.live)
            return
        actions: list[Action] = []
        if not job.dry:
            try:
                with self.catalog.all_or_nothing():
                    actions = self._record(job, outcome, self._took_ms(job.path))
            except OSError as error:
                self._halts.blame(error, now)
                if isinstance(outcome, Staged):
                    self.registrar.discard(self.config.paths.stage, outcome.bundle)
                self.staging.offer(job, live=job.live)
                return
        self._faults.pop(job.path, None)
        if isinstance(outcome, Staged | NoRows | Unchanged):
            self._waited.pop(place_of(self._places, job.path), None)
            self._halts.worked(SHARE)
            self._halts.worked(MACHINE)
        if isinstance(outcome, Staged) and not job.dry:
            self._halts.worked(self.config.paths.stage)
        if isinstance(outcome, Staged | NoRows | Refused) and outcome.sha256 in self._quarantine and not job.dry:
            self.catalog.release(outcome.sha256)  # it was tried again by order, and its worker has lived to tell
            self._set_quarantine(self._quarantine - {outcome.sha256})
        self.tally.staged_done += 1
        self.tally.stage.add(1, now - self._began)
        self.act(actions, live=job.live)
        self._count(job, outcome)
        if self._answered is not None:
            self._answered(job, outcome)

    def _took_ms(self, key: bytes | str) -> int:
        """Give the milliseconds since a file or a run was put in line."""
        now = time.monotonic()
        return round(1000 * (now - self._offered_at.pop(key, now)))

    def _record(self, job: StageJob, outcome: StageOutcome, took_ms: int) -> list[Action]:
        registrar, file = self.registrar, shown_path(job.path)
        match outcome:
            case Staged():
                facts = outcome.facts
                self._remark(outcome.remarks)
                actions = registrar.staged(job, outcome)
                bound: dict[str, object] = {
                    SOURCE_FILE: file,
                    RUN_ID: facts.run_id,
                    PROC: facts.proc,
                    ROWS: facts.rows,
                }
                bound |= {STATE: "staged", DURATION_MS: took_ms}
                self._tell("staged", complete=facts.completeness.complete, **bound)
                return actions
            case NoRows():
                old = time.time() - outcome.fingerprint.mtime_ns / 1e9
                abandoned = (not job.live or job.force) and old > self.config.watch.abandoned_after_s
                actions = registrar.no_rows(job, outcome, abandoned=abandoned)
                self._tell("no rows yet", **{SOURCE_FILE: file, STATE: outcome.state, PROC: outcome.proc})
                return actions
            case Refused():
                refusal = outcome.rejection
                told = {SOURCE_FILE: file, REASON: refusal.reason, STATE: "rejected", PROC: outcome.proc}
                self._log.warning("rejected", cause=refusal.cause, **told)
                return registrar.refused(job, outcome)
            case Quarantined():
                told = {SOURCE_FILE: file, REASON: "its bytes are in quarantine", STATE: "rejected"}
                self._log.warning("rejected", **told)
                return registrar.quarantined(job, outcome)
            case Unchanged():
                return registrar.unchanged(job, outcome)
            case Gone():
                return registrar.vanished(job.path) if self.trusts(job.path) else []
            case Unreadable():
                self._tell("unreadable for now", **{SOURCE_FILE: file, REASON: outcome.reason})
                return registrar.unreadable(job, outcome, self._fingerprint(job.path))
            case _:
                return []

    def _count(self, job: StageJob, outcome: StageOutcome) -> None:
        tally = self.tally
        match outcome:
            case Staged():
                record = None if job.dry else self.catalog.file(job.path)
                tally.outcomes[record.state if record else "staged"] += 1
                complete = outcome.facts.completeness.complete
                if complete is not None:
                    agreed = tally.agreement.setdefault(outcome.facts.proc, [0, 0])
                    agreed[0] += complete
                    agreed[1] += 1
                tally.incomplete += complete is False
            case NoRows():
                record = None if job.dry else self.catalog.file(job.path)
                tally.outcomes[record.state if record else outcome.state] += 1
            case Refused():
                tally.outcomes["rejected"] += 1
                tally.causes[outcome.rejection.cause] += 1
            case Quarantined():
                record = None if job.dry else self.catalog.file(job.path)
                tally.outcomes[record.state if record else "rejected"] += 1
                if record is not None and record.rejection is not None:
                    tally.causes[record.rejection.cause] += 1
            case _:
                tally.outcomes[type(outcome).__name__.lower()] += 1

    def _condemned(self, event: Condemned[StageJob], now: float) -> None:
        job = event.job
        if event.cause is RejectCause.TIMED_OUT and not self.trusts(job.path):
            silent = Unreadable(f"Its folder does not answer: {event.words}.", ETIMEDOUT)
            self._staged(job, silent, now)
            return
        if event.cause is RejectCause.TIMED_OUT and self._halts.outputs_hang(now):
            self.staging.offer(job, live=job.live)
            return
        rejection = Rejection(
            event.cause,
            f"{self._why_condemned(event)} (tried {event.attempts} times, the last time alone)",
            advice=_ADVICE.get(event.cause, "Look at the file.")
            + " `nanolab-daemon retry FILE` tries again, as does any change of its bytes.",
        )
        self._log.error("quarantined", cause=event.cause, **{SOURCE_FILE: shown_path(job.path), REASON: event.words})
        read = Reading.unpack(event.note)  # what has grown or been replaced since is another content
        refused = (
            Refused(self._fingerprint(job.path), None, rejection)
            if read is None
            else Refused(read.fingerprint, read.sha256, rejection)
        )
        if read is not None and not job.dry:
            self._set_quarantine(self._quarantine | {read.sha256})
        self.tally.staged_done += 1
        self.tally.stage.add(1, now - self._began)
        self._count(job, refused)
        if not job.dry:
            self.act(self.registrar.quarantine(job, refused, event.attempts), live=job.live)
        if self._answered is not None:
            self._answered(job, refused)

    def _set_quarantine(self, contents: frozenset[str]) -> None:
        if contents != self._quarantine:
            self._quarantine = contents
            self.reconfigure(self.config)

    def _why_condemned(self, event: Condemned[StageJob]) -> str:
        """Give the reason in words that are the same whenever the same happens."""
        pools = self.config.pools
        match event.cause:
            case RejectCause.TIMED_OUT:
                return f"It keeps a worker busy for more than {pools.task_timeout_s:g} s"
            case RejectCause.OUT_OF_MEMORY:
                return f"It takes more memory than the {pools.task_memory_mb} MiB that are allowed"
        return event.words

    def _remark(self, remarks: Iterable[str]) -> None:
        for remark in remarks:
            if remark not in self._said and len(self._said) < MOST_REMARKS:
                self._said.add(remark)
                self._log.warning(remark)

    def _fingerprint(self, path: bytes) -> Fingerprint:
        try:
            return self.raw.stat(path) or UNKNOWN
        except OSError:
            return UNKNOWN

    # -- the second stage -------------------------------------------------------------------------------------------

    def _cut(self, run_id: str, *, live: bool) -> None:
        if not self._segment:
            return
        job = self.registrar.segment_job(run_id, live=live)
        if job is not None:
            if not self.cutting.holds(run_id):
                self.tally.to_segment += 1
                self._offered_at[run_id] = time.monotonic()
            self.cutting.offer(job, live=live)

    def _take_cutting(self, event: Event[SegmentJob | HouseJob, SegmentOutcome], now: float) -> None:
        match event:
            case Answer():
                self._cut_done(event.job, event.result, now)
            case Condemned() if event.cause is RejectCause.TIMED_OUT and self._halts.outputs_hang(now):
                self._cut_again(event.job)
            case Condemned():
                if isinstance(event.job, InspectJob):
                    self.reconciler.failed(event.words, now)
                    return
                self._log.error("second stage failed", **{REASON: event.words, RUN_ID: _run_of(event.job)})
                if isinstance(event.job, SegmentJob):
                    self.tally.segmented_done += 1
                    self.registrar.not_segmented(event.job.run_id, event.words)
                else:
                    self._manifest_failed += 1
                    self._manifest_due = max(self._manifest_due, now + MANIFEST_AGAIN_S)
                    self.want_manifest(self._manifest_failed < MANIFEST_TRIES)
            case _:
                run = _run_of(event.job) if event.job else None
                self._log.warning("worker lost", **{REASON: event.words, WORKER: event.pid, RUN_ID: run})

    def _cut_done(self, job: SegmentJob | HouseJob, outcome: SegmentOutcome, now: float) -> None:
        if isinstance(outcome, CannotWrite):
            self._halts.hold(Path(outcome.root), outcome.reason, outcome.errno, now)
            self._cut_again(job)
            return
        match outcome:
            case Segmented():
                assert isinstance(job, SegmentJob)
                try:
                    with self.catalog.all_or_nothing():
                        actions = self.registrar.segmented(job, outcome)
                except OSError as error:
                    self._halts.blame(error, now)
                    self.registrar.discard(self.config.paths.output, outcome.bundle)
                    self._cut_again(job)
                    return
                self._lost.discard(outcome.run_id)
                if outcome.outputs:
                    self._halts.worked(self.config.paths.output)
                self.tally.segmented_done += 1
                self.tally.to_segment = max(self.tally.to_segment, self.tally.segmented_done)
                self.tally.segments += len(outcome.outputs)
                self.tally.segment.add(1, now - self._began)
                self.act(actions, live=job.live)
                self._tell_cut(outcome)
            case StagedFileLost() if isinstance(job, SegmentJob) and self.registrar.is_outdated(job):
                self._cut(job.run_id, live=job.live)
            case StagedFileLost():
                self.tally.segmented_done += 1
                self._log.warning("staged file lost", **{RUN_ID: outcome.run_id, REASON: outcome.reason})
                if outcome.run_id in self._lost:  # it is not the disk, then: each new one can't be cut either
                    self._lost.discard(outcome.run_id)
                    self.registrar.not_segmented(outcome.run_id, outcome.reason)
                    return
                self._lost.add(outcome.run_id)
                self.act(self.registrar.staged_file_lost(outcome.run_id), live=True)
            case Inspected():
                self.reconciler.took(outcome, now)
            case ManifestWritten():
                self._manifest_failed = 0
                self._manifest_rested = now + self.manifest_rest * (now - self._manifest_began)
                self._halts.worked(self.config.paths.stage)
                if not self._manifest_wanted and not self.catalog.manifest_stale:
                    self.catalog.set_manifest_serial(outcome.serial)

    def _tell_cut(self, outcome: Segmented) -> None:
        about: dict[str, object] = {RUN_ID: outcome.run_id, SEGMENTS: len(outcome.outputs), STATE: "segmented"}
        about[DURATION_MS] = self._took_ms(outcome.run_id)
        run = self.catalog.run(outcome.run_id)
        if run is not None:
            about |= {SOURCE_FILE: shown_path(run.source), PROC: run.facts.proc}
        self._tell("segmented", **about)

    @property
    def _manifest_at(self) -> float:
        """When the manifest may be written again: at its time, or earlier if all else is done."""
        if self._manifest_failed or not self._is_through:
            return self._manifest_due
        return min(self._manifest_due, self._manifest_rested)

    def _offer_manifest(self, now: float) -> None:
        """Write the manifest when its time has come, or when all else is done."""
        if not self._manifest_wanted or self.house.holds("manifest"):
            return
        if now < self._manifest_at:
            return
        if not self._commit(now):  # it is made from what is committed
            return
        self._manifest_serial += 1
        self._manifest_began = now
        self._manifest_wanted = self.catalog.manifest_stale = False
        self._manifest_due = now + max(self.config.manifest.refresh_s, self.catalog.count_runs() / MANIFEST_RUNS_A_S)
        ledger = self.config.paths.state / "ledger.sqlite"
        self.house.offer(ManifestJob(str(ledger), self._manifest_serial), live=True)

    def short_of(self, error: OSError, now: float) -> None:
        """Take note that this process is short of descriptors or memory."""
        self._halts.hold(MACHINE, f"{error.filename or 'the daemon'}: {error.strerror}.", error.errno, now)

    def _cut_again(self, job: SegmentJob | HouseJob) -> None:
        if isinstance(job, SegmentJob):
            self.cutting.offer(job, live=job.live)
        elif isinstance(job, ManifestJob):
            self.want_manifest()
        else:
            self.reconciler.soon()

    # -- the machine's faults ---------------------------------------------------------------------------------------

    def _is_machine(self, job: StageJob, outcome: Unreadable, now: float) -> bool:
        """Tell whether a file that can't be read is to wait with all others; if not, it waits alone.

        It does so when it, or its share, has been at fault too often in a row, and yet the share seems to be there.
        """
        words = f"{shown_path(job.path)}: {outcome.reason}"
        if outcome.errno in rawfile.LIMITS:
            self._halts.hold(MACHINE, words, outcome.errno, now)
            return True
        place = place_of(self._places, job.path)
        times = self._faults[job.path] = self._faults.get(job.path, 0) + 1
        patient = max(times, self._waited.get(place, 0) + 1) < FAULTS_ALLOWED
        if not patient and self.trusts(job.path):
            return False
        self._waited[place] = self._waited.get(place, 0) + self._halts.hold(SHARE, words, outcome.errno, now)
        return True

    def _put_in_order(self, now: float) -> None:
        """Hold the disk against the ledger after a fault: a folder may have been made anew, a move done too late."""
        try:
            if self._halts.was_silent:
                self.registrar.recover()
                self._halts.was_silent = False
        except OSError as error:
            self._halts.blame(error, now)
        self.reconciler.soon()

    def _tidy(self, now: float) -> None:
        """Clear up a little, until all is clear, each time that all is done and committed."""
        if not self._untidy or not self._is_through or self.paused is not None:
            return
        try:
            self._untidy = not self.registrar.tidy(TIDY_S)
        except OSError as error:
            self._halts.blame(error, now)

    def _commit(self, now: float) -> bool:
        """Commit, and tell whether it was done. What the disk does not take stands as before, and is tried again."""
        try:
            self.registrar.commit()
        except OSError as error:
            self._halts.blame(error, now)
        except sqlite3.OperationalError as error:
            self._halts.hold(self.config.paths.state, str(error), _FULL.get(error.sqlite_errorcode), now)
        else:
            self._halts.worked(self.config.paths.state)
            return True
        return False


_FULL = {sqlite3.SQLITE_FULL: ENOSPC, sqlite3.SQLITE_READONLY: EROFS}


def _merged(old: StageJob, new: StageJob) -> StageJob:
    """Make one job of two for the same file: what either asks for is done."""
    return replace(
        new,
        known_sha256=new.known_sha256 if old.known_sha256 is not None else None,
        force=old.force or new.force,
        skip_bad_rows=old.skip_bad_rows or new.skip_bad_rows,
        skip_bad_rows_of=new.skip_bad_rows_of or old.skip_bad_rows_of,
        live=old.live or new.live,
    )


_ADVICE = {
    RejectCause.OUT_OF_MEMORY: "If it is a measurement, raise pools.task_memory_mb in the configuration.",
    RejectCause.TIMED_OUT: "If it is a measurement, raise pools.task_timeout_s in the configuration.",
    RejectCause.INTERNAL: "Please report this as a defect of nanolab-daemon, with the file.",
}


def _run_of(job: SegmentJob | HouseJob) -> str:
    return key_of(job)


def work_settings(config: Config, owner: str, quarantined: frozenset[str] = frozenset()) -> WorkSettings:
    """Give the part of the configuration that the workers need."""
    return WorkSettings(
        raw_root=str(config.paths.raw),
        stage_root=str(config.paths.stage),
        output_root=str(config.paths.output),
        owner=owner,
        timezone=config.lab.timezone,
        lab=config.lab.name,
        procedures=config.procedures,
        min_segment_points=config.segments.min_segment_points,
        max_file_bytes=config.limits.max_file_mb << 20,
        max_header_bytes=config.limits.max_header_kb << 10,
        max_columns=config.limits.max_columns,
        quarantined=quarantined,
    )
