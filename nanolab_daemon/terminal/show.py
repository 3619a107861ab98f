"""A measurement with its curve: what it is, the drawing, and its segments with their ranges."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nanolab_daemon.settings import counted, escaped
from nanolab_daemon.terminal import plot
from nanolab_daemon.terminal.axes import scale
from nanolab_daemon.terminal.plot import finite
from nanolab_daemon.terminal.screen import DOUBT, FAINT, NAME
from nanolab_daemon.terminal.trace import Trace

MOST_SEGMENTS = 12
_GAP = 2
_WIDEST, _HIGHEST, _LOWEST = 110, 28, 16
"""How large a drawing is: beyond that it is no better to look at, below it is none."""


def lines(found: Trace, width: int, height: int, *, log: bool, ascii_only: bool) -> Iterator[str]:
    """Give all of it as plain lines, the drawing in so many columns and lines."""
    yield from head(found)
    yield from (f"  {note}" for note in found.notes)
    yield ""
    yield from _drawing(found, width, height, log=log, colours=False, ascii_only=ascii_only).splitlines()
    rows = narrowed(list(segments(found, MOST_SEGMENTS)), width)
    if rows:
        yield ""
        widths = _widths(rows)
        for row in rows:
            cells = [text.rjust(size) for text, size in zip(row, widths, strict=True)]
            yield "  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip()


def picture(
    found: Trace, width: int, height: int, *, log: bool, ascii_only: bool, fits: bool = False
) -> RenderableType:
    """Draw all of it with colours in so many lines, or, unless it has to fit, in what it needs to be good to look at.

    What is told of a segment has the colour of its curve.
    """
    told = [*head(found), *(f"  {note}" for note in found.notes)]
    above = sum(-(-max(1, len(line)) // width) for line in told) + 1
    most = max(0, min(MOST_SEGMENTS, height - above - 3 - _LOWEST)) if fits else MOST_SEGMENTS
    rows = narrowed(list(segments(found, most)) if most else [], width)
    room = height - above - (len(rows) + 1 if rows else 0)
    text = _drawing(found, width, room if fits else max(_LOWEST, room), log=log, colours=True, ascii_only=ascii_only)
    parts: list[RenderableType] = [Text(told[0], NAME)]
    parts += [Text(line, DOUBT if number >= len(head(found)) - 1 else "") for number, line in enumerate(told[1:])]
    parts += [Text(), Text.from_ansi(text, no_wrap=True, overflow="crop")]
    if rows:
        parts += [Text(), _table(found, rows)]
    return Group(*parts)


def _table(found: Trace, rows: list[tuple[str, ...]]) -> Table:
    table = Table.grid(padding=(0, _GAP))
    table.add_column()
    for _ in rows[0][1:]:
        table.add_column(justify="right")
    table.add_row(*(Text(word, FAINT) for word in rows[0]))
    styles = [plot.colour(piece) for piece in found.pieces if piece.number is not None]
    for number, (name, *numbers) in enumerate(rows[1:]):
        table.add_row(Text(name, FAINT if name.startswith("and ") else styles[number]), *numbers)
    return table


def narrowed(rows: list[tuple[str, ...]], width: int) -> list[tuple[str, ...]]:
    """Leave out the last columns of a table that is too wide."""
    while rows and len(rows[0]) > 1 and sum(_widths(rows)) + _GAP * (len(rows[0]) - 1) > width:
        rows = [row[:-1] for row in rows]
    return rows


def _widths(rows: list[tuple[str, ...]]) -> list[int]:
    return [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]


def head(found: Trace) -> list[str]:
    """Tell what it is: procedure, day and chip; rows and state; run and file."""
    chip = f", chip {found.chip}" if found.chip else ""
    rows = counted(found.rows, "row")
    if found.expected_rows and not found.complete:
        part = f" ({found.rows * 100 // found.expected_rows} %)" if found.rows < found.expected_rows else ""
        rows = f"{found.rows:,} of {found.expected_rows:,} rows{part}"
    going_on = found.state in ("", "measuring", "started", "queued")
    complete = {True: ", complete", False: "" if going_on else ", incomplete", None: ""}[found.complete]
    state = f", {found.state}" if found.state else ""
    return [
        f"{escaped(found.proc)} of {found.date}{chip}: {rows}{complete}{state}",
        f"  run {found.run_id}, file {found.file}",
    ]


def _drawing(found: Trace, width: int, height: int, *, log: bool, colours: bool, ascii_only: bool) -> str:
    text = plot.drawing(
        found, min(width, _WIDEST), min(height, _HIGHEST), log=log, colours=colours, ascii_only=ascii_only
    )
    return text or f"No point of {found.y} against {found.x} can be drawn{' on a logarithmic scale' if log else ''}."


def segments(found: Trace, most: int) -> Iterator[tuple[str, ...]]:
    """Tell of each segment its rows and its ranges, under a line of titles; nothing where there are none."""
    pieces = [piece for piece in found.pieces if piece.number is not None]
    if not pieces:
        return
    points = [finite(piece, log=False) for piece in pieces]
    across = scale(found.x, np.concatenate([x for x, _ in points]))
    up = scale(found.y, np.concatenate([y for _, y in points]))
    yield (
        *("segment", "rows", f"from{across.in_unit}", f"to{across.in_unit}"),
        *(f"least {up.name}{up.in_unit}", f"most{up.in_unit}"),
    )
    for piece, (x, y) in list(zip(pieces, points, strict=True))[:most]:
        ends = (across.write(x[0]), across.write(x[-1])) if len(x) else ("-", "-")
        span = (up.write(y.min()), up.write(y.max())) if len(y) else ("-", "-")
        yield piece.name, f"{len(piece.x):,}", *ends, *span
    if len(pieces) > most:
        yield f"and {len(pieces) - most:,} more", f"{sum(len(piece.x) for piece in pieces[most:]):,}", "", "", "", ""
