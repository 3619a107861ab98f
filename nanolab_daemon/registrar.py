"""What a worker's answer means: which file's bytes a run is published from, and what the ledger says of each file.

The only place that decides on duplicates, supersession and revisions. A run's content is a function of the bytes now
below raw, so that whatever the order of events, the end is that of a fresh backfill.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from nanolab_daemon import __version__, publish
from nanolab_daemon.catalog import HAS_RUN, Catalog, FileRecord, RunRecord
from nanolab_daemon.errors import RejectCause
from nanolab_daemon.log import PATH, logger
from nanolab_daemon.model import DateOrigin, FileState, Fingerprint, OutputFile, Rejection, RunFacts
from nanolab_daemon.outputs import Outputs
from nanolab_daemon.settings import counted
from nanolab_daemon.tasks import (
    NoRows,
    Quarantined,
    Refused,
    Segmented,
    SegmentJob,
    Staged,
    StageJob,
    Unchanged,
    Unreadable,
)


@dataclass(frozen=True, slots=True)
class StageAgain:
    """This file must be staged (once more): its bytes are those that ought to be published."""

    path: bytes


@dataclass(frozen=True, slots=True)
class CutRun:
    """This run's second stage is to be done."""

    run_id: str


Action = StageAgain | CutRun


UNKNOWN = Fingerprint(-1, -1, -1, -1)
"""A fingerprint that no file has: the next scan looks at the file again, even after a crash."""

AGAIN = Fingerprint(-2, -2, -2, -2)
"""As that, and the file is to be published again even if its bytes are those that the ledger knows."""


