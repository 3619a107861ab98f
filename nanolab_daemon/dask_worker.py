"""What a Dask worker does for the daemon: it hands batches to a pool of processes of its own, and says what it sees.

The pool is the one that works on a single machine (`pool`), so time limits, memory limits and the finding of culprits
are the same; a file that kills its process never kills the Dask worker. Loaded there by name; reads no configuration.
"""

from __future__ import annotations

import os
import pickle
import platform
import queue
import secrets
import selectors
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanolab_daemon import __version__, publish
from nanolab_daemon.pool import Pool
from nanolab_daemon.wakeup import Wakeup
from nanolab_daemon.workpool import Outcome, Returned, StartFailed, WorkerLost

STAGES = {
    "nanolab_stage": "nanolab_daemon.stage:stage_batch",
    "nanolab_segment": "nanolab_daemon.segment:segment_batch",
}
"""A Dask resource, of which a worker offers as many as it has processes for that stage, and what these run."""

DIGEST = "nanolab-beacon"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker process may take for one item."""

    timeout_s: float
    memory_mb: int | None


@dataclass(frozen=True, slots=True)
class Task:
    """One batch, as it travels: `settings` and `items` are pickled, `edition` tells settings from others."""

    resource: str
    processes: int  # where nothing else is known: how many the pool is to have
    limits: Limits
    edition: str
    settings: bytes
    items: bytes


@dataclass(frozen=True, slots=True)
class Question:
    """What a worker is asked before it gets work. Paths are absolute, in the worker's own names."""

    version: str
    raw_root: str
    raw_names: tuple[bytes, ...]  # of which one at least must be there
    beacons: tuple[tuple[str, str], ...]  # files in the folders that are written, and what stands in each


def work(task: bytes) -> bytes:
    """Do one batch, and give, pickled, the worker's address and the outcome: `Finished`, a verdict, or `Returned`.

    Runs in a Dask worker.
    """
    from distributed import get_worker

    asked: Task = pickle.loads(task)  # noqa: S301 -- from the daemon
    outcome = _foreman(asked).do(asked)
    return pickle.dumps((get_worker().address, outcome), pickle.HIGHEST_PROTOCOL)


def look(question: bytes) -> str:
    """Say in words what keeps this Dask worker from being used; empty if nothing does."""
    asked: Question = pickle.loads(question)  # noqa: S301 -- from the daemon
    if asked.version != __version__:
        return f"it has nanolab-daemon {__version__}, the daemon is {asked.version}: install the same"
    if multiprocessing_forbids_children():
        return "it runs below a nanny, which forbids it processes of its own: start it with --no-nanny"
    try:
        return _raw_fault(asked) or next((fault for path, word in asked.beacons if (fault := _fault(path, word))), "")
    except OSError as error:
        return f"{error.filename}: {error.strerror}"


def multiprocessing_forbids_children() -> bool:
    """Tell whether this process may not have children, since it is a daemonic one."""
    from multiprocessing import current_process

    return bool(current_process().daemon)


def _raw_fault(asked: Question) -> str:
    if not os.path.isdir(asked.raw_root):  # noqa: PTH112
        return f"it does not see the raw folder {asked.raw_root} (pools.path_map names it otherwise)"
    root = os.fsencode(asked.raw_root)
    if asked.raw_names and not any(os.path.lexists(os.path.join(root, name)) for name in asked.raw_names):
        return f"its {asked.raw_root} is another folder than the daemon's: nothing in it has the same name"
    return ""


def _fault(path: str, word: str) -> str:
    """Tell whether a folder of ours is the very one, and can be written."""
    folder = Path(path).parent
    try:
        found = Path(path).read_text()
    except FileNotFoundError:
        root = folder.parent.parent
        return f"it does not see {root}, or another folder by that name (pools.path_map names it otherwise)"
    if found != word:
        return f"its {folder} is another folder than the daemon's"
    trial = folder / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}-try"
    trial.touch(exist_ok=False)
    trial.unlink()
    return ""


