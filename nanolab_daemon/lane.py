"""The queue before one pool: live work first, then what crashed once (alone), then the backlog in batches.

Keeps one job a key in a worker at a time, and charges a crash to the job that caused it and to no other. Knows
nothing of files or runs.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from nanolab_daemon.errors import RejectCause
from nanolab_daemon.workpool import (
    Died,
    Finished,
    OutOfMemory,
    Raised,
    Returned,
    StartFailed,
    TimedOut,
    WorkerLost,
    WorkPool,
)

Job = TypeVar("Job")
Result = TypeVar("Result")

CRASHES_ALLOWED = 1
"""A job that loses a second worker, this time all by itself, is not tried again."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[Job, Result]):
    """A job and what the worker said of it."""

    job: Job
    result: Result


@dataclass(frozen=True, slots=True)
class Condemned(Generic[Job]):
    """A job that cost workers their lives; it is not tried again."""

    job: Job
    cause: RejectCause
    words: str
    attempts: int
    note: bytes = b""  # what the worker had noted about it: what it is, exactly


@dataclass(frozen=True, slots=True)
class Trouble(Generic[Job]):
    """Something to be logged: a worker was lost. `job` is the suspect, if there is one; it will be tried again."""

    words: str
    pid: int
    job: Job | None = None


Event = Answer[Job, Result] | Condemned[Job] | Trouble[Job]


@dataclass(slots=True)
class _Entry(Generic[Job]):
    job: Job
    live: bool
    crashes: int = 0
    suspect: bool = False  # to be tried alone


