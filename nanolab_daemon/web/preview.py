"""Files that are being measured: their curve so far, read without disturbing the writer, kept nowhere.

Each look opens the file, reads what was appended since the last one, and closes it. Nothing of it is published.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from nanolab_daemon.config import Config
from nanolab_daemon.errors import FileRejectedError, HeaderIncompleteError
from nanolab_daemon.header import parse_header
from nanolab_daemon.model import Expectation, Header
from nanolab_daemon.names import raw_path, shown_path
from nanolab_daemon.procedures import Registry
from nanolab_daemon.ramps import expectation
from nanolab_daemon.rawfile import open_below
from nanolab_daemon.web.curves import THUMB_POINTS, Axes, Values, axes, finite, thinned
from nanolab_daemon.web.index import chip_name

MOST_BYTES = 4 << 20
"""What is read of one file in one look; the rest waits for the next."""

MOST_POINTS = 20_000
MOST_FILES = 24


@dataclass(frozen=True, slots=True)
class Glimpse:
    """A measurement under way. `percent` is None where its header tells no end."""

    file: str
    proc: str
    chip: str
    rows: int
    percent: float | None
    goal: str  # "of 44 rows", "in 31 of 90 s", or empty
    axes: Axes | None
    x: Values = field(repr=False)
    y: Values = field(repr=False)
    last: tuple[float, float] | None = None


class Glance:
    """One file, looked at again and again."""

    def __init__(self, path: bytes, registry: Registry, max_header_bytes: int) -> None:
        self._path = path
        self._registry = registry
        self._max_header_bytes = max_header_bytes
        self._forget()

    def _forget(self) -> None:
        self._head = b""
        self._header: Header | None = None
        self._hope = Expectation()
        self._at = 0
        self._rows = 0
        self._stride = 1
        self._points: list[tuple[float, float]] = []
        self._last: tuple[float, float] | None = None
        self._axes: Axes | None = None
        self._fields = (0, 0)
        self._clock: int | None = None
        self._time = 0.0

    def look(self, root: bytes) -> Glimpse | None:
        """Read what is new; None where there is no measurement to show. Raises OSError."""
        handle = open_below(root, self._path)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            if not self._head or os.pread(handle, len(self._head), 0) != self._head:
                self._begin(os.pread(handle, self._max_header_bytes, 0))
            if self._header is not None:
                self._go_on(os.pread(handle, MOST_BYTES, self._at))
        finally:
            os.close(handle)
        return self._glimpse(self._header) if self._header is not None else None

    def _begin(self, start: bytes) -> None:
        self._forget()
        try:
            header = parse_header(start, max_bytes=self._max_header_bytes)
        except (FileRejectedError, HeaderIncompleteError):
            return
        procedure = self._registry.get(header.procedure)
        names = [procedure.canonical(name) if procedure else name for name in header.columns]
        self._header, self._head, self._at = header, start[: header.data_offset], header.data_offset
        self._hope = expectation(procedure, header)
        self._axes = axes(procedure, names)
        if self._axes is not None:
            self._fields = (names.index(self._axes.x), names.index(self._axes.y))
        if procedure is not None and procedure.time in names:
            self._clock = names.index(procedure.time or "")

    def _go_on(self, part: bytes) -> None:
        """Take in whole lines; one that is torn waits, one that holds no numbers is counted and not drawn."""
        end = part.rfind(b"\n") + 1
        self._at += end
        for line in part[:end].splitlines():
            if not line.strip() or line.startswith(b"#"):
                continue
            self._rows += 1
            fields = line.split(b",")
            try:
                point = (float(fields[self._fields[0]]), float(fields[self._fields[1]]))
                if self._clock is not None:
                    self._time = float(fields[self._clock])
            except (ValueError, IndexError):
                continue
            self._last = point
            if self._rows % self._stride == 0:
                self._points.append(point)
                if len(self._points) > MOST_POINTS:
                    self._points = self._points[::2]
                    self._stride *= 2

    def _glimpse(self, header: Header) -> Glimpse:
        points = np.array(self._points or np.empty((0, 2)), dtype=np.float64)
        x, y = thinned(*finite(points[:, 0], points[:, 1]), THUMB_POINTS * 2)
        procedure = self._registry.get(header.procedure)
        chip = chip_name(*procedure.chip(header)) if procedure else ""
        percent, goal = self._progress()
        return Glimpse(
            file=shown_path(self._path),
            proc=header.procedure,
            chip=chip,
            rows=self._rows,
            percent=percent,
            goal=goal,
            axes=self._axes,
            x=x,
            y=y,
            last=self._last,
        )

    def _progress(self) -> tuple[float | None, str]:
        if self._hope.rows:
            # Of several lawful layouts, the shortest that is not yet outgrown.
            goal = next((rows for rows in sorted(self._hope.rows) if rows >= self._rows), max(self._hope.rows))
            return min(100.0, 100.0 * self._rows / max(1, goal)), f"of {goal:,} rows"
        end_s = self._hope.end_s
        if end_s and self._clock is not None:
            return max(0.0, min(100.0, 100.0 * self._time / end_s)), f"in {self._time:,.0f} of {end_s:,.0f} s"
        return None, ""


class Preview:
    """All files that are being measured. One thread at a time."""

    def __init__(self, config: Config, registry: Registry) -> None:
        self._root = os.fsencode(config.paths.raw)
        self._registry = registry
        self._max_header_bytes = config.limits.max_header_bytes
        self._glances: dict[bytes, Glance] = {}

    def look(self, measuring: Iterable[str]) -> list[Glimpse]:
        """Look into the files that the daemon says are growing, by the names that it shows; at most MOST_FILES."""
        paths = [raw_path(name) for name in list(measuring)[-MOST_FILES:]]
        self._glances = {path: self._glances.get(path) or self._glance(path) for path in paths}
        found = []
        for path, glance in self._glances.items():
            try:
                glimpse = glance.look(self._root)
            except OSError:  # it has gone, or can't be read now: the daemon tells what is to be told
                continue
            if glimpse is not None:
                found.append(glimpse)
            else:
                self._glances[path] = self._glance(path)
        return found

    def _glance(self, path: bytes) -> Glance:
        return Glance(path, self._registry, self._max_header_bytes)


def growing(answer: Mapping[str, object] | None) -> list[str]:
    """Give the names of the files that are being measured, from the daemon's answer."""
    measuring = answer.get("measuring") if answer else None
    return list(measuring) if isinstance(measuring, Mapping) else []
