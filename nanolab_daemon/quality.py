"""What is odd about a run: flags with one meaning each, from the columns in hand and from the file's name.

Pure: no disk, no clock. Says nothing that the file itself doesn't show, and nothing of what can't be known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Column = NDArray[np.float64]

# The engine's process tells flags in words and does no arithmetic on arrays: numpy is imported where that is done.


class Flag(StrEnum):
    """The flags, in the order in which they are given."""

    INCOMPLETE = "incomplete"
    OVERFLOW = "overflow"
    SATURATED = "saturated"
    CONSTANT_CURRENT = "constant_current"
    NAN_READINGS = "nan_readings"
    NO_LIGHT = "no_light"
    TIME_BACKWARDS = "time_backwards"
    CLOCK_MISMATCH = "clock_mismatch"


MEANINGS: Mapping[str, str] = {
    Flag.INCOMPLETE: "The rows are not all that the header prescribes, or more than that.",
    Flag.OVERFLOW: "A value is 9.9e36 or beyond: the instrument's sign for an input above its range.",
    Flag.SATURATED: (
        "The current (or the drain-source voltage) is held by a limit: it reaches 105 % of the range in the header,"
        " or stays at its extreme for 8 rows, at the range itself or in a sweep that moves it from row to row"
        " below that."
    ),
    Flag.CONSTANT_CURRENT: (
        "The current (or the drain-source voltage) is one and the same number in all rows, 10 at least."
    ),
    Flag.NAN_READINGS: "Some values of the current, the drain-source voltage or the power are no numbers.",
    Flag.NO_LIGHT: (
        "The header gives a laser voltage and the run came to its end, yet the laser's column is 0 in every row."
    ),
    Flag.TIME_BACKWARDS: (
        "The time decreases from one row to a later one: the clock was set back, or two runs are in one file."
    ),
    Flag.CLOCK_MISMATCH: (
        "The run started before the day in its file's name, or more than 7 days after it, which no queue explains."
    ),
}
"""What each flag means, in one sentence: the words of `why` and of the documentation."""

RANGES = {"I (A)": "Irange", "VDS (V)": "Vrange"}
"""Columns of what a Keithley measures, and the parameter that sets its range."""

OVERFLOW = 9.9e36  # a Keithley reads 9.9e37; none of the lab's quantities comes near either
OVER_RANGE = 1.049  # it reads to 105 % of its range and stops there, give or take its calibration
AT_RANGE = 0.999
# A pinned reading still flickers in its last digit, by 2 in a million in the lab's files; one that is not pinned
# scatters by more, so that it stays at its extreme for two rows at the most.
PINNED_WITHIN = 5e-6
PINNED_ROWS = 8
LEAST_CHANGE = 0.01  # of the extreme, over the run: else the device does not answer to the sweep at all
# Readings in coarse steps (a small current in a wide range) stand still for rows everywhere. The slope of a device
# changes little within half its extreme, so there they are compared: below may lie a floor that is still by right.
NEAR_EXTREME = 0.5
MOST_STILL = 0.25  # of the neighbours there
LEAST_LEVELS = 8  # where there are none: an extreme of fewer of the smallest steps of the readings tells nothing
FLOAT_DUST = 1e-12
CONSTANT_ROWS = 10
QUEUE_DAYS = 7  # the name is given when a run is queued; queues last nights and weekends

_POWERS = ("P (W)", "Power (W)")
_LASER = "VL (V)"
_TIMES = ("t (s)", "Time (s)")
_DATE = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}(?![0-9])")


def of_columns(
    columns: Mapping[str, Column],
    *,
    complete: bool | None,
    ranges: Mapping[str, float | None],
    swept: str | None,
    lit: bool,
    one_time: bool = True,
) -> tuple[str, ...]:
    """Return the flags that a run's rows and header tell; all but CLOCK_MISMATCH, which the file's name decides.

    `columns` are the data columns by name, shape (rows,); `ranges` the measuring range by column, A or V, None or 0
    where the instrument chose it; `lit` whether the header asks for laser light; `one_time` whether the time of all
    rows counts from one moment. Never raises.
    """
    import numpy as np

    found = []
    sizes = {name: np.abs(column) for name, column in columns.items() if len(column)}
    most = {name: float(np.fmax.reduce(size)) for name, size in sizes.items()}  # nan only if all are
    measured = [name for name in RANGES if name in sizes and name != swept]
    if complete is False:
        found.append(Flag.INCOMPLETE)
    if any(size >= OVERFLOW for size in most.values()):
        found.append(Flag.OVERFLOW)
    if any(_is_saturated(sizes[one], most[one], ranges.get(one), swept=swept is not None) for one in measured):
        found.append(Flag.SATURATED)
    if any(_is_constant(columns[name]) for name in measured):
        found.append(Flag.CONSTANT_CURRENT)
    if any(np.isnan(sizes[name].max()) for name in (*measured, *_POWERS) if name in sizes):
        found.append(Flag.NAN_READINGS)
    # Of a run that was cut short nobody knows whether its light was due.
    if lit and complete is not False and most.get(_LASER) == 0:
        found.append(Flag.NO_LIGHT)
    if one_time and any(_goes_back(columns[name]) for name in _TIMES if name in columns):
        found.append(Flag.TIME_BACKWARDS)
    return tuple(map(str, found))


def _is_saturated(size: Column, most: float, range_: float | None, *, swept: bool) -> bool:
    """Judge magnitudes, of which `most` is the largest."""
    import numpy as np

    if not 0 < most < OVERFLOW:  # nor nan
        return False
    limit = abs(range_ or 0.0)
    if limit and most >= limit * OVER_RANGE:
        return True
    pinned = size >= most * (1 - PINNED_WITHIN)
    if np.count_nonzero(pinned) < PINNED_ROWS:
        return False
    rows, last = np.flatnonzero(pinned), PINNED_ROWS - 1
    if not (rows[last:] - rows[:-last] == last).any():
        return False
    if limit and most >= limit * AT_RANGE:
        return True
    if not swept or np.fmin.reduce(size) > most * (1 - LEAST_CHANGE):
        return False
    return not _stands_still(size, most, pinned)


def _stands_still(size: Column, most: float, pinned: NDArray[np.bool_]) -> bool:
    """Tell whether readings near the extreme don't move from row to row either, or may be too coarse for it."""
    import numpy as np

    near = ~pinned & (size > most * NEAR_EXTREME)
    pairs = near[1:] & near[:-1]
    count = np.count_nonzero(pairs)
    if count:
        still = np.abs(np.diff(size)) <= most * PINNED_WITHIN
        return bool(np.count_nonzero(pairs & still) > MOST_STILL * count)
    steps = np.diff(np.unique(size[size <= most]))  # no nan
    steps = steps[steps > most * FLOAT_DUST]
    return not len(steps) or bool(most < steps.min() * (LEAST_LEVELS - 0.5))