class Registrar:
    """Records outcomes in the ledger and keeps what is published in step with it."""

    def __init__(
        self,
        catalog: Catalog,
        stage_root: Path,
        output_root: Path,
        now: Callable[[], float],
        outputs: Outputs | None = None,
    ) -> None:
        self.catalog = catalog
        self.stage_root = stage_root
        self.output_root = output_root
        self._now = now
        self._ask = (outputs or Outputs((stage_root, output_root))).call
        self.terms: Callable[[str | None], str] | None = None  # of today, by procedure; None: they never change
        self.progress: Callable[[], None] = lambda: None  # called now and then by what may take long
        self._unsynced: set[Path] = set()
        self._litter: set[tuple[Path, str]] = set()  # bundles that nobody wants and that could not be removed
        self._log = logger(__name__)

    def commit(self) -> None:
        """Make everything recorded so far durable: names that were moved here first, then the ledger."""
        for root in self._unsynced:
            self._ask(root, publish.sync, root)
        self._unsynced.clear()
        self.catalog.commit()

    def recover(self) -> None:
        """Have made again what was replaced or moved but, for a crash, not recorded.

        Nothing is taken away: readers have what is there, each run of it whole, until what is made again takes its
        place. What nobody makes again goes with `tidy`.
        """
        for root in (self.stage_root, self.output_root):
            owner = self.catalog.ledger_id
            notes = self._ask(root, publish.notes, root, owner)
            for target in dict.fromkeys(
                one for note in notes for one in self._ask(root, publish.announced, root, note)
            ):
                self.progress()
                run = self.catalog.run(_run_of(target))
                if run is None:
                    continue
                if root == self.stage_root and not self._ask(root, _is_as_recorded, root, [run.stage_file]):
                    self._again(run.source)
                elif root == self.output_root and not self._ask(root, _is_as_recorded, root, run.segment_files):
                    self.catalog.set_pending(run.run_id)
        self.commit()

    def tidy(self, limit_s: float = math.inf) -> bool:
        """Take away what was published and belongs to no run of the ledger, and let go of the notes about moves.

        To be called when everything moved is committed and nothing is left to be done: a worker that was killed, or
        an earlier life, may have moved a run whose raw file nobody has found since. After a long load there are many
        notes: it ends soon after `limit_s`, and tells whether it knows that it is done.
        """
        until = time.monotonic() + limit_s
        for root, bundle in list(self._litter):
            self._ask(root, publish.discard, Path(bundle))
            self._litter.discard((root, bundle))
        for root in (self.stage_root, self.output_root):
            for note in self._ask(root, publish.notes, root, self.catalog.ledger_id):
                for target in self._ask(root, publish.announced, root, note):
                    folders = self.catalog.folders(_run_of(target))
                    if target not in folders:
                        self._withdraw(root, target)
                self.commit()
                self._ask(root, _forget, note)
                if time.monotonic() >= until:
                    return False
        return True

    def discard(self, root: Path, bundle: str | None) -> None:
        """Remove a bundle that is not to be published; if that can't be done now, `tidy` does it."""
        if bundle is None:
            return
        try:
            self._ask(root, publish.discard, Path(bundle))
        except OSError:
            self._litter.add((root, bundle))

    def _again(self, path: bytes) -> None:
        """Have a file staged anew by the next scan that finds it."""
        record = self.catalog.file(path)
        self.catalog.set_fingerprint(path, AGAIN)
        if record is not None and not record.present:
            self.catalog.set_missing(path)

    # -- the first stage --------------------------------------------------------------------------------------------

    def staged(self, job: StageJob, outcome: Staged) -> list[Action]:
        """Record that a file holds a run, and publish it if it is the one to publish."""
        facts = outcome.facts
        before = self.catalog.file(job.path)
        published = self.catalog.run(facts.run_id)
        if before is None and published is not None and self._is_plain_copy(job, outcome, published):
            return []
        record = self._record(
            job,
            outcome.fingerprint,
            outcome.sha256,
            FileState.STAGED,
            before,
            # why a run could not be cut is told nowhere else; if it is published anew, `resolve` has other words
            reason=before.reason if before and _is_uncut(before, published) else published_words(facts.is_cut),
            proc=facts.proc,
            run_id=facts.run_id,
            rows=facts.rows,
            skip_bad_rows=outcome.skipped,
            terms=outcome.terms,
        )
        self.catalog.put_file(record)
        actions = self._left(before, facts.run_id)
        best = self._best(facts.run_id)
        assert best is not None
        chosen = best.sha256 == outcome.sha256 and (best.path == job.path or not _by_path(facts))
        adopted = outcome.adopted and chosen and (published is None or published.stage_file == outcome.output)
        free = outcome.bundle is None and not adopted
        if published is not None and published.folder == outcome.target and free:
            # The ledger says that something was published there, yet the place was free: deleted by hand, or two
            # files of one run raced. What lies there now can't be known, so it is made once more.
            return [*actions, StageAgain(best.path)]
        if adopted and published is not None:
            self.catalog.put_run(replace(published, facts=facts, source=record.path, source_missing=False))
        elif chosen and (
            published is None
            or (published.source == job.path and published.stage_file != outcome.output)
            or job.force
            or published.source_sha256 != outcome.sha256
            or published.folder != outcome.target
            or published.facts.start_us != facts.start_us
            or published.facts.flags is None
        ):
            self._publish(outcome, record, published)
            if facts.is_cut:
                actions.append(CutRun(facts.run_id))
        elif outcome.bundle is not None:
            self.discard(self.stage_root, outcome.bundle)
        else:
            self._withdraw(self.stage_root, outcome.target)
        if self._is_outdated(record):
            actions.append(StageAgain(job.path))  # the settings have changed while it was done
        return actions + self.resolve(facts.run_id)

    def _is_plain_copy(self, job: StageJob, outcome: Staged, published: RunRecord) -> bool:
        """Record a new path with the bytes that are published already; tell whether it was one.

        Nothing about the other files of the run changes by it. Were all of them asked each time, a folder with
        thousands of copies would take the square of their number.
        """
        if (
            outcome.bundle is None
            or job.force
            or published.source_sha256 != outcome.sha256
            or published.source_missing
            or published.folder != outcome.target
            or published.facts.flags is None
            or _by_path(outcome.facts)
            or _by_path(published.facts)
        ):
            return False
        self.discard(self.stage_root, outcome.bundle)
        facts = outcome.facts
        self.catalog.put_file(
            self._record(
                job,
                outcome.fingerprint,
                outcome.sha256,
                FileState.DUPLICATE,
                None,
                reason=_COPY_WORDS,
                proc=facts.proc,
                run_id=facts.run_id,
                rows=facts.rows,
                skip_bad_rows=outcome.skipped,
                terms=outcome.terms,
            )
        )
        return True

    def _publish(self, outcome: Staged, record: FileRecord, before: RunRecord | None) -> None:
        facts = outcome.facts
        if outcome.bundle is not None:
            known = before is not None and before.folder == outcome.target
            self._replace(self.stage_root, outcome.bundle, outcome.target, known=known)
        if before is not None and before.folder != outcome.target:
            self._withdraw_all(before)
        elif before is not None and before.facts.is_cut and not facts.is_cut:
            self._withdraw_segments(before)
        self.catalog.put_run(
            RunRecord(
                facts=facts,
                source=record.path,
                source_sha256=outcome.sha256,
                source_missing=False,
                revision=1 if before is None else before.revision + 1,
                version=__version__,
                stage_file=outcome.output,
                staged_at=self._now(),
                segmentation="pending" if facts.is_cut else "none",
                segment_files=before.segment_files
                if before and before.folder == outcome.target and facts.is_cut
                else (),
            )
        )

    def no_rows(self, job: StageJob, outcome: NoRows, *, abandoned: bool) -> list[Action]:
        """Record a header without rows: it waits, or nobody will ever fill it."""
        before = self.catalog.file(job.path)
        record = self._record(
            job, outcome.fingerprint, outcome.sha256, outcome.state, before, reason=outcome.reason, proc=outcome.proc
        )
        if abandoned:
            record = abandon(record)
        self.catalog.put_file(record)
        return self._left(before, None)

    def refused(self, job: StageJob, outcome: Refused, *, attempts: int = 0) -> list[Action]:
        """Record that a file can't be used as it stands. A run once made from it stays, without a source."""
        before = self.catalog.file(job.path)
        record = self._record(
            job,
            outcome.fingerprint,
            outcome.sha256,
            FileState.REJECTED,
            before,
            reason=outcome.rejection.reason,
            proc=outcome.proc,
            rejection=outcome.rejection,
            attempts=attempts,
            terms=outcome.terms,
        )
        self.catalog.put_file(record)
        again: list[Action] = []
        if self._is_outdated(record):
            again.append(StageAgain(job.path))  # the settings have changed while it was done
        return again + self._left(before, None)

    def quarantine(self, job: StageJob, outcome: Refused, attempts: int) -> list[Action]:
        """Record that a file has cost workers their lives, and that its bytes are not to be parsed again."""
        if outcome.sha256 is not None:
            self.catalog.put_in_quarantine(outcome.sha256, outcome.rejection, attempts, __version__)
        return self.refused(job, outcome, attempts=attempts)

    def quarantined(self, job: StageJob, outcome: Quarantined) -> list[Action]:
        """Record that a file holds bytes that are in quarantine: it is refused for the same reason, untried."""
        known = self.catalog.quarantined(outcome.sha256)
        if known is None:
            return [StageAgain(job.path)]  # they were tried again meanwhile, and harmed nobody
        rejection, attempts = known
        return self.refused(job, Refused(outcome.fingerprint, outcome.sha256, rejection), attempts=attempts)

    def renew(self) -> int:
        """Have looked at anew, once, what another version of the program refused or could not cut; tell how many."""
        if self.catalog.program() == __version__:
            return 0
        where = "state = ? AND cause <> ? AND version <> ?"
        refused = list(self.catalog.files(where, (FileState.REJECTED, RejectCause.ABANDONED, __version__)))
        for record in refused:
            self.catalog.set_fingerprint(record.path, AGAIN)
            if not record.present:  # should it come back
                self.catalog.set_missing(record.path)
        uncut = [run.run_id for run in self.catalog.runs("segmentation = 'failed'")]
        for run_id in uncut:
            self.catalog.set_pending(run_id)
        self.catalog.set_program(__version__)
        self.catalog.commit()
        return len(refused) + len(uncut)

    def _is_outdated(self, record: FileRecord) -> bool:
        return self.terms is not None and record.terms != self.terms(record.proc)

    def outdate(self) -> int:
        """Have done anew what was done under other settings than today's; tell how many files that are."""
        if self.terms is None:
            return 0
        number = 0
        for proc, terms in self.catalog.terms_in_use():
            if terms != self.terms(proc):
                number += self.catalog.outdate(proc, terms, AGAIN)
        if number:
            self.catalog.commit()
        return number

    def unreadable(self, job: StageJob, outcome: Unreadable, fingerprint: Fingerprint) -> list[Action]:
        """Record that a file can't be opened for now. What is known of its bytes stays known."""
        before = self.catalog.file(job.path)
        if before is not None and before.state in HAS_RUN:
            self.catalog.set_fingerprint(job.path, UNKNOWN)  # its run stays as it is; the next scan tries again
            return []
        self.catalog.put_file(self._record(job, fingerprint, None, FileState.WAITING, before, reason=outcome.reason))
        return []

    def observed(self, path: bytes, state: FileState, words: str, proc: str | None) -> None:
        """Record what a look into an unfinished file told. The file of a published run keeps its verdict."""
        before = self.catalog.file(path)
        if before is not None and before.present and before.state in HAS_RUN:
            return
        # No worker has judged it yet: should the program end now, the next scan must find the file unknown.
        self.catalog.put_file(self._record(StageJob(path), UNKNOWN, None, state, before, reason=words, proc=proc))

    def unchanged(self, job: StageJob, outcome: Unchanged) -> list[Action]:
        """Record that known bytes were found again under another fingerprint."""
        record = self.catalog.file(job.path)
        if record is None or record.sha256 != outcome.sha256:
            return [StageAgain(job.path)]  # known when the file was offered, and replaced in the ledger since
        self.catalog.set_fingerprint(job.path, outcome.fingerprint)
        if depends_on_time(record, self.catalog.run(record.run_id) if record.run_id else None):
            return [StageAgain(job.path)]
        return self.resolve(record.run_id) if record.run_id else []

    # -- the second stage -------------------------------------------------------------------------------------------

    def segmented(self, job: SegmentJob, outcome: Segmented) -> list[Action]:
        """Record a run's segments, and put them in the place of older ones."""
        run = self.catalog.run(job.run_id)
        if run is None or run.source_sha256 != outcome.source_sha256 or run.segments_folder != job.target:
            if outcome.bundle is not None:  # the run was published anew meanwhile
                self.discard(self.output_root, outcome.bundle)
            elif outcome.outputs and (run is None or run.segments_folder != job.target or not run.facts.is_cut):
                self._withdraw(self.output_root, job.target)
            return [CutRun(job.run_id)] if run is not None and run.segmentation == "pending" else []
        if outcome.bundle is not None:
            self._replace(self.output_root, outcome.bundle, job.target, known=bool(run.segment_files))
        elif not outcome.outputs:
            self._withdraw(self.output_root, job.target)
        self.catalog.set_segments(job.run_id, outcome.outputs, outcome.rows_outside, self._now())
        words = segmented_words(len(outcome.outputs), outcome.rows_outside)
        self._say_of_source(run, FileState.SEGMENTED, words)
        return []

    def not_segmented(self, run_id: str, words: str) -> None:
        """Record that a run's second stage cost workers their lives; the run stays as it is."""
        run = self.catalog.run(run_id)
        if run is not None:
            self.catalog.set_not_segmented(run_id)
            self._say_of_source(run, FileState.STAGED, f"Its run is published, but not its segments: {words}")

    def _say_of_source(self, run: RunRecord, state: FileState, words: str) -> None:
        """Give the verdict on the file that a run was made from, if that is still what the file holds.

        Another file may be about to take its place, and this one judged anew meanwhile.
        """
        source = self.catalog.file(run.source)
        if source is not None and source.run_id == run.run_id and source.state in HAS_RUN and not run.source_missing:
            self.catalog.set_state(run.source, state, words)

    def staged_file_lost(self, run_id: str) -> list[Action]:
        """Make a run again whose staged file is missing or damaged, if its raw file is still there."""
        run = self.catalog.run(run_id)
        if run is None or run.source_missing:
            return []
        return [StageAgain(run.source)]

    def is_outdated(self, job: SegmentJob) -> bool:
        """Tell whether a run was published anew since the job to cut it was given."""
        run = self.catalog.run(job.run_id)
        return run is not None and run.source_sha256 != job.source_sha256

    def segment_job(self, run_id: str, *, live: bool) -> SegmentJob | None:
        """Give the second stage's job for a run that waits for it."""
        run = self.catalog.run(run_id)
        if run is None or run.segmentation != "pending":
            return None
        return SegmentJob(run_id, run.stage_file.path, run.segments_folder, live, run.source_sha256)

    # -- files that come and go -------------------------------------------------------------------------------------

    def vanished(self, path: bytes) -> list[Action]:
        """Record that a path is gone. Its run stays; another file with the same run may have to take its place."""
        record = self.catalog.file(path)
        if record is None or not record.present:
            return []
        self.catalog.set_missing(path)
        if record.run_id is None or self._is_bystander(record):
            return []
        return self.resolve(record.run_id)

    def _is_bystander(self, record: FileRecord) -> bool:
        """Tell whether a file held a run that is published from another file, which is there."""
        run = self.catalog.run(record.run_id or "")
        if run is None or run.source_missing or record.state not in (FileState.DUPLICATE, FileState.SUPERSEDED):
            return False
        source = self.catalog.file(run.source)  # which may hold something else by now, its heir not being staged yet
        if source is None or not source.present or source.path == record.path:
            return False
        return source.run_id == run.run_id and source.state in HAS_RUN and source.sha256 == run.source_sha256

    def returned(self, record: FileRecord) -> list[Action]:
        """Record that a vanished path is back as it was."""
        self.catalog.set_fingerprint(record.path, record.fingerprint)
        if record.state in HAS_RUN | {FileState.REJECTED} and self._is_outdated(record):
            return [StageAgain(record.path)]  # the settings have changed while it was away
        return self.resolve(record.run_id) if record.run_id else []

    def moved(self, record: FileRecord, path: bytes, fingerprint: Fingerprint) -> list[Action]:
        """Follow a file to its new path. Only a run dated by its old path has to be made again."""
        self.catalog.move_file(record.path, path, fingerprint)
        if record.state not in HAS_RUN or record.run_id is None:
            return [] if record.run_id is None else self.resolve(record.run_id)
        run = self.catalog.run(record.run_id)
        if run is not None and run.facts.date_origin is not DateOrigin.META:
            return [StageAgain(path)]
        return self.resolve(record.run_id)

    def resolve(self, run_id: str) -> list[Action]:
        """Bring the states of all files that hold a run, and the run's source, in line with what is published."""
        run = self.catalog.run(run_id)
        if run is None:
            return []
        holders = [record for record in self.catalog.holding(run_id) if record.state in HAS_RUN]
        by_path = _by_path(run.facts)
        best = best_of(holders, run.source, by_path=by_path)
        if best is None:
            if not run.source_missing:
                self.catalog.set_source(run_id, run.source, missing=True)
            return []
        if best.sha256 != run.source_sha256 or (by_path and best.path != run.source):
            return [StageAgain(best.path)]
        if run.source != best.path or run.source_missing:
            self.catalog.set_source(run_id, best.path, missing=False)
        for record in holders:
            self._give_state(record, best, run)
        return []

    def _give_state(self, record: FileRecord, best: FileRecord, run: RunRecord) -> None:
        if record.path == best.path:
            if run.segmentation == "done":
                state = FileState.SEGMENTED
                words = segmented_words(len(run.segment_files), run.rows_outside or 0)
            elif run.segmentation == "failed":
                state = FileState.STAGED
                words = record.reason if record.state is state else "Its run is published, but not its segments."
            else:
                state, words = FileState.STAGED, published_words(run.facts.is_cut)
        elif record.sha256 == best.sha256:
            state, words = FileState.DUPLICATE, _COPY_WORDS
        else:
            state = FileState.SUPERSEDED
            words = (
                f"Another file holds the same run with {counted(best.rows or 0, 'row')}; this one has {record.rows}"
                f"{' and other bytes' if best.rows == record.rows else ''}."
            )
        if record.state is not state or record.reason != words:
            self.catalog.set_state(record.path, state, words)

    # -- parts ------------------------------------------------------------------------------------------------------

    def _left(self, before: FileRecord | None, run_id: str | None) -> list[Action]:
        """Look after the run that a path held before, if it holds another one or none now."""
        if before is None or before.run_id is None or before.run_id == run_id:
            return []
        return self.resolve(before.run_id)

    def _best(self, run_id: str) -> FileRecord | None:
        run = self.catalog.run(run_id)
        holders = [record for record in self.catalog.holding(run_id) if record.state in HAS_RUN]
        return best_of(holders, run.source if run else b"", by_path=run is not None and _by_path(run.facts))

    def _record(
        self,
        job: StageJob,
        fingerprint: Fingerprint,
        sha256: str | None,
        state: FileState,
        before: FileRecord | None,
        *,
        reason: str,
        proc: str | None = None,
        run_id: str | None = None,
        rows: int | None = None,
        rejection: Rejection | None = None,
        attempts: int = 0,
        skip_bad_rows: bool = False,
        terms: str = "",
    ) -> FileRecord:
        now = self._now()
        grown = before is not None and run_id is not None and before.run_id == run_id and before.sha256 != sha256
        return FileRecord(
            path=job.path,
            present=True,
            fingerprint=fingerprint,
            sha256=sha256,
            state=state,
            reason=reason,
            proc=proc,
            run_id=run_id,
            rows=rows,
            rejection=rejection,
            attempts=attempts,
            republished=(before.republished if before else 0) + grown,
            skip_bad_rows=skip_bad_rows,
            version=__version__,
            seen_at=before.seen_at if before else now,
            judged_at=now,
            terms=terms or (self.terms(proc) if self.terms else None),
        )

    def _withdraw_all(self, run: RunRecord) -> None:
        self._withdraw(self.stage_root, run.folder)
        self._withdraw_segments(run)

    def _withdraw_segments(self, run: RunRecord) -> None:
        self._withdraw(self.output_root, run.segments_folder)

    def _replace(self, root: Path, bundle: str, target: str, *, known: bool) -> None:
        self._unsynced.add(root)
        aside = self._ask(root, _replace, root, Path(bundle), root / target, known)
        if aside is not None:
            self._log.warning("set aside: what lay in a run's place is not this program's", **{PATH: str(aside)})

    def _withdraw(self, root: Path, target: str) -> None:
        self._unsynced.add(root)
        self._ask(root, publish.withdraw, root / target, self._temp(root))

    def _temp(self, root: Path) -> Path:
        return publish.temp_folder(root, self.catalog.ledger_id)


