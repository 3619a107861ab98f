"""What the engine asks of a pool of workers, wherever these are, and what a pool tells: the seam between the two.

The pool of spawned processes on this machine (`pool`) and that on a Dask cluster (`dask_pool`) are two forms of it.
A batch is work on several items; it may be done twice, so it has to be such that this does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Finished(Generic[Result]):
    """The batch is done; one result an item, in order."""

    batch_id: int
    results: list[Result]


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception left the handler: a bug, since handlers return what is wrong with a file as a result."""

    batch_id: int
    item_index: int | None  # in all outcomes: None when no item is to blame
    pid: int
    traceback: str
    note: bytes = b""  # in all outcomes: what the handler had noted about that item


@dataclass(frozen=True, slots=True)
class Died:
    """The worker died at work. `exitcode` is negative for a signal, None if it could not even be reaped.

    `pid` is 0 for a batch that no worker had begun when the pool was closed.
    """

    batch_id: int
    item_index: int | None
    pid: int
    exitcode: int | None
    cause: str
    note: bytes = b""


@dataclass(frozen=True, slots=True)
class TimedOut:
    """One item, or the end of the batch, took longer than the limit; the worker was killed."""

    batch_id: int
    item_index: int | None
    pid: int
    after_s: float
    note: bytes = b""


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """The worker took more memory than it may and was killed, or a MemoryError left the handler."""

    batch_id: int
    item_index: int | None
    pid: int
    cause: str
    note: bytes = b""


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker died with no batch begun: broken from outside. No batch is touched by it."""

    pid: int
    exitcode: int | None
    cause: str


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A worker could not start. Told once for each cause in a row of failures, not once for each attempt."""

    cause: str
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class Returned:
    """The batch came back undone, and no item is to blame: the machine that had it, or the way to it, was lost.

    Some of it may be done all the same, then or later, by a worker of which nobody hears any more.
    """

    batch_id: int
    cause: str


Verdict: TypeAlias = Raised | Died | TimedOut | OutOfMemory
Outcome: TypeAlias = Finished[Result] | Verdict | Returned | WorkerLost | StartFailed


@dataclass(frozen=True, slots=True)
class Counts:
    """Since the pool began: workers started, replaced for any reason, lost while they had nothing to do."""

    started: int = 0
    replaced: int = 0
    lost_idle: int = 0


class WorkPool(Protocol[Item_contra, Result]):
    """A pool of workers that work off batches of items. One thread calls all methods; none of them waits for work.

    It can be registered for reading in a selector from `start` to `kill`. Call `poll` when it is readable, and no
    later than `next_deadline`. It never retries and never judges: `Lane` does. `now` is always time.monotonic().
    """

    name: str

    @property
    def size(self) -> int:
        """How many batches are worked on at a time when all workers are there."""

    @property
    def ready(self) -> int:
        """How many workers are there; above 0 as soon as work can be taken on."""

    @property
    def idle(self) -> int:
        """How many batches `submit` would take now."""

    @property
    def counts(self) -> Counts:
        """What has been started, replaced and lost so far."""

    def start(self) -> None:
        """Begin. EngineError if there is no chance of any worker."""

    def submit(self, batch_id: int, items: Sequence[Item_contra]) -> None:
        """Give away a batch. Call only while `idle` is above 0."""

    def cancel(self, batch_id: int) -> None:
        """End a batch; `poll` will tell that it died or came back, or else what became of it before."""

    def reconfigure(self, settings: Any) -> None:
        """Let every batch from now on be done with other settings; those under way end with the old ones."""

    def poll(self, now: float) -> list[Outcome[Result]]:
        """Return what has happened since the last call. EngineError when no worker will ever come."""

    def next_deadline(self) -> float | None:
        """Return the monotonic second at which `poll` must be called at the latest, None if nothing is due."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when `poll` has something to do."""

    def describe(self, now: float) -> dict[str, Any]:
        """Return the pool as a person would ask for it, in plain words and numbers."""

    def close(self, timeout_s: float) -> list[Outcome[Result]]:
        """Let what is under way finish, up to the limit, then `kill`; tell of all batches out."""

    def kill(self) -> list[Outcome[Result]]:
        """End at once; tell of all batches out. A second call does nothing."""
