"""The disk is held against the ledger: published files that somebody has taken away, or cut short.

In the daemon in rounds, each in pieces: by a worker of the second stage when there is nothing else to be done, from
the start on, after each fault of an output folder, and then now and then. In a command by a worker of its own, at the
folders of all runs first, and at as many files as time allows, from some place on: it must not be waited for where
there are a million of them. `verify` looks at and into all.
"""

from __future__ import annotations

import math
import secrets
import selectors
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeAlias

from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.errors import EngineError
from nanolab_daemon.lane import Answer, Condemned, Lane
from nanolab_daemon.log import COUNT, REASON, RUN_ID, logger
from nanolab_daemon.outputs import Outputs
from nanolab_daemon.pool import Pool
from nanolab_daemon.presence import RUNS_A_CALL, Roots, are_there
from nanolab_daemon.registrar import AGAIN
from nanolab_daemon.sections import Paths
from nanolab_daemon.tasks import HouseJob, Inspected, InspectJob, SegmentJob, SegmentOutcome

PIECE_S = 0.05
"""A worker's time for a piece: so long may a file have to wait for it that comes just then."""
COMMANDS_PIECE_S = 0.2
"""The same of a command's worker, for whose first piece the command waits: good for some 30,000 files."""
PAUSE = 19
"""Between pieces, times what the last one took: a round takes a twentieth of one core."""
ROUND_EVERY_S = 3600.0
REST = 1000
"""Between rounds at least, times what the last one took."""
AFTER_FAILURE_S = 600.0

MOST_WITHOUT_ASKING = 20
"""More than so many, and more than half of all: the folder is another one, or somebody meant it."""

CuttingLane: TypeAlias = Lane[SegmentJob | HouseJob, SegmentOutcome]


def key_of(job: SegmentJob | HouseJob) -> str:
    """Name what must not be done twice at a time: a run, the manifest, the look at what is published."""
    if isinstance(job, SegmentJob):
        return job.run_id
    return "look" if isinstance(job, InspectJob) else "manifest"