def depends_on_time(record: FileRecord, run: RunRecord | None) -> bool:
    """Tell whether the same bytes with another time of last change are to be judged anew."""
    if record.state in (FileState.QUEUED, FileState.STARTED):
        return True  # how long it has waited decides whether it is given up
    if record.rejection is not None and record.rejection.cause is RejectCause.ABANDONED:
        return True
    return run is not None and run.source == record.path and run.facts.date_origin is DateOrigin.MTIME


def abandon(record: FileRecord) -> FileRecord:
    """Give the verdict on a file without rows that nobody has touched for long."""
    reason = "It has no rows and has not changed for a long time: the measurement was never made."
    advice = "Nothing is to be done; should rows come, it is staged by itself."
    return replace(
        record,
        state=FileState.REJECTED,
        reason=reason,
        rejection=Rejection(RejectCause.ABANDONED, reason, advice=advice),
    )


def best_of(holders: list[FileRecord], source: bytes, *, by_path: bool = False) -> FileRecord | None:
    """Choose the file that a run is published from: most rows, then a rule that no order of events can change.

    Among identical copies the one that is the source already stays it; but where the path tells something of the run
    (`by_path`), the first in the order of paths.
    """
    ordered = sorted(holders, key=lambda r: r.path)
    return max(ordered, key=lambda r: (r.rows or 0, r.sha256 or "", not by_path and r.path == source), default=None)


