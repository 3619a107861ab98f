"""The values of a sweep → its segments: where they begin, where they end, what they are called.

Pure arithmetic on one array. Knows nothing of files, headers or the ledger.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from nanolab_daemon.model import Segment

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_THRESHOLD_V = 1e-3
"""A step of 1 mV is always significant, however coarse the sweep."""

SLACK = 1.0 - 1e-9
"""Set points carry float dust: a step that is half the sweep step but for its last bits counts as half."""


def threshold(step: float | None) -> float:
    """Give the smallest significant step, in the unit of the sweep: half the header's step, at most 1 mV."""
    if step is None or not np.isfinite(step) or step == 0.0:
        return LARGEST_THRESHOLD_V
    return min(abs(step) / 2, LARGEST_THRESHOLD_V)


def boundaries(values: NDArray[np.float64], smallest_step: float) -> NDArray[np.intp]:
    """Give the rows before which a new piece begins, without row 0: reversals and zero crossings, ascending.

    A reversal lies before the row whose step is the first significant one against the direction of the last
    significant one. A crossing lies before the row that leaves one side of zero (`<0 → ≥0`, `>0 → ≤0`). A NaN is
    passed over: the values around it are neighbours.
    """
    unknown = np.isnan(values)
    rows = np.flatnonzero(~unknown) if unknown.any() else None
    known = values if rows is None else values[rows]
    with np.errstate(over="ignore", invalid="ignore"):  # with infinities, and at the ends of what a float can hold
        steps = np.diff(known)
    significant = np.flatnonzero(np.abs(steps) >= smallest_step * SLACK)
    upwards = steps[significant] > 0
    reversals = significant[1:][upwards[1:] != upwards[:-1]] + 1
    before, after = known[:-1], known[1:]
    crossings = np.flatnonzero(((before < 0) & (after >= 0)) | ((before > 0) & (after <= 0))) + 1
    found: NDArray[np.intp] = np.union1d(reversals, crossings)
    return found if rows is None else rows[found]


def cut(values: NDArray[np.float64], step: float | None, min_points: int) -> list[Segment]:
    """Cut a run's swept values, shape (rows,), into segments of at least `min_points` rows, in order.

    Rows of shorter pieces belong to no segment, nor do those of a run in which nothing is known of the sweep.
    """
    if np.isnan(values).all():
        return []
    edges = [0, *boundaries(values, threshold(step)).tolist(), len(values)]
    return [
        _named(values, start, stop) for start, stop in itertools.pairwise(edges) if stop - start >= max(min_points, 1)
    ]


def _named(values: NDArray[np.float64], start: int, stop: int) -> Segment:
    known = values[start:stop]
    unknown = np.isnan(known)
    if unknown.any():
        known = known[~unknown]
    first, last = float(known[0]), float(known[-1])  # there is one: a NaN makes no boundary
    negative = bool((known < 0).any())
    increasing = last >= first
    outwards = increasing != negative  # away from zero: upwards on the positive side, downwards on the negative
    return Segment(
        start=start,
        stop=stop,
        label=f"{'forward' if outwards else 'return'}_{'negative' if negative else 'positive'}",
        direction="increasing" if increasing else "decreasing",
        v_start=first,
        v_end=last,
    )
