"""A persistent pool of spawned worker processes, each on a pipe of its own: one dies, hangs or swells, the rest work.

It never forks, never waits (but in `close`), never retries: it tells what became of a batch, and the caller decides.
"""

from __future__ import annotations

import atexit
import math
import mmap
import multiprocessing
import os
import pickle
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Generic, Self

from nanolab_daemon import worker as child
from nanolab_daemon.errors import EngineError
from nanolab_daemon.workpool import (
    Counts,
    Died,
    Finished,
    Item,
    Outcome,
    OutOfMemory,
    Raised,
    Result,
    StartFailed,
    TimedOut,
    Verdict,
    WorkerLost,
)

START_TIMEOUT_S = 120.0
START_ATTEMPTS = 5
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
CLOSE_TIMEOUT_S = 10.0
GONE_S = 1.0  # from the end of a worker's pipe to its SIGKILL, should it still be there
UNKILLABLE_S = 5.0  # from SIGKILL to doing without it: it hangs in the kernel, on a dead network mount say
RSS_AFTER_S = 0.2  # items shorter than this are left to the limit inside the worker
RSS_EVERY_S = 0.25
REAP_EVERY_S = 0.002
PATIENT_TIMES = 4  # the time limit, for a worker that gets no CPU or waits for a disk
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_CHUNK = 256 * 1024


class _State(Enum):
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class _Batch:
    batch_id: int
    size: int
    payload: bytes


@dataclass(slots=True, eq=False)
class _Worker:
    """What the parent knows of one worker. `dying`: killed, or its pipe has ended; only its burial is left."""

    slot: int
    wave: int
    pid: int
    process: SpawnProcess
    channel: socket.socket
    progress: child.Progress
    started_at: float
    edition: int  # of the settings that it was sent
    state: _State = _State.STARTING
    batch: _Batch | None = None
    inbox: bytearray = field(default_factory=bytearray)
    outbox: bytearray = field(default_factory=bytearray)
    busy_since: float = 0.0
    rss_due: float = 0.0
    cpu_s: float = 0.0  # used when it got its batch
    starved_until: float = 0.0
    dying: bool = False
    verdict: Verdict | None = None
    words: str = ""
    kill_at: float = math.inf
    give_up_at: float = math.inf
    look_at: float = 0.0

    def item_at(self, index: int) -> int | None:
        return index if self.batch is not None and 0 <= index < self.batch.size else None

    def is_starved(self, limit_s: float) -> bool:
        """Tell whether it waits for a CPU or a disk rather than for something that never comes."""
        found = _stat(self.pid)
        return found is not None and is_starved(found[0], found[1] - self.cpu_s, limit_s)

    def rss_mb(self) -> int:
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):  # it is gone, which its pipe will tell
            return 0
        return pages * mmap.PAGESIZE // child.MIB


def is_starved(state: str, cpu_s: float, limit_s: float) -> bool:
    """Tell of a worker past its time limit whether the machine may be to blame, and not its file.

    `state` as in /proc/PID/stat: R runs or would run if it were let, D waits for a disk. `cpu_s`: what it has used
    since it got its batch. One that sleeps waits in vain; one that has used half its time has worked.
    """
    return state in "RD" and cpu_s < limit_s / 2


def _stat(pid: int) -> tuple[str, float] | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
    except (OSError, IndexError, ValueError):  # it is gone, which its pipe will tell
        return None