def _is_uncut(source: FileRecord, run: RunRecord | None) -> bool:
    """Tell whether a file is the one from which a run was made that could not be cut."""
    return (
        run is not None and run.segmentation == "failed" and run.source == source.path and run.run_id == source.run_id
    )


def _by_path(facts: RunFacts) -> bool:
    """Tell whether a run is dated by its file's name or time, so that each copy gives it another date."""
    return facts.date_origin is not DateOrigin.META


def _forget(note: Path) -> None:
    with contextlib.suppress(OSError):  # one that stays does no harm
        note.unlink()


def _replace(root: Path, bundle: Path, target: Path, known: bool) -> Path | None:
    try:
        return publish.replace(bundle, target, known=known)
    except (NotADirectoryError, FileExistsError):
        aside = publish.clear_the_way(root, target)
        if aside is None:
            raise
        publish.replace(bundle, target, known=known)
        return aside


def _run_of(target: str) -> str:
    return target.rpartition("run_id=")[2]


def _is_as_recorded(root: Path, files: Iterable[OutputFile]) -> bool:
    try:
        return all(hashlib.sha256((root / one.path).read_bytes()).hexdigest() == one.sha256 for one in files)
    except OSError:
        return False


_COPY_WORDS = "It holds the same bytes as another file, whose run is published."


def published_words(is_cut: bool) -> str:
    """Say of a file that its run is published."""
    return "Its run is published; its segments are to be made." if is_cut else "Its run is published."


def segmented_words(segments: int, outside: int) -> str:
    """Say of a file that its run is cut into segments, with so many rows outside of all."""
    left = f", {counted(outside, 'row')} in no segment" if outside else ""
    return f"Its run is published with {segments} segment{'' if segments == 1 else 's'}{left}."
