"""The lab's rule for segments once more, written from the specification alone: slow, plain, one row after the other.

    Along the swept column a boundary lies before the row where the direction of the last significant step reverses,
    or where the value leaves one side of zero (<0 -> >=0, >0 -> <=0). A step is significant from half the sweep step
    in the header, at most 1 mV. Labels: away from zero `forward_`, towards zero `return_`, with `negative` or
    `positive` by side. A piece of fewer than `min_points` rows is no segment.

Where it is silent: a step that is half but for float dust is significant; a header without a usable step means 1 mV;
NaNs are passed over; a piece that ends where it began counts as increasing; what never is below zero is positive.

And the rule for phases: a boundary lies before the row whose level is another than the last known one, by more than
1e-9 and 1e-9 of that. Phases are `dark_n` at 0 and `light_n` elsewhere, each word counted by itself from 1, gate
plateaus `plateau_n`; phases too short to be segments are counted, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Piece(NamedTuple):
    """One segment: its rows, from `start` to before `stop`, and its label."""

    start: int
    stop: int
    kind: str
    direction: str


def smallest_step(step: float | None) -> float:
    if step is None or math.isnan(step) or math.isinf(step) or step == 0:
        return 0.001
    return min(abs(step) / 2, 0.001)


def pieces(values: Sequence[float], step: float | None) -> list[list[int]]:
    """Split the row numbers of a sweep at its boundaries; nothing is left out."""
    least = smallest_step(step) * (1 - 1e-9)
    found: list[list[int]] = []
    last: float | None = None
    direction = ""
    for row, value in enumerate(values):
        boundary = not found
        if not math.isnan(value):
            if last is not None:
                if (last < 0 <= value) or (last > 0 >= value):
                    boundary = True
                if value - last >= least:
                    boundary = boundary or direction == "down"
                    direction = "up"
                elif last - value >= least:
                    boundary = boundary or direction == "up"
                    direction = "down"
            last = value
        if boundary:
            found.append([])
        found[-1].append(row)
    return found


def segments(values: Sequence[float], step: float | None, min_points: int = 5) -> list[Piece]:
    """Cut a sweep into its segments, in order."""
    found: list[Piece] = []
    if all(math.isnan(value) for value in values):
        return found
    for rows in pieces(values, step):
        if len(rows) < min_points:
            continue
        known = [values[row] for row in rows if not math.isnan(values[row])]
        rises = known[-1] >= known[0]
        below = any(value < 0 for value in known)
        away_from_zero = not rises if below else rises
        kind = ("forward_" if away_from_zero else "return_") + ("negative" if below else "positive")
        found.append(Piece(rows[0], rows[-1] + 1, kind, "increasing" if rises else "decreasing"))
    return found


def phases(levels: Sequence[float], kind: str, min_points: int = 5) -> list[Piece]:
    """Cut a time series into its phases, in order."""
    stretches: list[tuple[float, list[int]]] = []
    last: float | None = None
    early: list[int] = []  # rows before any level is known
    for row, level in enumerate(levels):
        if math.isnan(level):
            (stretches[-1][1] if stretches else early).append(row)
            continue
        if last is None:
            stretches.append((level, [*early, row]))
        elif level == last or (not math.isinf(last) and abs(level - last) <= 1e-9 + 1e-9 * abs(last)):
            stretches[-1][1].append(row)
        else:
            stretches.append((level, [row]))
        last = level
    seen = {"plateau": 0, "dark": 0, "light": 0}
    found: list[Piece] = []
    for level, rows in stretches:
        word = "plateau" if kind == "plateau" else "dark" if abs(level) <= 1e-9 else "light"
        seen[word] += 1
        if len(rows) >= min_points:
            found.append(Piece(rows[0], rows[-1] + 1, f"{word}_{seen[word]}", "constant"))
    return found


def cut(kind: str, values: Sequence[float], step: float | None, min_points: int = 5) -> list[Piece]:
    """Cut a run along the column of its set points or levels, in the way that its procedure has."""
    return segments(values, step, min_points) if kind == "sweep" else phases(values, kind, min_points)
