"""The levels of a time series → its phases: where they begin, where they end, what they are called.

Pure arithmetic on one array. Knows nothing of files, headers or the ledger.

A phase is a stretch of rows of one set level: of the laser, the gate, the monochromator. The program writes the level
that it set, not one that it measured, so it is the same number in all rows of a phase but for float dust.
Neighbouring levels that differ by no more than `SAME_LEVEL` are one level: no source of the lab can set a nanovolt,
no monochromator a billionth of a nanometre, and the dust of a staircase is a thousand times smaller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nanolab_daemon.model import Segment, SegmentKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAME_LEVEL = 1e-9
"""Largest difference within one level: absolute, in the unit of the column, plus this part of the level itself."""


def cut(levels: NDArray[np.float64], kind: SegmentKind, min_points: int) -> list[Segment]:
    """Cut a run's set levels, shape (rows,), into its phases of at least `min_points` rows, in order.

    A phase begins at the row whose level is another than the last one known; a NaN is passed over and belongs to the
    phase before it, at the head of a run to the first. Rows of shorter phases belong to no segment. They count in the
    numbers all the same, so that `dark_2` is the dark after the first light however short the dark before it was.
    """
    rows = np.flatnonzero(~np.isnan(levels))
    if not rows.size:
        return []
    known = levels[rows]
    with np.errstate(over="ignore"):  # between numbers at the two ends of what a float can hold
        changes = np.flatnonzero(~np.isclose(known[1:], known[:-1], rtol=SAME_LEVEL, atol=SAME_LEVEL)) + 1
    firsts, lasts = np.r_[0, changes], np.r_[changes, len(known)] - 1
    starts, stops = np.r_[0, rows[changes]], np.r_[rows[changes], len(levels)]
    words, numbers = _names(known[firsts], kind)
    return [
        Segment(
            start=int(starts[at]),
            stop=int(stops[at]),
            label=f"{words[at]}_{numbers[at]}",
            direction="constant",
            v_start=float(known[firsts[at]]),
            v_end=float(known[lasts[at]]),
        )
        for at in np.flatnonzero(stops - starts >= min_points)
    ]


def _names(levels: NDArray[np.float64], kind: SegmentKind) -> tuple[NDArray[np.str_], NDArray[np.intp]]:
    """Give each phase its word and its number among those of the same word, from 1."""
    if kind is SegmentKind.PLATEAU:
        return np.full(len(levels), "plateau"), np.arange(1, len(levels) + 1)
    dark = np.abs(levels) <= SAME_LEVEL
    return np.where(dark, "dark", "light"), np.where(dark, np.cumsum(dark), np.cumsum(~dark))
