"""Hints from the kernel: something happened to this path. They may come twice, late, or never.

Whatever is lost is found by the scan; a hint only makes it sooner. Judges nothing, opens nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.inotify import InotifyObserver

STOP_S = 5.0
MOST_HINTS = 100_000
"""More hints than this are not kept: a scan is cheaper than to work them off."""

# `closed` alone would miss what is moved or linked in; filters match exact classes, so each is named.
_CLASSES: list[type[FileSystemEvent]] = [
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]


class Kind(Enum):
    """What a hint speaks of."""

    APPEARED = "appeared"
    CLOSED = "closed"  # a writer has closed the file
    GONE = "gone"
    FOLDERS = "folders"  # folders were made, moved or removed: scan
    LOST = "lost"  # the kernel dropped events: scan


@dataclass(frozen=True, slots=True)
class Hint:
    """Something happened to a path, relative to raw."""

    kind: Kind
    path: bytes = b""


class Watch:
    """inotify on a folder, given without links, and all below it; hints gather until `take`."""

    def __init__(self, root: Path, wake: Callable[[], None]) -> None:
        self._root = os.fsencode(root)
        self._wake = wake
        self._hints: deque[Hint] = deque()
        self._observer: InotifyObserver | None = None
        self._overflow = _OverflowHandler(self._lost)
        self._lock = threading.Lock()
        self._up = threading.Event()
        self._unwanted = False
        self.failure: OSError | None = None  # why there is no watch: the root is missing, the kernel's limits reached

    def start(self, limit_s: float) -> None:
        """Begin to watch, in a thread, since every folder is walked and a share may keep that waiting for ever.

        Waits for it up to the limit; `ready` tells whether it has come to an end, `failure` to which.
        """
        threading.Thread(target=self._set_up, name="set up the watch", daemon=True).start()
        self._up.wait(limit_s)

    @property
    def ready(self) -> bool:
        """Whether the watch is up, or can't be had."""
        return self._up.is_set()

    def _set_up(self) -> None:
        try:
            observer = self._observe()
            with self._lock:
                wanted = not self._unwanted
                self._observer = observer if wanted else None
            if not wanted:
                self._end(observer)
        except OSError as error:
            self.failure = error
        finally:
            self._up.set()  # whatever else went wrong: a watch that is not alive is set up again
            self._wake()

    def _observe(self) -> InotifyObserver:
        # A new folder races with the watch put on it. watchdog copes, but warns with megabytes of text; were warnings
        # errors, its reader thread would die of it and go on looking alive.
        warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)
        logging.getLogger("watchdog.observers.inotify_c").addHandler(self._overflow)
        observer = InotifyObserver()
        try:
            observer.schedule(_Handler(self), os.fsdecode(self._root), recursive=True, event_filter=_CLASSES)
            observer.start()
        except BaseException:
            logging.getLogger("watchdog.observers.inotify_c").removeHandler(self._overflow)
            raise
        return observer

    def stop(self) -> None:
        """End the watch, within a limit."""
        with self._lock:
            self._unwanted = True
            observer, self._observer = self._observer, None
        if observer is not None:
            self._end(observer)

    def _end(self, observer: InotifyObserver) -> None:
        logging.getLogger("watchdog.observers.inotify_c").removeHandler(self._overflow)
        observer.stop()
        observer.join(STOP_S)

    @property
    def alive(self) -> bool:
        """Whether all threads of the observer are at work; it would say so itself even when they are not."""
        observer = self._observer
        return (
            observer is not None
            and observer.is_alive()
            and bool(observer.emitters)
            and all(emitter.is_alive() for emitter in observer.emitters)
        )

    def count(self) -> int | None:
        """Count the folders that the kernel really watches for this process; None where it does not tell."""
        try:
            infos = [info.read_text() for info in Path("/proc/self/fdinfo").iterdir() if _is_inotify(info.name)]
        except OSError:
            return None
        return sum(info.count("inotify wd:") for info in infos)

    def take(self, most: int) -> list[Hint]:
        """Give the oldest hints, at most so many."""
        taken: list[Hint] = []
        with contextlib.suppress(IndexError):  # the other thread may clear them meanwhile
            while len(taken) < most:
                taken.append(self._hints.popleft())
        return taken

    def hint(self, kind: Kind, path: bytes | str = b"") -> None:
        """Keep a hint; called from the observer's thread, so it only puts it down."""
        relative = b""
        if path:
            relative = os.path.relpath(os.fsencode(path), self._root)
        if len(self._hints) >= MOST_HINTS:
            self._hints.clear()
            self._hints.append(Hint(Kind.LOST))
        self._hints.append(Hint(kind, relative))
        self._wake()

    def _lost(self) -> None:
        self.hint(Kind.LOST)


def _is_inotify(fd: str) -> bool:
    try:
        return str(Path("/proc/self/fd", fd).readlink()) == "anon_inode:inotify"
    except OSError:
        return False


class _Handler(FileSystemEventHandler):
    """Turns watchdog's events into hints. Must not raise: the observer's thread would die of it."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def dispatch(self, event: FileSystemEvent) -> None:
        hint = self._watch.hint
        match event:
            case FileClosedEvent():
                hint(Kind.CLOSED, event.src_path)
            case FileCreatedEvent():
                hint(Kind.APPEARED, event.src_path)
            case FileMovedEvent():
                if event.dest_path:
                    hint(Kind.APPEARED, event.dest_path)
                if event.src_path:
                    hint(Kind.GONE, event.src_path)
            case FileDeletedEvent():
                hint(Kind.GONE, event.src_path)
            case _:
                hint(Kind.FOLDERS, event.src_path)


class _OverflowHandler(logging.Handler):
    """watchdog tells of dropped events in its log alone."""

    def __init__(self, lost: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._call = lost

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage().lower():
            self._call()