class Lane(Generic[Job, Result]):
    """A pool and what waits for it. `key` names what must not be worked on twice at a time.

    `merge` makes one job of an older and a newer one of the same key, neither of which has been begun.
    """

    def __init__(
        self,
        pool: WorkPool[Job, Result],
        key: Callable[[Job], Hashable],
        *,
        size_bytes: Callable[[Job], int],
        most_jobs: int,
        most_bytes: int,
        merge: Callable[[Job, Job], Job] = lambda _, new: new,
    ) -> None:
        self.pool = pool
        self._key = key
        self._size_bytes = size_bytes
        self._most_jobs = most_jobs
        self._most_bytes = most_bytes
        self._merge = merge
        self._queued: dict[Hashable, _Entry[Job]] = {}
        self._live: deque[Hashable] = deque()
        self._suspects: deque[Hashable] = deque()
        self._backlog: deque[Hashable] = deque()
        self._out: dict[int, list[_Entry[Job]]] = {}
        self._busy: dict[Hashable, _Entry[Job] | None] = {}  # in a worker → what was offered meanwhile
        self._recalled: dict[int, set[Hashable]] = {}  # batch → the keys that nobody wants any more
        self._serial = itertools.count(1)

    @property
    def waiting(self) -> int:
        """How many jobs no worker has begun."""
        return len(self._queued)

    @property
    def crowd(self) -> int:
        """About how many live jobs wait: some that have been done otherwise meanwhile may still count."""
        return len(self._live)

    @property
    def busy(self) -> int:
        """How many jobs are with a worker."""
        return len(self._busy)

    @property
    def empty(self) -> bool:
        """Whether nothing waits and nothing is with a worker."""
        return not self._queued and not self._busy

    def holds(self, key: Hashable) -> bool:
        """Tell whether a job with this key waits or is with a worker."""
        return key in self._queued or key in self._busy

    def offer(self, job: Job, *, live: bool) -> None:
        """Put a job in line. It is merged with one of the same key, and waits for one that is with a worker."""
        key = self._key(job)
        if key in self._busy:
            meanwhile = self._busy[key]
            if meanwhile is not None:
                job, live = self._merge(meanwhile.job, job), live or meanwhile.live
            self._busy[key] = _Entry(job, live)
            return
        before = self._queued.get(key)
        if before is None:
            self._queued[key] = _Entry(job, live)
            (self._live if live else self._backlog).append(key)
            return
        before.job = self._merge(before.job, job)
        if live and not before.live:
            before.live = True
            self._live.append(key)  # its place in the backlog is void: whoever comes to it finds it gone

    def withdraw(self) -> int:
        """Forget all that no worker has begun, and tell how much that was: at a stop. The ledger knows it still."""
        number = len(self._queued)
        self._queued.clear()
        for line in (self._live, self._suspects, self._backlog):
            line.clear()
        return number

    def recall(self, which: Callable[[Job], bool]) -> int:
        """Forget some jobs, and tell how many; a worker that has begun one is ended, which is charged to nobody."""
        waiting = [key for key, entry in self._queued.items() if which(entry.job)]
        for key in waiting:
            del self._queued[key]
        for key, meanwhile in self._busy.items():
            if meanwhile is not None and which(meanwhile.job):
                self._busy[key] = None
        number = len(waiting)
        for batch_id, batch in self._out.items():
            keys = {self._key(entry.job) for entry in batch if which(entry.job)}
            if keys and batch_id not in self._recalled:
                self._recalled[batch_id] = keys
                number += len(keys)
                self.pool.cancel(batch_id)
        return number

    def dispatch(self, *, backlog: bool = True, last: bool = False) -> None:
        """Give work to every idle worker; `last`: no more will come, so what is left is shared out evenly."""
        while self.pool.idle:
            batch = self._next(backlog=backlog, last=last)
            if not batch:
                return
            number = next(self._serial)
            self._out[number] = batch
            for entry in batch:
                self._busy[self._key(entry.job)] = None
            self.pool.submit(number, [entry.job for entry in batch])

    def _next(self, *, backlog: bool, last: bool) -> list[_Entry[Job]]:
        entry = self._pop(self._live)
        if entry is not None:
            return [entry]
        entry = self._pop(self._suspects)
        if entry is not None:
            return [entry]
        if not backlog:
            return []
        most = self._most_jobs
        if last:
            most = min(most, max(1, len(self._queued) // (2 * self.pool.size)))
        batch: list[_Entry[Job]] = []
        size_bytes = 0
        while len(batch) < most and size_bytes < self._most_bytes:
            entry = self._pop(self._backlog)
            if entry is None:
                break
            batch.append(entry)
            size_bytes += self._size_bytes(entry.job)
        return batch

    def _pop(self, line: deque[Hashable]) -> _Entry[Job] | None:
        while line:
            key = line.popleft()
            entry = self._queued.get(key)
            if entry is None:
                continue
            if entry.suspect and line is not self._suspects:
                continue  # it has a place among the suspects
            del self._queued[key]
            return entry
        return None

    def poll(self, now: float) -> list[Event[Job, Result]]:
        """Give what the workers have answered, and what became of those who can't answer any more."""
        events: list[Event[Job, Result]] = []
        for outcome in self.pool.poll(now):
            match outcome:
                case Finished():
                    batch = self._out.pop(outcome.batch_id)
                    self._recalled.pop(outcome.batch_id, None)
                    events += [Answer(e.job, r) for e, r in zip(batch, outcome.results, strict=True)]
                    for entry in batch:
                        self._release(entry)
                case WorkerLost():
                    events.append(Trouble(f"a worker was lost: {outcome.cause}", outcome.pid))
                case StartFailed():
                    words = f"a worker could not start, next try in {outcome.retry_in_s:.1f} s: {outcome.cause}"
                    events.append(Trouble(words, 0))
                case Returned():
                    events.append(self._returned(outcome))
                case _:
                    events += self._lost(outcome)
        return events

    def _release(self, entry: _Entry[Job]) -> None:
        """Take a job back from its worker; what was offered under its key meanwhile gets in line."""
        meanwhile = self._busy.pop(self._key(entry.job))
        if meanwhile is not None:
            self.offer(meanwhile.job, live=meanwhile.live)

    def _lost(self, outcome: Raised | Died | TimedOut | OutOfMemory) -> list[Event[Job, Result]]:
        batch = self._out.pop(outcome.batch_id)
        recalled = self._recalled.pop(outcome.batch_id, None)
        if recalled is not None:
            self._take_back(batch, recalled)
            return [Trouble(_verdict(outcome)[1], outcome.pid)]
        culprit = outcome.item_index
        if culprit is None and len(batch) == 1:
            culprit = 0  # it was alone, so nobody else can be to blame
        cause, words = _verdict(outcome)
        events: list[Event[Job, Result]] = []
        for at, entry in enumerate(batch):
            meanwhile = self._busy.pop(self._key(entry.job))
            guilty = at == culprit
            entry.crashes += guilty
            if guilty and entry.crashes > CRASHES_ALLOWED:
                events.append(Condemned(entry.job, cause, words, entry.crashes, outcome.note))
                if meanwhile is not None:
                    self.offer(meanwhile.job, live=meanwhile.live)
                continue
            if meanwhile is not None:
                entry.job = self._merge(entry.job, meanwhile.job)
                entry.live = entry.live or meanwhile.live
            # without a culprit, each is tried alone: the guilty one is found by that, the others lose nothing
            self._again(entry, alone=guilty or culprit is None)
        suspect = batch[culprit].job if culprit is not None else None
        events.append(Trouble(words, outcome.pid, suspect))
        return events

    def _returned(self, outcome: Returned) -> Trouble[Job]:
        batch = self._out.pop(outcome.batch_id)
        self._take_back(batch, self._recalled.pop(outcome.batch_id, set()))
        return Trouble(f"work came back undone: {outcome.cause}", 0)

    def _take_back(self, batch: list[_Entry[Job]], recalled: set[Hashable]) -> None:
        """Put a batch in line again for which nobody is to blame, but for what was called back."""
        for entry in reversed(batch):  # each goes to the front
            if self._key(entry.job) in recalled:
                self._release(entry)
                continue
            meanwhile = self._busy.pop(self._key(entry.job))
            if meanwhile is not None:
                entry.job, entry.live = self._merge(entry.job, meanwhile.job), entry.live or meanwhile.live
            self._again(entry, alone=False)

    def _again(self, entry: _Entry[Job], *, alone: bool) -> None:
        key = self._key(entry.job)
        entry.suspect = entry.suspect or alone
        self._queued[key] = entry
        if entry.suspect:
            self._suspects.append(key)
        else:
            (self._live if entry.live else self._backlog).appendleft(key)


def _verdict(outcome: Raised | Died | TimedOut | OutOfMemory) -> tuple[RejectCause, str]:
    match outcome:
        case Raised():
            return RejectCause.INTERNAL, f"the program met an error of its own: {outcome.traceback.strip()}"
        case TimedOut():
            return RejectCause.TIMED_OUT, f"a worker was killed after {outcome.after_s:.1f} s at one file"
        case OutOfMemory():
            return RejectCause.OUT_OF_MEMORY, outcome.cause
        case Died():
            return RejectCause.CRASHED, f"a worker died: {outcome.cause}"
