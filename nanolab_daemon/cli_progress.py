"""How far a pass has come: bars that move on a terminal, a plain line now and then elsewhere.

Looks at the engine's counts and at the names below raw, and never makes the work wait.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from nanolab_daemon.settings import counted

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

    from nanolab_daemon.scan import NameTest
    from nanolab_daemon.tally import Tally

LINE_EVERY_S = 5.0
REFRESH_EVERY_S = 0.1


class Progress(Protocol):
    """Something that shows how far the work has come."""

    def show(self, tally: Tally, *, scanning: bool) -> None:
        """Show the counts, if it is time to."""


class Count:
    """Counts the files below raw by name alone, ahead of the scan, which goes no faster than the work.

    Only for an honest total: what it misses or counts too much does no harm.
    """

    def __init__(self, root: Path, test: NameTest, *, wanted: bool = True) -> None:
        self.files = 0
        self._wanted = wanted
        self._root = os.fsencode(root)
        self._test = test
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="count", daemon=True)  # a dead share may hold it

    def __enter__(self) -> Count:
        if self._wanted:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True

    def _run(self) -> None:
        waiting = [b""]
        while waiting and not self._stopped:
            folder = waiting.pop()
            with contextlib.suppress(OSError), os.scandir(os.path.join(self._root, folder)) as entries:
                for entry in entries:
                    path = os.path.join(folder, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)
                    elif entry.is_file(follow_symlinks=False) and self._test(path):
                        self.files += 1


def _nothing() -> int:
    return 0


@contextlib.contextmanager
def progress(
    stream: TextIO, *, stage: bool, segment: bool, counted: Callable[[], int] = _nothing
) -> Iterator[Progress]:
    """Give what suits the stream, and leave it tidy at the end. `counted` tells how many files there will be."""
    if stream.isatty():
        with _bars(stream, counted, stage=stage, segment=segment) as bars:
            yield bars
    else:
        yield Lines(stream, counted, stage=stage, segment=segment)


def _total(tally: Tally, counted: int) -> int:
    """Give how many files the first stage has to look into: those that the scan has met, and those it has not yet."""
    return max(tally.to_stage, counted - tally.known)


class Lines:
    """A plain line every few seconds."""

    def __init__(
        self,
        stream: TextIO,
        counted: Callable[[], int] = _nothing,
        *,
        stage: bool,
        segment: bool,
        every_s: float = LINE_EVERY_S,
    ) -> None:
        self._stream = stream
        self._counted = counted
        self._stage = stage
        self._segment = segment
        self._every_s = every_s
        self._began = self._last = time.monotonic()

    def show(self, tally: Tally, *, scanning: bool) -> None:
        """Write a line if the last one is old enough."""
        now = time.monotonic()
        if now - self._last < self._every_s:
            return
        self._last = now
        self._stream.write(f"{self._line(tally, now - self._began, scanning=scanning)}\n")
        self._stream.flush()

    def _line(self, tally: Tally, seconds: float, *, scanning: bool) -> str:
        parts = [f"{seconds:.0f} s"]
        if self._stage:
            parts.append(_part("stage", tally.staged_done, _total(tally, self._counted()), "files", seconds))
        if self._segment:
            parts.append(_part("preprocess", tally.segmented_done, tally.to_segment, "runs", seconds))
        if self._stage:
            parts.append(
                f"scan{' so far' if scanning else ''}: {counted(tally.found, 'file')}, {tally.known:,} known"
            )
        return "; ".join(parts)


def _part(name: str, done: int, total: int, things: str, seconds: float) -> str:
    return f"{name}: {done:,} of {total:,} {things} ({done / max(seconds, 0.001):.0f}/s)"


@contextlib.contextmanager
def _bars(stream: TextIO, counted: Callable[[], int], *, stage: bool, segment: bool) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    # No thread of its own: the engine's loop refreshes it, so that a bar which moves means work that goes on.
    bars = RichProgress(
        SpinnerColumn(),
        TextColumn("{task.description:<11}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
        console=Console(file=stream),
        auto_refresh=False,
        expand=True,
    )
    first = bars.add_task("stage", total=None, rate="", note="") if stage else None
    second = bars.add_task("preprocess", total=None, rate="", note="") if segment else None
    with bars:
        shown = Bars(bars, first, second, counted)
        yield shown
        shown.last()


class Bars:
    """A bar for each stage. The first one's total grows while the scan goes on."""

    def __init__(
        self, bars: RichBars, first: TaskID | None, second: TaskID | None, counted: Callable[[], int]
    ) -> None:
        self._counted = counted
        self._bars = bars
        self._first = first
        self._second = second
        self._began = time.monotonic()
        self._drawn = 0.0
        self._tally: Tally | None = None

    def show(self, tally: Tally, *, scanning: bool) -> None:
        """Draw, unless that was done a moment ago."""
        self._tally = tally
        now = time.monotonic()
        if now - self._drawn < REFRESH_EVERY_S:
            return
        self._drawn = now
        self._draw(tally, now - self._began, scanning=scanning)

    def last(self) -> None:
        """Draw the end, which came between two refreshes."""
        self._counted = _nothing  # the scan has met them all
        if self._tally is not None:
            self._draw(self._tally, time.monotonic() - self._began, scanning=False)

    def _draw(self, tally: Tally, seconds: float, *, scanning: bool) -> None:
        note = f"{tally.found:,} found, {tally.known:,} known{' …' if scanning else ''}"
        if self._first is not None:
            self._update(self._first, tally.staged_done, _total(tally, self._counted()), "files", seconds, note)
        if self._second is not None:
            self._update(self._second, tally.segmented_done, tally.to_segment, "runs", seconds, "")
        self._bars.refresh()

    def _update(self, task: TaskID, done: int, total: int, things: str, seconds: float, note: str) -> None:
        rate = f"{done / max(seconds, 0.001):.0f} {things}/s"
        # An empty total would draw a bar that is full; none at all draws one that says "unknown yet".
        self._bars.update(task, completed=done, total=total or None, rate=rate, note=note)
