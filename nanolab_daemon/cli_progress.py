"""How far a pass has come: bars that move on a terminal, a plain line now and then elsewhere.

Looks at the engine's counts only, and never makes the work wait.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import TaskID

    from nanolab_daemon.tally import Tally

LINE_EVERY_S = 5.0
REFRESH_EVERY_S = 0.1


class Progress(Protocol):
    """Something that shows how far the work has come."""

    def show(self, tally: Tally, *, scanning: bool) -> None:
        """Show the counts, if it is time to."""


@contextlib.contextmanager
def progress(stream: TextIO, *, stage: bool, segment: bool) -> Iterator[Progress]:
    """Give what suits the stream, and leave it tidy at the end."""
    if stream.isatty():
        with _bars(stream, stage=stage, segment=segment) as bars:
            yield bars
    else:
        yield Lines(stream, stage=stage, segment=segment)


class Lines:
    """A plain line every few seconds."""

    def __init__(self, stream: TextIO, *, stage: bool, segment: bool, every_s: float = LINE_EVERY_S) -> None:
        self._stream = stream
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
            parts.append(_part("stage", tally.staged_done, tally.to_stage, "files", seconds))
        if self._segment:
            parts.append(_part("preprocess", tally.segmented_done, tally.to_segment, "runs", seconds))
        if self._stage:
            parts.append(f"scan{' so far' if scanning else ''}: {tally.found:,} files, {tally.known:,} known")
        return "; ".join(parts)


def _part(name: str, done: int, total: int, things: str, seconds: float) -> str:
    return f"{name}: {done:,} of {total:,} {things} ({done / max(seconds, 0.001):.0f}/s)"


@contextlib.contextmanager
def _bars(stream: TextIO, *, stage: bool, segment: bool) -> Iterator[Progress]:
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
        shown = Bars(bars, first, second)
        yield shown
        shown.last()


class Bars:
    """A bar for each stage. The first one's total grows while the scan goes on."""

    def __init__(self, bars: object, first: TaskID | None, second: TaskID | None) -> None:
        from rich.progress import Progress as RichProgress

        assert isinstance(bars, RichProgress)
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
        if self._tally is not None:
            self._draw(self._tally, time.monotonic() - self._began, scanning=False)

    def _draw(self, tally: Tally, seconds: float, *, scanning: bool) -> None:
        note = f"{tally.found:,} found, {tally.known:,} known{' …' if scanning else ''}"
        if self._first is not None:
            self._update(self._first, tally.staged_done, tally.to_stage, "files", seconds, note)
        if self._second is not None:
            self._update(self._second, tally.segmented_done, tally.to_segment, "runs", seconds, "")
        self._bars.refresh()

    def _update(self, task: TaskID, done: int, total: int, things: str, seconds: float, note: str) -> None:
        rate = f"{done / max(seconds, 0.001):.0f} {things}/s"
        # An empty total would draw a bar that is full; none at all draws one that says "unknown yet".
        self._bars.update(task, completed=done, total=total or None, rate=rate, note=note)