class Pool(Generic[Item, Result]):
    """`workers` processes that load `entry` ("module:factory") once and then work off batches of items.

    `factory(settings)` returns `handler(items, began)`, which returns one result an item, in order. It calls
    `began(i)` before item i, which starts that item's time limit and names it should the worker die, and
    `began(len(items))` before work that concerns all of them. Settings, items and results travel by pickle; their
    classes, and the factory, live in modules that can be imported (the `__main__` of the program is not loaded).

    The pool can be registered for reading in a selector, once, for its whole life, whatever becomes of its workers.
    Call `poll` when it is readable, and no later than `next_deadline`. `now` is always time.monotonic().

    One thread calls all methods and must outlive the pool: the kernel ends the workers when the *thread* that
    started them ends.
    """

    def __init__(
        self,
        name: str,
        entry: str,
        *,
        workers: int,
        settings: object,
        task_timeout_s: float,
        task_memory_mb: int | None = None,
    ) -> None:
        if workers < 1 or not task_timeout_s > 0 or ":" not in entry:
            raise ValueError(f"{workers=}, {task_timeout_s=}, {entry=}: want 1 or more, above 0, module:factory")
        self.name = name
        self.size = workers
        self._entry = entry
        self._settings = child.SETTINGS + pickle.dumps(settings, child.PICKLE_PROTOCOL)
        self._edition = 0  # of the settings
        self._timeout_s = task_timeout_s
        self._memory_mb = task_memory_mb
        self._context = multiprocessing.get_context("spawn")
        self._selector: selectors.EpollSelector | None = None
        self._thread: int | None = None
        self._workers: dict[int, _Worker] = {}
        self._untaken: deque[_Batch] = deque()
        self._unreaped: list[SpawnProcess] = []
        self._untold: list[Outcome[Result]] = []  # of start, for the first poll
        self._started = self._replaced = self._lost_idle = 0
        self._wave = self._failures = 0
        self._start_at = -math.inf
        self._failure_told = ""
        self._fatal = ""
        self._closing = False

    # ---- life

    def start(self) -> None:
        """Start all workers and don't wait for them."""
        if self._thread is not None:
            raise RuntimeError(f"the {self.name} pool was started before")
        self._thread = threading.get_ident()
        self._selector = selectors.EpollSelector()
        # Runs before multiprocessing's own exit handler, which would wait without limit for a worker that hangs.
        atexit.register(self.kill)
        self._fill(time.monotonic(), self._untold)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> list[Outcome[Result]]:
        """Let idle workers leave and busy ones finish, kill what is left at the limit; tell of all batches out."""
        if self._selector is None:
            return []
        self._check_thread()
        self._closing = True
        for worker in self._workers.values():
            if worker.state is _State.STARTING:
                self._condemn(worker, time.monotonic())
            else:
                with suppress(OSError):  # it is dead already, which poll finds out
                    worker.channel.shutdown(socket.SHUT_WR)
        outcomes = self._wait_for_all(time.monotonic() + timeout_s)
        return outcomes + self.kill()

    def kill(self) -> list[Outcome[Result]]:
        """Kill and reap all workers at once; tell of all batches out. A second call does nothing."""
        if self._selector is None:
            return []
        self._check_thread()
        self._closing = True
        for worker in self._workers.values():
            verdict = None
            if worker.batch is not None:
                verdict = Died(worker.batch.batch_id, None, worker.pid, -signal.SIGKILL, "killed with its pool")
            self._condemn(worker, time.monotonic(), verdict)
        outcomes = self._wait_for_all(math.inf)
        self._selector.close()
        self._selector = None
        atexit.unregister(self.kill)
        return outcomes

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    # ---- work

    def submit(self, batch_id: int, items: Sequence[Item]) -> None:
        """Give a batch to an idle worker. Call only while `idle` is above 0."""
        self._check_thread()
        payload = child.BATCH + pickle.dumps(items, child.PICKLE_PROTOCOL)
        if self._closing or not self._dispatch(_Batch(batch_id, len(items), payload)):
            raise RuntimeError(f"no idle worker in the {self.name} pool")

    def reconfigure(self, settings: object) -> None:
        """Let every batch from now on be done with other settings; those under way end with the old ones."""
        self._settings = child.SETTINGS + pickle.dumps(settings, child.PICKLE_PROTOCOL)
        self._edition += 1

    def cancel(self, batch_id: int) -> None:
        """End a batch by ending its worker; `poll` will tell that it died, or else what became of it before."""
        self._check_thread()
        for worker in self._workers.values():
            if worker.batch is not None and worker.batch.batch_id == batch_id and not worker.dying:
                verdict = Died(batch_id, None, worker.pid, -signal.SIGKILL, "killed, since its work was called back")
                self._condemn(worker, time.monotonic(), verdict)

    def poll(self, now: float) -> list[Outcome[Result]]:
        """Return what has happened since the last call: never waits, replaces what is lost.

        Raises EngineError when workers can't be started at all.
        """
        self._check_thread()
        assert self._selector is not None
        outcomes, self._untold = self._untold, []
        for key, ready in self._selector.select(0):
            worker: _Worker = key.data
            if ready & selectors.EVENT_WRITE:
                self._flush(worker)
            if ready & selectors.EVENT_READ:
                self._read(worker, now, outcomes)
        for worker in list(self._workers.values()):
            self._enforce(worker, now)
            if worker.dying:
                self._bury(worker, now, outcomes)
        self._unreaped = [process for process in self._unreaped if not _reap(process)]
        if self._closing:
            cause = "its worker was lost before it began, while the pool was closing"
            outcomes += [Died(batch.batch_id, None, 0, None, cause) for batch in self._untaken]
            self._untaken.clear()
        elif self._fatal and not outcomes:  # what has finished is told first
            raise EngineError(f"The {self.name} pool can't start a worker, {self._failures} times: {self._fatal}")
        else:
            self._fill(now, outcomes)
            while self._untaken and self._dispatch(self._untaken[0]):
                self._untaken.popleft()
        return outcomes

    def next_deadline(self) -> float | None:
        """Return the monotonic second at which `poll` must be called at the latest, None if nothing is due."""
        due = min((self._due(worker) for worker in self._workers.values()), default=math.inf)
        if self._selector is not None and not self._closing:
            if self._fatal:
                due = -math.inf
            elif len(self._workers) < self.size:
                due = min(due, self._start_at)
        return None if due == math.inf else max(due, 0.0)

    def fileno(self) -> int:
        """Return the descriptor that is readable when `poll` has something to do."""
        assert self._selector is not None, "start() comes first"
        return self._selector.fileno()

    # ---- questions

    @property
    def ready(self) -> int:
        """How many workers have loaded their entry and live."""
        return sum(not worker.dying and worker.state is not _State.STARTING for worker in self._workers.values())

    @property
    def idle(self) -> int:
        """How many batches `submit` would take now."""
        return sum(not worker.dying and worker.state is _State.IDLE for worker in self._workers.values())

    @property
    def counts(self) -> Counts:
        """What has been started, replaced and lost so far."""
        return Counts(self._started, self._replaced, self._lost_idle)

    def describe(self, now: float) -> dict[str, Any]:
        """Return the pool as a person would ask for it, in plain words and numbers."""
        return {
            "name": self.name,
            "size": self.size,
            "ready": self.ready,
            "idle": self.idle,
            "started": self._started,
            "replaced": self._replaced,
            "lost_idle": self._lost_idle,
            "unkillable": len(self._unreaped),
            "start_failure": self._failure_told,
            "workers": [_describe(worker, now) for _, worker in sorted(self._workers.items())],
        }

    # ---- workers come

    def _fill(self, now: float, outcomes: list[Outcome[Result]]) -> None:
        for slot in range(self.size):
            if slot not in self._workers and now >= self._start_at:
                try:
                    self._start_worker(slot, now)
                except OSError:  # no process, memory or descriptor to be had
                    self._start_failed(self._wave, traceback.format_exc(), now, outcomes)

    def _start_worker(self, slot: int, now: float) -> None:
        assert self._selector is not None
        assert self._context.get_start_method() == "spawn"  # docs/decisions/0002-own-pool.md says what fork does
        ours, theirs = socket.socketpair()
        progress = None
        try:
            progress = child.Progress()
            job = child.Job(f"nl-{self.name}-{slot}", self._entry, os.getpid(), self._memory_mb)
            process = self._context.Process(target=child.main, args=(theirs, progress, job), daemon=True)
            with _quiet_birth():
                process.start()
            progress.handed_over()
        except BaseException:
            ours.close()
            if progress is not None:
                progress.close()
            raise
        finally:
            theirs.close()  # else the end of the worker would not end the pipe
        ours.setblocking(False)
        worker = _Worker(slot, self._wave, process.pid or 0, process, ours, progress, now, self._edition)
        self._workers[slot] = worker
        self._selector.register(ours, selectors.EVENT_READ, worker)
        self._started += 1
        # The settings go through the pipe, not the arguments: unpickled there, they would import their modules before
        # the worker has set its environment.
        self._send(worker, self._settings)

    def _start_failed(self, wave: int, cause: str, now: float, outcomes: list[Outcome[Result]]) -> None:
        if wave == self._wave:  # those that were started together fail together, and count once
            self._wave += 1
            self._failures += 1
            self._start_at = now + min(FIRST_PAUSE_S * 2 ** (self._failures - 1), LONGEST_PAUSE_S)
        if cause != self._failure_told:
            self._failure_told = cause
            outcomes.append(StartFailed(cause, max(0.0, self._start_at - now)))
        if self._failures >= START_ATTEMPTS and not self.ready:
            self._fatal = cause

    # ---- messages

    def _dispatch(self, batch: _Batch) -> bool:
        for worker in self._workers.values():
            if worker.state is _State.IDLE and not worker.dying:
                worker.state = _State.BUSY
                worker.batch = batch
                worker.starved_until = 0.0
                found = _stat(worker.pid)
                worker.cpu_s = found[1] if found is not None else 0.0
                worker.progress.mark(child.NOT_TAKEN)
                worker.busy_since = worker.progress.read()[1]
                if worker.edition != self._edition:
                    worker.edition = self._edition
                    self._send(worker, self._settings)
                self._send(worker, batch.payload)
                return True
        return False

    def _send(self, worker: _Worker, payload: bytes) -> None:
        worker.outbox += child.FRAME.pack(len(payload)) + payload
        self._flush(worker)

    def _flush(self, worker: _Worker) -> None:
        assert self._selector is not None
        waited = self._selector.get_key(worker.channel).events & selectors.EVENT_WRITE
        try:
            del worker.outbox[: worker.channel.send(worker.outbox)]
        except BlockingIOError:
            pass
        except OSError:  # nobody at the other end, which the next read tells
            worker.outbox.clear()
        wanted = selectors.EVENT_WRITE if worker.outbox else 0
        if wanted != waited:
            self._selector.modify(worker.channel, selectors.EVENT_READ | wanted, worker)

    def _read(self, worker: _Worker, now: float, outcomes: list[Outcome[Result]]) -> None:
        assert self._selector is not None
        try:
            chunk = worker.channel.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._selector.unregister(worker.channel)
            worker.kill_at = min(worker.kill_at, now + GONE_S)
            worker.dying = True
            return
        inbox = worker.inbox
        inbox += chunk
        while not worker.dying and len(inbox) >= child.FRAME.size:
            end = child.FRAME.size + child.FRAME.unpack_from(inbox)[0]
            if len(inbox) < end:
                break
            frame = bytes(memoryview(inbox)[child.FRAME.size : end])
            del inbox[:end]
            self._hear(worker, frame, now, outcomes)

    def _hear(self, worker: _Worker, frame: bytes, now: float, outcomes: list[Outcome[Result]]) -> None:
        try:
            kind, value = pickle.loads(frame)  # noqa: S301 -- from a worker of ours
        except Exception:  # noqa: BLE001 -- whatever a result's own class does when it is unpickled
            kind, value = child.RAISED, f"The answer can't be read.\n{traceback.format_exc()}"
        batch = worker.batch
        item = worker.item_at(worker.progress.read()[0])
        if kind == child.READY:
            worker.state = _State.IDLE
            self._failures = 0
            self._failure_told = self._fatal = ""
        elif kind == child.NO_START or batch is None:
            worker.words = str(value)
            self._condemn(worker, now)
        elif kind == child.FINISHED:
            worker.state = _State.IDLE
            worker.batch = None
            outcomes.append(Finished(batch.batch_id, value))
        elif kind == child.OUT_OF_MEMORY:
            self._condemn(worker, now, OutOfMemory(batch.batch_id, item, worker.pid, value))
        else:
            self._condemn(worker, now, Raised(batch.batch_id, item, worker.pid, value))

    # ---- workers go

    def _enforce(self, worker: _Worker, now: float) -> None:
        if worker.dying:
            if now >= worker.kill_at:
                self._condemn(worker, now)
        elif worker.state is _State.STARTING:
            if now - worker.started_at >= START_TIMEOUT_S:
                worker.words = f"did not load {self._entry} within {START_TIMEOUT_S:g} s"
                self._condemn(worker, now)
        elif worker.batch is not None:
            mark = worker.progress.read()
            after_s = now - mark[1]
            if after_s >= self._timeout_s and now >= worker.starved_until:
                if worker.progress.read() != mark:  # it got on at this very moment
                    return
                if after_s < PATIENT_TIMES * self._timeout_s and worker.is_starved(self._timeout_s):
                    worker.starved_until = now + self._timeout_s / 10
                    return
                verdict = None
                if mark[0] == child.NOT_TAKEN:
                    worker.words = f"did not take its batch within {self._timeout_s:g} s"
                else:
                    verdict = TimedOut(worker.batch.batch_id, worker.item_at(mark[0]), worker.pid, after_s)
                self._condemn(worker, now, verdict)
            elif self._memory_mb is not None and after_s >= RSS_AFTER_S and now >= worker.rss_due:
                worker.rss_due = now + RSS_EVERY_S
                if (rss_mb := worker.rss_mb()) > self._memory_mb:
                    cause = f"took {rss_mb} MiB of memory, {self._memory_mb} are allowed"
                    item = worker.item_at(mark[0])
                    self._condemn(worker, now, OutOfMemory(worker.batch.batch_id, item, worker.pid, cause))

    def _condemn(self, worker: _Worker, now: float, verdict: Verdict | None = None) -> None:
        # SIGKILL at once: a worker that holds the interpreter lock in native code answers to nothing else.
        worker.process.kill()
        worker.dying = True
        worker.verdict = worker.verdict or verdict
        worker.kill_at = math.inf
        worker.give_up_at = min(worker.give_up_at, now + UNKILLABLE_S)

    def _bury(self, worker: _Worker, now: float, outcomes: list[Outcome[Result]]) -> None:
        assert self._selector is not None
        exitcode = worker.process.exitcode
        worker.look_at = now + REAP_EVERY_S
        if exitcode is None and now < worker.give_up_at:
            return
        del self._workers[worker.slot]
        index, note = worker.progress.read()[0], worker.progress.note()
        with suppress(KeyError):  # its pipe has ended before
            self._selector.unregister(worker.channel)
        worker.channel.close()
        worker.progress.close()
        if not _reap(worker.process):
            self._unreaped.append(worker.process)
        self._replaced += not self._closing

        batch = worker.batch
        cause = worker.words or _cause(exitcode)
        if worker.verdict is not None:
            outcomes.append(
                replace(worker.verdict, note=note) if worker.verdict.item_index == index else worker.verdict
            )
        elif batch is not None and index != child.NOT_TAKEN:
            outcomes.append(Died(batch.batch_id, worker.item_at(index), worker.pid, exitcode, cause, note))
        elif self._closing:
            pass
        elif worker.state is _State.STARTING:
            self._start_failed(worker.wave, cause, now, outcomes)
        else:
            self._lost_idle += 1
            outcomes.append(WorkerLost(worker.pid, exitcode, cause))
        if batch is not None and index == child.NOT_TAKEN and worker.verdict is None:
            self._untaken.append(batch)

    def _due(self, worker: _Worker) -> float:
        if worker.dying:
            return worker.look_at
        if worker.state is _State.STARTING:
            return worker.started_at + START_TIMEOUT_S
        if worker.batch is None:
            return math.inf
        began = worker.progress.read()[1]
        limit = max(began + self._timeout_s, worker.starved_until)
        if self._memory_mb is None:
            return limit
        return min(limit, max(began + RSS_AFTER_S, worker.rss_due))

    def _wait_for_all(self, deadline: float) -> list[Outcome[Result]]:
        assert self._selector is not None
        outcomes: list[Outcome[Result]] = []
        while self._workers and (now := time.monotonic()) < deadline:
            outcomes += self.poll(now)
            if self._workers:
                due = self.next_deadline()
                until = deadline if due is None else min(deadline, due)
                self._selector.select(max(0.0, until - time.monotonic()))
        return outcomes

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError(f"the {self.name} pool belongs to the thread that started it, which must outlive it")