def _is_constant(values: Column) -> bool:
    return len(values) >= CONSTANT_ROWS and values[0] == values[-1] and bool((values == values[0]).all())


def _goes_back(times: Column) -> bool:
    import numpy as np

    if len(times) and np.isnan(times.max()):
        times = times[~np.isnan(times)]
    return bool((times[1:] < times[:-1]).any())


def misdated(copies: Iterable[tuple[str, str, bytes]]) -> set[str]:
    """Return the runs whose clock disagrees with their files' names: no date in any of them can be that of the queue.

    `copies` are run, day of its start in the lab's time zone, and path, of all present copies of the runs' files in
    any order. Names without a date tell nothing.

    A file may be moved, renamed and copied without being staged again, and which copy is the source is chance. So all
    copies are asked, each time that it is told, and it is never stored.
    """
    disagree: set[str] = set()
    fit: set[str] = set()
    for run_id, start_date, path in copies:
        name = path.rpartition(b"/")[2]
        if start_date.encode() in name or any(_explains(text, start_date) for text in _DATE.findall(name)):
            fit.add(run_id)
        elif any(_day(text) for text in _DATE.findall(name)):
            disagree.add(run_id)
    return disagree - fit


def with_clock(flags: Iterable[str] | None, *, disagrees: bool) -> tuple[str, ...] | None:
    """Return a run's stored flags and that of its clock; None if the stored ones are not known."""
    if flags is None:
        return None
    return (*flags, str(Flag.CLOCK_MISMATCH)) if disagrees else tuple(flags)


def _explains(named: bytes, start_date: str) -> bool:
    day = _day(named)
    return day is not None and 0 <= (date.fromisoformat(start_date) - day).days <= QUEUE_DAYS


def _day(text: bytes) -> date | None:
    try:
        return date.fromisoformat(text.decode())
    except ValueError:
        return None