class Reconciler:
    """Rounds of looking at the published files, and what follows from what they find. For the engine's thread.

    `again` has a raw file staged anew, `cut` a run cut anew from its staged file.
    """

    def __init__(
        self,
        paths: Paths,
        catalog: Catalog,
        outputs: Outputs,
        lane: Callable[[], CuttingLane],
        *,
        again: Callable[[bytes], None],
        cut: Callable[[str], None],
    ) -> None:
        self._paths = paths
        self._catalog = catalog
        self._outputs = outputs
        self._lane = lane
        self._again = again
        self._cut = cut
        self._own = self._over = False
        self._piece_s = PIECE_S
        self._due = math.inf
        self._wanted = False
        self._began: float | None = None  # the piece that a worker has
        self._void = False  # its answer is: what it looks at is another disk's
        self.rounds = 0  # that have come to their end
        self._log = logger(__name__)
        self._begin()

    def _begin(self) -> None:
        # Run ids are spread evenly: a command looks at another part each time.
        self._after = self._origin = secrets.token_hex(8) if self._own else ""
        self._found: list[str] = []
        self._runs = 0
        self._cost_s = 0.0

    def hire(self, selector: selectors.BaseSelector, task_timeout_s: float) -> None:
        """Have what there is time for looked at now, by a worker of its own."""
        pool: Pool[SegmentJob | HouseJob, SegmentOutcome] = Pool(
            "look",
            "nanolab_daemon.presence:look_batch",
            workers=1,
            settings=Roots(str(self._paths.stage), str(self._paths.output)),
            task_timeout_s=task_timeout_s,
        )
        lane = Lane(pool, key=key_of, size_bytes=lambda _: 0, most_jobs=1, most_bytes=1)
        self._lane = lambda: lane
        self._own, self._piece_s = True, COMMANDS_PIECE_S
        self.begin()
        pool.start()
        selector.register(pool, selectors.EVENT_READ)

    def begin(self) -> None:
        """Make rounds from now on; before that nothing is looked at."""
        self._wanted = True
        self.soon()

    def soon(self) -> None:
        """Begin a round now, if rounds are made: what was looked at until now may have been another disk."""
        if not self._wanted:
            return
        self._void = self._began is not None
        self._due = 0.0
        self._begin()

    @property
    def busy(self) -> bool:
        """Whether a command has to wait for it."""
        return self._own and not self.rounds and self._due < math.inf

    def due(self, *, at_rest: bool) -> float:
        """Tell when `work` has something to do; infinity while a worker looks."""
        if self._own and not self._over:
            deadline = self._lane().pool.next_deadline()
            return math.inf if deadline is None else deadline
        return self._due if at_rest and self._began is None else math.inf

    def work(self, now: float, *, at_rest: bool) -> None:
        """Hand out the next piece if it is due, and take what a worker of its own has answered."""
        if self._over:
            return
        if self._own:
            self._hear_own(now)
        if self._began is None and now >= self._due and (at_rest or self._own):
            self._began = now
            ledger = str(self._paths.state / FILE_NAME)
            folders = self._own and not self.rounds
            self._lane().offer(InspectJob(ledger, self._piece_s, self._after, self._origin, folders), live=True)
        if self._own and not self._over:
            self._lane().dispatch()

    def _hear_own(self, now: float) -> None:
        try:
            events = self._lane().poll(now)
        except EngineError as error:
            self.failed(error.message, now)
            return
        for event in events:
            match event:
                case Answer():
                    assert isinstance(event.result, Inspected)
                    self.took(event.result, now)
                case Condemned():
                    self.failed(event.words, now)
                case _:
                    self._log.warning("worker lost", **{REASON: event.words})

    def took(self, answer: Inspected, now: float) -> None:
        """Take a piece's answer; at the end of a round, have made again what is lacking."""
        took_s = now - (self._began or now)
        self._began = None
        if self._void:
            self._void = False
            return
        self._cost_s += took_s
        self._found += answer.lacking
        self._runs += answer.runs
        if self._own:
            self._after = answer.after or ""
            self._due = now if answer.after is not None else math.inf
            self._conclude(now)
            return
        if answer.after is not None:
            self._after = answer.after
            self._due = now + PAUSE * took_s
            return
        self._due = now + max(ROUND_EVERY_S, REST * self._cost_s)
        self._conclude(now)
        self._begin()

    def failed(self, words: str, now: float) -> None:
        """Take note that a piece came to nothing."""
        self._log.warning("the published files could not be looked at", **{REASON: words})
        self._began, self._void = None, False
        self._due = now + AFTER_FAILURE_S
        if self._own:
            self.kill()

    def _conclude(self, now: float) -> None:
        """Have made again what is lacking of what was looked at."""
        found, runs = self._found, self._runs
        self._found, self._runs = [], 0
        try:
            self._make_all_again(found, runs)
        except OSError as error:
            self.failed(f"{error.filename}: {error.strerror}", now)
        else:
            self.rounds += 1

    def _make_all_again(self, found: list[str], runs: int) -> None:
        if _is_too_many(found, runs):
            if self._own:
                self._due = math.inf
            self._log.error(
                "most published files are gone; nothing is done about it",
                **{COUNT: len(found)},
                advice="Mount the right folders. If it is meant: `nanolab-daemon verify --repair` makes them again.",
            )
            return
        number = 0
        ids = iter(dict.fromkeys(found))
        while some := list(islice(ids, RUNS_A_CALL)):
            number += self._make_again(some)
        if number:
            self._log.warning("published files were gone and are made again", **{COUNT: number})

    def _make_again(self, run_ids: list[str]) -> int:
        """Look once more at some runs, as the ledger has them by now, and have made again what they lack."""
        runs = [(run_id, *run) for run_id in run_ids if (run := self._catalog.output_of(run_id)) is not None]
        paths = self._paths
        staged = self._outputs.call(paths.stage, _are_there, str(paths.stage), [[run[3]] for run in runs])
        cut = self._outputs.call(paths.output, _are_there, str(paths.output), [run[4] for run in runs])
        number = 0
        for (run_id, source, vanished, *_), has_staged, has_cut in zip(runs, staged, cut, strict=True):
            if has_staged and has_cut:
                continue
            if not has_staged and vanished:
                self._log.error("published files are gone, and so is the raw file", **{RUN_ID: run_id})
                continue
            number += 1
            if has_staged:
                self._catalog.set_pending(run_id)
                self._cut(run_id)
            else:
                self._catalog.set_fingerprint(source, AGAIN)  # the next pass finds it
                self._again(source)
        return number

    def kill(self) -> None:
        """End the worker of its own, if there is one."""
        self._over = True
        self._due = math.inf
        if self._own:
            self._lane().pool.kill()


def _is_too_many(found: Iterable[str], runs: int) -> bool:
    lacking = len(set(found))
    return lacking > MOST_WITHOUT_ASKING and 2 * lacking > runs


def _are_there(root: str, runs: list[list[list[object]]]) -> list[bool]:
    return [are_there(root, files) for files in runs]