@contextmanager
def _quiet_birth() -> Iterator[None]:
    """Keep two things from a worker that is being started: Ctrl-C, and the parent's `__main__`.

    Between exec and its first line the worker would answer to Ctrl-C with a traceback, so it inherits a mask. And
    multiprocessing would have it import the program that runs here, be it `pytest` or the command line.
    """
    resource_tracker.ensure_running()  # multiprocessing's own process; its first start would undo the mask
    main = sys.modules["__main__"]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _reap(process: SpawnProcess) -> bool:
    if process.exitcode is None:
        return False
    process.close()
    return True


def _cause(exitcode: int | None) -> str:
    if exitcode is None:
        return f"hangs in the kernel and did not end within {UNKILLABLE_S:g} s of SIGKILL"
    if exitcode >= 0:
        return f"left with exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    return {
        "SIGKILL": "killed by SIGKILL, not by this program: by the kernel for want of memory, or by a person",
        "SIGABRT": "aborted (SIGABRT): native code gave up, often because an allocation failed",
        "SIGSEGV": "crashed in native code (SIGSEGV)",
        "SIGBUS": "crashed in native code (SIGBUS): often a mapped file that was shortened",
    }.get(name, f"killed by {name}")


def _describe(worker: _Worker, now: float) -> dict[str, Any]:
    said: dict[str, Any] = {"slot": worker.slot, "pid": worker.pid, "rss_mb": worker.rss_mb()}
    said["state"] = "dying" if worker.dying else worker.state.value
    if worker.batch is not None:
        index, began = worker.progress.read()
        said |= {
            "batch_id": worker.batch.batch_id,
            "items": worker.batch.size,
            "item_index": worker.item_at(index),
            "busy_s": round(now - worker.busy_since, 3),
            "item_s": round(now - began, 3),
        }
    return said
