"""A pool whose workers are on a Dask cluster: the other form of what the engine asks of one (`workpool`).

A batch is one task. Whatever Dask does with it, doing it twice included, no file of an innocent run is touched: a
worker there makes bundles aside, and only the engine moves them into place. What Dask loses comes back undone.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import queue
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic

from nanolab_daemon import doubts
from nanolab_daemon.dask_link import FIRST_PAUSE_S, LONGEST_PAUSE_S, Answer, DaskLink
from nanolab_daemon.dask_worker import Limits, Task
from nanolab_daemon.path_map import PathMap
from nanolab_daemon.tasks import WorkSettings
from nanolab_daemon.wakeup import Wakeup
from nanolab_daemon.workpool import Counts, Died, Finished, Item, Outcome, Result, Returned, StartFailed, WorkerLost

if TYPE_CHECKING:
    from distributed import Future

PREFETCH = 2
"""So many batches are out for each that is worked on, so that none waits for the way there and back."""

LIVE, BACKLOG = 10, 0


@dataclass(frozen=True, slots=True)
class _Out:
    future: Future
    workers: frozenset[str]
    survey: int


class DaskPool(Generic[Item, Result]):
    """Workers that offer `resource` on the cluster behind `link`. One thread calls all methods."""

    def __init__(
        self,
        name: str,
        resource: str,
        link: DaskLink,
        *,
        settings: WorkSettings,
        path_map: PathMap,
        task_timeout_s: float,
        task_memory_mb: int | None,
    ) -> None:
        self.name = name
        self._resource = resource
        self._link = link
        self._path_map = path_map
        self._limits = Limits(task_timeout_s, task_memory_mb)
        self._token = secrets.token_hex(8)
        self._out: dict[int, _Out] = {}
        self._answers: queue.SimpleQueue[tuple[int, Future, Answer, Outcome[Any] | None]] = queue.SimpleQueue()
        self._untold: list[Outcome[Result]] = []
        self._wakeup = Wakeup()
        self._returned = 0
        self._pause_s = 0.0
        self._paused_until = -math.inf
        self._closed = False
        self._bell = threading.Lock()
        self._settings, self._edition = b"", ""
        self.reconfigure(settings)
        link.tell(self._ring)

    def start(self) -> None:
        """Reach the scheduler; EngineError if that can't be done."""
        self._link.open()

    def reconfigure(self, settings: WorkSettings) -> None:
        """Let every batch from now on be done with other settings."""
        self._here = settings
        self._settings = pickle.dumps(self._path_map.settings(settings), pickle.HIGHEST_PROTOCOL)
        self._edition = hashlib.sha256(self._settings).hexdigest()

    # -- work -------------------------------------------------------------------------------------------------------

    def submit(self, batch_id: int, items: Sequence[Item]) -> None:
        """Give away a batch. What can't be given away comes back with the next `poll`."""
        task = Task(
            self._resource,
            1,
            self._limits,
            self._edition,
            self._settings,
            pickle.dumps(items, pickle.HIGHEST_PROTOCOL),
        )
        workers, survey = self._workers, self._link.surveys
        future = self._link.submit(
            pickle.dumps(task, pickle.HIGHEST_PROTOCOL),
            key=f"nanolab-{self.name}-{self._token}-{batch_id}",
            resource=self._resource,
            priority=LIVE if len(items) == 1 else BACKLOG,
            answer=lambda future, answer: self._hear(batch_id, items, future, answer),
        )
        if future is None:
            self._untold.append(Returned(batch_id, "no worker is there any more"))
            self._wakeup.call()
        else:
            self._out[batch_id] = _Out(future, workers, survey)

    def _hear(self, batch_id: int, items: Sequence[Item], future: Future, answer: Answer) -> None:
        """Take an answer, in a thread that may wait for the disk: what can't be so here, is not believed."""
        outcome: Outcome[Any] | None = None
        if answer.result is not None:
            address, outcome = pickle.loads(answer.result)  # noqa: S301 -- from a worker of ours
            if isinstance(outcome, Finished):
                outcome = Finished(batch_id, [self._path_map.outcome(one) for one in outcome.results])
                if doubt := doubts.of_batch(self._here, items, outcome.results):
                    self._link.distrust(address, doubt)
                    outcome = Returned(batch_id, f"{address} is not believed: {doubt}")
        self._answers.put((batch_id, future, answer, outcome))
        self._ring()

    def _ring(self) -> None:
        """Wake the engine, from any thread, as long as it listens."""
        with self._bell:
            if not self._closed:
                self._wakeup.call()

    def cancel(self, batch_id: int) -> None:
        """Want nothing more of a batch. A worker that has begun it goes on, and what it makes is not used."""
        if batch_id in self._out:
            self._come_back(batch_id, "its work was called back", self._untold)
            self._wakeup.call()

    def poll(self, now: float) -> list[Outcome[Result]]:
        """Return what has happened since the last call."""
        self._wakeup.clear()
        outcomes, self._untold = self._untold, []
        while not self._answers.empty():
            batch_id, future, answer, outcome = self._answers.get()
            if batch_id in self._out and self._out[batch_id].future is future:
                self._take(batch_id, answer, outcome, outcomes)
        for batch_id, out in list(self._out.items()):
            if self._link.surveys > out.survey + 1 and not out.workers & self._link.fit.keys():
                self._come_back(batch_id, "the workers that might have had it are gone", outcomes)
        if any(isinstance(outcome, Returned) for outcome in outcomes):
            self._pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
            self._paused_until = now + self._pause_s
        elif outcomes:
            self._pause_s = 0.0
        return outcomes

    def _take(
        self, batch_id: int, answer: Answer, outcome: Outcome[Any] | None, outcomes: list[Outcome[Result]]
    ) -> None:
        if outcome is None:
            # What Dask says workers have died of, several times, is tried alone, as after a crash here.
            self._come_back(batch_id, answer.why, outcomes, killed=answer.killed)
            return
        del self._out[batch_id]
        if not isinstance(outcome, Finished | WorkerLost | StartFailed):  # the last two no foreman sends
            self._returned += isinstance(outcome, Returned)
            outcome = replace(outcome, batch_id=batch_id)
        outcomes.append(outcome)

    def _come_back(self, batch_id: int, cause: str, outcomes: list[Outcome[Result]], *, killed: bool = False) -> None:
        out = self._out.pop(batch_id)
        if not out.future.done():
            out.future.cancel()
        self._returned += 1
        outcomes.append(Died(batch_id, None, 0, None, cause) if killed else Returned(batch_id, cause))

    def next_deadline(self) -> float | None:
        """Return when a pause ends; whatever else happens is heard through `fileno`."""
        return self._paused_until if self._paused_until > time.monotonic() else None

    def fileno(self) -> int:
        """Return the descriptor that is readable when `poll` has something to do."""
        return self._wakeup.fileno()

    def close(self, timeout_s: float) -> list[Outcome[Result]]:
        """As `kill`: whoever wants to wait for what is out has done so."""
        del timeout_s
        return self.kill()

    def kill(self) -> list[Outcome[Result]]:
        """Let go of the cluster, and give back what is out there."""
        if self._closed:
            return []
        with self._bell:
            self._closed = True
        outcomes: list[Outcome[Result]] = []
        for batch_id in list(self._out):
            self._come_back(batch_id, "the pool was closed", outcomes)
        self._link.stop()
        self._wakeup.close()
        return outcomes

    # -- questions --------------------------------------------------------------------------------------------------

    @property
    def _workers(self) -> frozenset[str]:
        return frozenset(address for address, slots in self._link.fit.items() if slots.get(self._resource))

    @property
    def _slots(self) -> int:
        return sum(slots.get(self._resource, 0) for slots in self._link.fit.values())

    @property
    def size(self) -> int:
        """How many batches are worked on at a time."""
        return max(1, self._slots)

    @property
    def ready(self) -> int:
        """How many workers are there; 1 at least as long as the scheduler is, to which some may come at any time."""
        return self._slots or int(self._link.up)

    @property
    def idle(self) -> int:
        """How many batches `submit` would take now."""
        if not self._link.up or self._closed or time.monotonic() < self._paused_until:
            return 0
        return max(0, PREFETCH * self._slots - len(self._out))

    @property
    def counts(self) -> Counts:
        """What has come back undone counts as replaced."""
        return Counts(self._slots, self._returned, 0)

    def describe(self, now: float) -> dict[str, Any]:
        """Return the pool as a person would ask for it."""
        del now
        trouble = self._link.trouble or ("" if self._slots else f"no worker that can be used offers {self._resource}")
        return {
            "name": self.name,
            "engine": "dask",
            "scheduler": self._link.scheduler,
            "size": self._slots,
            "ready": self._slots,
            "idle": self.idle,
            "out": len(self._out),
            "started": self._slots,
            "replaced": self._returned,
            "lost_idle": 0,
            "unkillable": 0,
            "start_failure": trouble,
            "unfit": dict(self._link.unfit),
            "workers": [
                {"slot": at, "pid": 0, "rss_mb": 0, "state": "ready", "address": address, "processes": slots}
                for at, (address, offered) in enumerate(sorted(self._link.fit.items()))
                if (slots := offered.get(self._resource, 0))
            ],
        }
