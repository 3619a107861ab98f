"""The child side of a pool: takes batches from its own pipe, runs the stage's handler on them, answers.

It decides nothing: no retries, no time limits, no second job. Standard library only, until the entry is imported.
"""

from __future__ import annotations

import faulthandler
import importlib
import mmap
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, TypeAlias

Began: TypeAlias = Callable[..., None]  # an item's index, then perhaps a note about it, as bytes
Handler: TypeAlias = Callable[[Sequence[Any], Began], Sequence[Any]]
Factory: TypeAlias = Callable[[Any], Handler]

# What a worker is told: a kind, then a pickle.
SETTINGS = b"S"  # the first message, and again when they change
BATCH = b"B"

# What a worker answers: (kind, value), pickled.
READY = "ready"  # value None: the entry is loaded
NO_START = "no_start"  # value text: it can't be loaded
FINISHED = "finished"  # value: the results, one an item
RAISED = "raised"  # value text: an exception left the handler
OUT_OF_MEMORY = "out_of_memory"  # value text: a MemoryError left the handler

# What the progress word says besides the index of an item.
NOT_TAKEN = -2
TAKEN = -1

FRAME = struct.Struct("<Q")  # each message is its length, then a pickle
PICKLE_PROTOCOL = 5
MIB = 1 << 20

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
# A worker that feeds the watchdog or answers for the main process in systemd's eyes would be a liar.
PARENTS_ENVIRONMENT = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "FDSTORE",
    "MAINPID",
    "MANAGERPID",
)
# One thread a worker: the pool is the parallelism.
_ONE_THREAD = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_OOM_SCORE = b"500"
_NOTE_AT = 24  # in the page of progress, after three words
# Stacks of threads and arenas that Polars and Arrow map at their first work and hardly use: 230 MiB measured.
_MAPPED_UNUSED_MB = 512


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is told at its birth. Plain words only: this is unpickled before the environment is set."""

    name: str
    entry: str
    parent_pid: int
    memory_mb: int | None


class Progress:
    """A page of memory shared by a worker and its parent: the item at work, since when, and a note about it.

    Marking is a store, not a system call, and what was stored outlives the worker however it dies. The clock is
    CLOCK_MONOTONIC, the same in both processes.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._fd = os.memfd_create("nanolab-progress") if fd is None else fd
        if fd is None:
            os.ftruncate(self._fd, mmap.PAGESIZE)
        self._map = mmap.mmap(self._fd, mmap.PAGESIZE)
        self._words = memoryview(self._map).cast("q")

    def __reduce__(self) -> tuple[object, ...]:
        return _attach, (DupFd(self._fd),)

    def handed_over(self) -> None:
        """Close the descriptor, once the other process has the memory too."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def mark(self, index: int, note: bytes = b"", /) -> None:
        """Say that `index` begins now; if it is the one at work, only the note is taken."""
        self._words[2] = 0  # half a note is none
        if index != self._words[0]:
            # Time first: a reader between the two stores sees an item that looks too young, never too old.
            self._words[1] = time.monotonic_ns()
            self._words[0] = index
        if note:
            self._map[_NOTE_AT : _NOTE_AT + len(note)] = note
            self._words[2] = len(note)

    def note(self) -> bytes:
        """Return the note about the item last marked, which its worker may be about to change unless it is dead."""
        return self._map[_NOTE_AT : _NOTE_AT + self._words[2]]

    def read(self) -> tuple[int, float]:
        """Return the index last marked and the monotonic second at which it was."""
        return self._words[0], self._words[1] / 1e9

    def close(self) -> None:
        """Give the memory back. A second call does nothing."""
        if not self._map.closed:
            self._words.release()
            self._map.close()
            self.handed_over()


def _attach(dup: Any) -> Progress:
    progress = Progress(dup.detach())
    progress.handed_over()
    return progress


def main(channel: socket.socket, progress: Progress, job: Job) -> None:
    """Be a worker: load the entry, then answer each batch, until the parent closes its end of the pipe."""
    die_with_parent(job.parent_pid, job.name)
    with channel:
        _settle_in(channel)
        _serve(channel, progress, job)


def _serve(channel: socket.socket, progress: Progress, job: Job) -> None:
    try:
        message = _receive(channel)
        if message is None:
            return
        handler = _load(job.entry, message[1:])
        _limit_memory(job.memory_mb)
    except BaseException:  # noqa: BLE001 -- the worker's edge: the parent reports it
        _send(channel, NO_START, traceback.format_exc())
        return
    _send(channel, READY, None)
    while (message := _receive(channel)) is not None:
        if message[:1] == SETTINGS:
            try:
                handler = _load(job.entry, message[1:])
            except BaseException:  # noqa: BLE001 -- the worker's edge: the parent reports it
                _send(channel, RAISED, traceback.format_exc())
                return
            continue
        progress.mark(TAKEN)
        if not _answer(channel, handler, message[1:], progress):
            return  # the parent replaces it: nobody knows what state the handler is in


def die_with_parent(parent_pid: int, name: str) -> None:
    """Have the kernel end this process as soon as the thread that started it ends, however it does; take a name."""
    import ctypes  # only here: the parent imports this module and has no use for it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)
    libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def _settle_in(channel: socket.socket) -> None:
    # Ctrl-C and a closed terminal reach the whole process group; the parent alone decides when a worker leaves.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the parent blocked it while it started us
    channel.setblocking(True)
    channel.set_inheritable(False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null != 0:
        os.close(null)
    with suppress(OSError):
        os.dup2(2, 1)  # standard output belongs to the command
    with suppress(OSError, ValueError, RuntimeError, AttributeError):
        faulthandler.enable()
    with suppress(OSError):  # when the machine is short of memory, a worker should go, not the daemon
        Path("/proc/self/oom_score_adj").write_bytes(_OOM_SCORE)
    for key in PARENTS_ENVIRONMENT:
        os.environ.pop(key, None)
    for key in _ONE_THREAD:
        os.environ[key] = "1"
    sys.meta_path.insert(0, _WithoutPandas)


class _WithoutPandas:
    """Keeps pandas out: Arrow imports it, where it is installed, to ask whether a value is one of its.

    That would cost each worker half a second of its start and 30 MB. (An entry of None in `sys.modules`, which is
    meant for this, makes Arrow fail.)
    """

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("workers do without pandas", name=name)


def _load(entry: str, settings: bytes) -> Handler:
    module, _, attribute = entry.partition(":")
    factory: Factory = getattr(importlib.import_module(module), attribute)
    return factory(pickle.loads(settings))  # noqa: S301 -- from the parent


def _limit_memory(memory_mb: int | None) -> None:
    """Let a task that allocates without end fail here, before it hurts the machine.

    The limit on writable mappings leaves room for what the libraries map and don't use, so it is a coarse net for
    what grows too fast to be seen; the parent watches what is really resident.
    """
    if memory_mb is None:
        return
    pages = [int(word) for word in Path("/proc/self/statm").read_text().split()]
    resident_mb = pages[1] * mmap.PAGESIZE // MIB
    if resident_mb >= memory_mb:
        raise MemoryError(f"a worker needs {resident_mb} MiB before its first task, task_memory_mb is {memory_mb}")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = pages[5] * mmap.PAGESIZE + (memory_mb + _MAPPED_UNUSED_MB) * MIB
    resource.setrlimit(resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _answer(channel: socket.socket, handler: Handler, batch: bytes, progress: Progress) -> bool:
    try:
        items = pickle.loads(batch)  # noqa: S301 -- from the parent
        results = list(handler(items, progress.mark))
        if len(results) != len(items):
            raise RuntimeError(f"the handler returned {len(results)} results for {len(items)} items")
        frame = _frame(FINISHED, results)
    except MemoryError as error:
        traceback.clear_frames(error.__traceback__)  # lets go of what filled the memory
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        _send(channel, OUT_OF_MEMORY, traceback.format_exc())
        return False
    except BaseException:  # noqa: BLE001 -- the worker's edge: the parent reports it
        _send(channel, RAISED, traceback.format_exc())
        return False
    channel.sendall(frame)
    return True


def _frame(kind: str, value: object) -> bytes:
    payload = pickle.dumps((kind, value), PICKLE_PROTOCOL)
    return FRAME.pack(len(payload)) + payload


def _send(channel: socket.socket, kind: str, value: object) -> None:
    channel.sendall(_frame(kind, value))


def _receive(channel: socket.socket) -> bytes | None:
    """Wait for one message; None when the parent has closed its end."""
    head = _read(channel, FRAME.size)
    return None if head is None else _read(channel, FRAME.unpack(head)[0])


def _read(channel: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        chunk = channel.recv(min(size - len(data), MIB))
        if not chunk:
            return None
        data += chunk
    return bytes(data)