def write_beacon(root: Path, owner: str) -> tuple[str, str]:
    """Leave a file in a temporary folder by which a worker knows that it sees the same one; give it and its word."""
    word = secrets.token_hex(16)
    path = publish.temp_folder(root, owner) / f"{DIGEST}-{word[:8]}"
    path.write_text(word)
    return str(path), word


class Foreman:
    """Owns one pool of processes in a thread of its own; the threads of Dask hand batches to it and wait."""

    def __init__(self, task: Task, processes: int) -> None:
        self._task = task
        self._processes = processes
        self._edition = task.edition
        self._inbox: queue.SimpleQueue[tuple[Task, queue.SimpleQueue[Outcome[Any]]]] = queue.SimpleQueue()
        self._wakeup = Wakeup()
        self._failure = ""
        # The kernel ends the processes when this thread ends, so it has to live as long as the Dask worker.
        self._thread = threading.Thread(target=self._run, name=f"foreman {task.resource}", daemon=True)
        self._thread.start()

    def do(self, task: Task) -> Outcome[Any]:
        """Have a batch done; waits for it."""
        answer: queue.SimpleQueue[Outcome[Any]] = queue.SimpleQueue()
        self._inbox.put((task, answer))
        self._wakeup.call()
        return answer.get()

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self._thread.is_alive()

    def _run(self) -> None:
        waiting: deque[tuple[Task, queue.SimpleQueue[Outcome[Any]]]] = deque()
        out: dict[int, queue.SimpleQueue[Outcome[Any]]] = {}
        try:
            self._serve(waiting, out)
        except Exception as error:  # noqa: BLE001 -- its edge: whoever waits must be told
            words = f"{platform.node()}: {error}"
            for answer in out.values():
                answer.put(Returned(0, words))
            while not self._inbox.empty():
                waiting.append(self._inbox.get())
            for _, answer in waiting:
                answer.put(Returned(0, words))

    def _serve(
        self,
        waiting: deque[tuple[Task, queue.SimpleQueue[Outcome[Any]]]],
        out: dict[int, queue.SimpleQueue[Outcome[Any]]],
    ) -> None:
        first = self._task
        pool: Pool[Any, Any] = Pool(
            first.resource,
            STAGES[first.resource],
            workers=self._processes,
            settings=pickle.loads(first.settings),  # noqa: S301 -- from the daemon
            task_timeout_s=first.limits.timeout_s,
            task_memory_mb=first.limits.memory_mb,
        )
        serial = 0
        with pool, selectors.DefaultSelector() as selector:
            selector.register(pool, selectors.EVENT_READ)
            selector.register(self._wakeup, selectors.EVENT_READ)
            while True:
                due = pool.next_deadline()
                selector.select(None if due is None else max(0.0, due - time.monotonic()))
                self._wakeup.clear()
                while not self._inbox.empty():
                    waiting.append(self._inbox.get())
                for outcome in pool.poll(time.monotonic()):
                    if not isinstance(outcome, WorkerLost | StartFailed):
                        out.pop(outcome.batch_id).put(replace(outcome, batch_id=0))
                while waiting and pool.idle:
                    task, answer = waiting.popleft()
                    if task.edition != self._edition:
                        self._edition = task.edition
                        pool.reconfigure(pickle.loads(task.settings))  # noqa: S301 -- from the daemon
                    serial += 1
                    out[serial] = answer
                    pool.submit(serial, pickle.loads(task.items))  # noqa: S301 -- from the daemon


_foremen: dict[tuple[str, Limits], Foreman] = {}
_lock = threading.Lock()


def _foreman(task: Task) -> Foreman:
    with _lock:
        key = (task.resource, task.limits)
        foreman = _foremen.get(key)
        if foreman is None or not foreman.alive:
            foreman = _foremen[key] = Foreman(task, _processes(task))
        return foreman


def _processes(task: Task) -> int:
    """Tell how many of a stage's batches Dask gives this worker at a time: as many as it offers of the resource."""
    from distributed import get_worker

    try:
        offered = get_worker().state.total_resources.get(task.resource, 0)
    except ValueError:  # not in a Dask worker
        offered = 0
    return max(1, int(offered) or task.processes)
