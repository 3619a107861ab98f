"""The curve of a measurement in characters: its segments in their colours, between axes with their units.

The curve itself is uniplot's. Here it is decided what is drawn: which colour, which part, which marks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from uniplot import plot_to_string

from nanolab_daemon.terminal.axes import column_labels, linear, logarithmic, row_labels, scale
from nanolab_daemon.terminal.trace import Piece, Trace, Values

LEAST_WIDTH, LEAST_HEIGHT = 20, 5
_BESIDE = 5
"""Lines that the axes take."""

_COLOURS = {
    "forward_negative": "blue",
    "return_negative": "green",
    "forward_positive": "red",
    "return_positive": "magenta",
    "dark": "blue",
    "light": "yellow",
}
_CYCLE = ("blue", "red", "green", "magenta", "cyan", "yellow")
_OUTSIDE = "#808080"  # to be seen on dark and on bright screens
_MOST_DASHED = 16
_DASH = 4  # columns
_ASCII = str.maketrans("┌┐└┘─│▔┤┴µ", "++++-|-++u")

Series = tuple[Values, Values, str]
"""x, y and the colour."""


def colour(piece: Piece) -> str:
    """Give the colour of a segment: by its kind where it has one, else by its number."""
    if piece.number is None:
        return _OUTSIDE
    kind = piece.name.rpartition("_")[0]  # of dark_1, light_2 …
    return _COLOURS.get(piece.name) or _COLOURS.get(kind) or _CYCLE[piece.number % len(_CYCLE)]


def finite(piece: Piece, *, log: bool) -> tuple[Values, Values]:
    """Give the points that can be drawn; on a logarithmic scale the powers of ten of the sizes that are not zero."""
    good = np.isfinite(piece.x) & np.isfinite(piece.y)
    if log:
        good &= piece.y != 0
    x, y = piece.x[good], piece.y[good]
    return (x, np.log10(np.abs(y))) if log else (x, y)


def drawing(found: Trace, width: int, height: int, *, log: bool, colours: bool, ascii_only: bool) -> str:
    """Draw a curve in so many columns and lines, axes included; empty if no point can be drawn."""
    drawn = [(piece, *finite(piece, log=log)) for piece in found.pieces]
    drawn = [one for one in drawn if len(one[1])]
    if not drawn:
        return ""
    rows = max(LEAST_HEIGHT, height - _BESIDE)
    all_x, all_y = (np.concatenate([one[at] for one in drawn]) for at in (1, 2))
    across, up = scale(found.x, all_x), scale(found.y, np.empty(0) if log else all_y)
    all_x, all_y = all_x / 10.0**across.power, all_y / 10.0**up.power
    upright = (logarithmic if log else linear)(up, all_y, rows // 4)
    labels = row_labels(upright, rows)
    margin = max(map(len, labels))
    columns = max(LEAST_WIDTH, width - margin - 3)
    level = linear(across, all_x, columns // 14)
    series = [(x / 10.0**across.power, y / 10.0**up.power, colour(piece)) for piece, x, y in drawn]
    if colours and 1 < len(drawn) <= _MOST_DASHED:
        for one, (piece, *_) in list(zip(series, drawn, strict=True)):
            if piece.number is not None and piece.number % 2 == 0:
                series += _dashes(one, level.low, level.high, columns)
    text = plot_to_string(
        xs=[x for x, _, _ in series],
        ys=[y for _, y, _ in series],
        width=columns,
        height=rows,
        lines=True,
        color=[colour for *_, colour in series] if colours else False,
        character_set="ascii" if ascii_only else "braille",
        x_labels=False,
        y_labels=False,
        x_min=level.low,
        x_max=level.high,
        y_min=upright.low,
        y_max=upright.high,
        x_gridlines=[0.0] if level.low < 0 < level.high else [],
        y_gridlines=[0.0] if upright.low < 0 < upright.high and not log else [],
    )
    top, *middle, bottom = [line for line in text.splitlines() if line.strip()]
    beneath, marked = column_labels(level, columns)
    marks = set(marked)
    bottom = "".join("┴" if at - 1 in marks else character for at, character in enumerate(bottom.rstrip()))
    lines = [
        f"{upright.title}",
        f"{'':>{margin}} {top.rstrip()}",
        *(
            f"{label:>{margin}} {line.replace('│', '┤', 1) if label else line}"
            for label, line in zip(labels, middle, strict=True)
        ),
        f"{'':>{margin}} {bottom}",
        f"{'':>{margin}}  {beneath}",
        f"{'':>{margin}} {level.title:^{columns + 2}}",
    ]
    text = "\n".join(line.rstrip() for line in lines)
    return text.translate(_ASCII).encode("ascii", "replace").decode() if ascii_only else text


def _dashes(one: Series, low: float, high: float, columns: int) -> Iterator[Series]:
    """Give the stretches of a curve that are drawn once more, above those that may lie on it.

    Where two curves run on each other, as the two directions of a sweep do, both are to be seen.
    """
    x, y, colour = one
    dash = ((x - low) / (high - low) * columns).astype(int) // _DASH
    edges = np.flatnonzero(np.diff(dash)) + 1
    for xs, ys, at in zip(np.split(x, edges), np.split(y, edges), dash[np.r_[0, edges]], strict=True):
        if at % 2 == 0:
            yield xs, ys, colour
