"""When a measurement is complete: set points as the instrument program makes them, ends in time, silences.

Claims nothing that the header doesn't prove: where it gives no end, or the rows fit no path, the answer is None.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice, pairwise, takewhile

from nanolab_daemon.errors import FileRejectedError
from nanolab_daemon.identity import datetime_of, start_time_us
from nanolab_daemon.model import BEYOND_END, Completeness, Expectation, Header
from nanolab_daemon.procedures import PathKind, Procedure, Span, SweepPath, unknown_procedure

# The header controls the length of a ramp: a step of 1e-12 V must not cost memory. 10^6 points at the instrument's
# quickest, about ten rows a second, are more than a day.
MAX_POINTS = 1_000_000

# Rows repeat the instrument program's floats digit for digit, so a set point may differ by no more than dust.
_DUST = 1e-9
_STEP_DUST = 1e-6
# The header's %g keeps six digits: a time that it gives may be off by half a unit of the last one.
_TIME_DUST = 5e-6
# Between two rows of a time series lies up to 1.1 s in real files, without the sampling time that the header gives.
_ROW_GAP_S = 2.0
# Rows after the end of the last phase, beside one for each phase: a rule that is too short has hundreds.
_ROWS_BEYOND = 2
# A phase that long can't be skipped by one late row: a row after the end is then a row of the last phase.
_SURE_PHASE_S = 10.0
_LEGS = 7  # the most pieces of which a path is made
_SNAP = 1e-12  # the program's own tolerance where its paths meet their ends


def arange(start: float, stop: float, step: float) -> array[float]:
    """Return what numpy.arange(start, stop, step) holds, bit for bit.

    Raises `OverflowError` over `MAX_POINTS`, `ZeroDivisionError` or `ValueError` where numpy raises too.
    """
    span = stop - start
    ratio = span / step
    if ratio == 0.0 and span != 0.0:  # underflow: numpy then looks at the sign alone
        length = 0 if math.copysign(1.0, ratio) < 0 else 1
    elif math.isnan(ratio):
        raise ValueError("no set points follow from nan")
    elif ratio > MAX_POINTS:
        raise OverflowError("too many set points")
    else:
        length = math.ceil(ratio)
    if length <= 0:
        return array("d")
    second = start + step
    delta = second - start
    points = array("d", [start + i * delta for i in range(length)])
    points[0] = start
    if length > 1:
        points[1] = second
    return points


@lru_cache(maxsize=16)
def set_points(kind: PathKind, start: float, end: float, step: float) -> array[float] | None:
    """Return the set points of one sweep; None where the program makes none (it fails), or more than `MAX_POINTS`.

    Odd arguments are not corrected: where the program makes a ramp that never reaches its end, so does this. The
    array is shared by all callers; none may change it.
    """
    try:
        ramp = _RAMPS[kind](start, end, step)
    except (ArithmeticError, ValueError):
        return None
    return ramp if len(ramp) <= MAX_POINTS else None


def _start_end(start: float, end: float, step: float) -> array[float]:
    return arange(start, end + step, step)


def _start_end_start(start: float, end: float, step: float) -> array[float]:
    # A step of 0 stands for one jump.
    step = step or end - start
    return arange(start, end, step) + arange(end, start - step, -step)


def _zero_start_end_start_zero(start: float, end: float, step: float) -> array[float]:
    outward = arange(0.0, start, step if start > 0 else -step)
    return outward + arange(start, end, step) + arange(end, start - step, -step) + outward[::-1]


def _zero_start_end_zero(start: float, end: float, step: float) -> array[float]:
    first = step if start >= 0 else -step
    middle = step if start < end else -step
    last = -step if end >= 0 else step
    return (
        arange(0.0, start + first, first)
        + arange(start, end + middle, middle)[1:]
        + arange(end, 0.0 + last, last)[1:]
    )


def _two_steps(start: float, end: float, step: float) -> array[float]:
    """Return the ramp of IV: the step asked for within half a millivolt of zero, and outside at least that."""
    coarse = 5e-4 if 1e-6 <= step <= 5e-4 else step
    sign = 1 if start > 0 else -1
    near_start = sign * min(abs(start), 5e-4)
    near_end = -sign * min(abs(end), 5e-4)
    return (
        arange(0.0, near_start, sign * step)
        + arange(near_start, start, sign * coarse)
        + arange(start, near_start, sign * -coarse)
        + arange(near_start, near_end, sign * -step)
        + arange(near_end, end, sign * -coarse)
        + arange(end, near_end, sign * coarse)
        + arange(near_end, 0 + sign * step, sign * step)
    )


def _zero_start_end_start_zero_met(start: float, end: float, step: float) -> array[float]:
    step = abs(step)
    corners = [0.0, end, 0.0] if abs(start) <= _SNAP else [0.0, start, end, start, 0.0]
    legs = [_leg(a, b, step) for a, b in pairwise(corners)]
    return _without_doubles(legs[0] + array("d", chain.from_iterable(leg[1:] for leg in legs[1:])))


def _two_steps_met(start: float, end: float, step: float) -> array[float]:
    step = abs(step)
    coarse = 5e-4 if 1e-6 <= step <= 5e-4 else step
    legs = [_leg_in_two_steps(a, b, step, coarse) for a, b in ((0.0, start), (start, end), (end, 0.0))]
    return _without_doubles(legs[0] + legs[1][1:] + legs[2][1:])


def _leg(a: float, b: float, step: float) -> array[float]:
    """From a to b, both included, the last step as short as it must be."""
    if abs(a - b) <= _SNAP + 1e-5 * abs(b):
        return array("d", [b])
    steps = abs(b - a) / step + _SNAP
    if steps > MAX_POINTS:
        raise OverflowError("too many set points")
    signed = step if b > a else -step
    points = array("d", [a + i * signed for i in range(math.floor(steps) + 1)])
    if abs(points[-1] - b) > _SNAP:
        points.append(b)
    else:
        points[-1] = b
    return points


def _leg_in_two_steps(a: float, b: float, step: float, coarse: float) -> array[float]:
    if abs(a - b) <= _SNAP + 1e-5 * abs(b):
        return array("d", [b])
    between = [edge for edge in (-5e-4, 5e-4) if min(a, b) < edge < max(a, b)]
    corners = [a, *(between if b > a else reversed(between)), b]
    points = array("d", [a])
    for first, last in pairwise(corners):
        fine = max(abs(first), abs(last)) <= 5e-4 + _SNAP
        points += _leg(first, last, step if fine else coarse)[1:]
    return _without_doubles(points)


def _without_doubles(points: array[float]) -> array[float]:
    kept = [point for before, point in pairwise(points) if abs(point - before) > _SNAP]
    return points[:1] + array("d", kept)


_RAMPS: dict[PathKind, Callable[[float, float, float], array[float]]] = {
    PathKind.START_END: _start_end,
    PathKind.START_END_START: _start_end_start,
    PathKind.ZERO_START_END_ZERO: _zero_start_end_zero,
    PathKind.ZERO_START_END_START_ZERO: _zero_start_end_start_zero,
    PathKind.ZERO_START_END_START_ZERO_MET: _zero_start_end_start_zero_met,
    PathKind.TWO_STEPS: _two_steps,
    PathKind.TWO_STEPS_MET: _two_steps_met,
}


@dataclass(frozen=True, slots=True)
class _Sweep:
    """One possible path of a run: its set points, and how many times they are run through."""

    kind: PathKind
    points: array[float]
    repeats: int

    @property
    def rows(self) -> int:
        return len(self.points) * self.repeats

    def point(self, row: int) -> float:
        return self.points[row % len(self.points)]


def expectation(procedure: Procedure | None, header: Header) -> Expectation:
    """Return what the header says of the end of the measurement."""
    if procedure is None:
        return Expectation(rule="the procedure is not known")
    if procedure.phases or procedure.older_phases:
        end_s = _end_s(procedure, header)
        if end_s is None:
            return Expectation(rule="the header does not give the times from which the end follows")
        return Expectation(end_s=end_s, rule=f"the last row comes {procedure.stops} {end_s:g} s")
    if not procedure.paths:
        return Expectation(rule="nothing in the header tells where such a measurement ends")
    sweeps = _sweeps(procedure, header)
    if not sweeps:
        return Expectation(rule="the header does not give the set points")
    rows = tuple(dict.fromkeys(sweep.rows for sweep in sweeps))
    return Expectation(rows=rows, rule=f"{' or '.join(map(str, rows))} rows, by the set points in the header")


def completeness(
    procedure: Procedure | None,
    header: Header,
    n_rows: int,
    swept_values: Sequence[float],
    times: Sequence[float] | None,
) -> Completeness:
    """Judge the rows: `swept_values` are those of the swept column, `times` those of the time column, in seconds.

    Where the file has no such column, they are empty and None.
    """
    expected = expectation(procedure, header)
    if expected.end_s is not None and n_rows and times is None:
        why = f"the file has no column of the time, by which the end at {expected.end_s:g} s would be known"
        return Completeness(None, expected_end_s=expected.end_s, rule=why)
    if procedure is None or not (expected.rows or expected.end_s is not None):
        return Completeness(None, rule=expected.rule)
    if expected.end_s is not None:
        return _completeness_in_time(procedure, header, expected.end_s, () if times is None or not n_rows else times)
    return _completeness_in_rows(procedure, header, n_rows, swept_values)


def proof_column(procedure: Procedure | None) -> str | None:
    """Return the column whose last value `is_proven` looks at; None where nothing can be proven."""
    if procedure is None:
        return None
    if procedure.phases:
        return procedure.time if procedure.stops == "after" else None
    return procedure.swept if procedure.paths else None


def is_proven(procedure: Procedure | None, header: Header, n_rows: int, last_value: float) -> bool:
    """Tell whether no row can follow; `last_value` is that of `proof_column` in the last row.

    True from the last row of the sweep that the header prescribes, or the first row after the end in time; never a
    row earlier. False wherever a longer path of this header has the same value in this row.
    """
    if procedure is None or n_rows < 1 or proof_column(procedure) is None:
        return False
    if procedure.phases:
        return _is_proven_in_time(procedure, header, last_value)
    if _may_be_rounded(procedure, header):
        return False
    tolerance = _tolerance(procedure, header)
    proven = False
    for sweep in _sweeps(procedure, header):
        if sweep.rows >= n_rows and abs(sweep.point(n_rows - 1) - last_value) <= tolerance:
            if sweep.rows > n_rows:
                return False
            proven = True
    return proven


def laser_is_on(procedure: Procedure, header: Header) -> bool:
    """Tell whether the laser is on in the sense of the program's switch, which headers until 2025 name."""
    return procedure.light(header).on and header.parameters.get("Laser toggle") != "False"


def burn_in_s(procedure: Procedure | None, header: Header) -> float:
    """Return the seconds for which a run may write nothing before its first row."""
    procedure = procedure or unknown_procedure(header.procedure)
    seconds = procedure.number(header, procedure.burn_in) if procedure.light(header).on else None
    return seconds if seconds is not None and 0.0 <= seconds < math.inf else 0.0


def step_time_s(procedure: Procedure | None, header: Header) -> float:
    """Return the longest time that the header allows between two rows, in seconds."""
    procedure = procedure or unknown_procedure(header.procedure)
    spans = (_sum(procedure, header, span, lacking=0.0) for span in procedure.silences)
    return max((span for span in spans if span is not None), default=0.0)


def longest_silence_s(procedure: Procedure | None, header: Header) -> float:
    """Return the longest silence that is legal anywhere in the run, in seconds."""
    return max(burn_in_s(procedure, header), step_time_s(procedure, header))


# --- sweeps


def _sweeps(procedure: Procedure, header: Header) -> list[_Sweep]:
    """Return the paths that are possible for this header, the present one first."""
    repeats = _repeats(procedure, header)
    start, end, step = (procedure.number(header, name) for name in (procedure.start, procedure.end, procedure.step))
    if start is None or end is None or step is None or not repeats:
        return []
    sweeps = []
    for path in procedure.paths:
        if _is_possible(path, header):
            points = set_points(path.kind, start, end, step)
            if points:
                sweeps.append(_Sweep(path.kind, points, repeats))
    return sweeps


def _repeats(procedure: Procedure, header: Header) -> int:
    text = procedure.parameter(header, procedure.repeat) if procedure.repeat else None
    if text is None:
        return 0 if procedure.repeat_required else 1
    number = procedure.number(header, procedure.repeat)
    return int(number) if number is not None and 1 <= number <= MAX_POINTS else 0


def _is_possible(path: SweepPath, header: Header) -> bool:
    version = _version(header.parameters.get("Procedure version", ""))
    if path.below_version and version and version >= _version(path.below_version):
        return False
    start_time = header.metadata.get("Start time") if path.since or path.until else None
    if start_time is None:
        return True
    try:
        day = datetime_of(start_time_us(start_time)).date().isoformat()
    except FileRejectedError:
        return True
    return (not path.since or path.since <= day) and (not path.until or day <= path.until)


def _version(text: str) -> tuple[int, ...]:
    parts = text.strip().split(".")
    return (
        tuple(map(int, parts)) if all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts) else ()
    )


def _tolerance(procedure: Procedure, header: Header) -> float:
    return _DUST + _STEP_DUST * abs(procedure.number(header, procedure.step) or 0.0)


def _may_be_rounded(procedure: Procedure, header: Header) -> bool:
    """Tell whether a value that makes the ramp has all the six digits that %g prints: the real one may have more."""
    for name in (procedure.start, procedure.end, procedure.step):
        text = procedure.parameter(header, name) if name else None
        mantissa = (text or "").split(" ")[0].lower().partition("e")[0]
        if len(mantissa.replace(".", "").lstrip("+-0")) >= 6:
            return True
    return False


def _completeness_in_rows(
    procedure: Procedure, header: Header, n_rows: int, swept_values: Sequence[float]
) -> Completeness:
    sweeps = _sweeps(procedure, header)
    tolerance = _tolerance(procedure, header)
    as_many = len(swept_values) == n_rows
    fitting = [sweep for sweep in sweeps if as_many and _follows(sweep, swept_values, tolerance)]
    ended = next((sweep for sweep in fitting if sweep.rows == n_rows), None)
    sweep = ended or next((sweep for sweep in fitting if n_rows < sweep.rows), None)
    if sweep is not None:
        so_far = "every set point" if ended else "cut short, each set point until then"
        words = f"{n_rows} of {sweep.rows} rows, {so_far} as the header prescribes ({sweep.kind})"
        return Completeness(ended is not None, expected_rows=sweep.rows, rule=words)
    rows = sorted({sweep.rows for sweep in sweeps})
    expected = sweeps[0].rows
    words = " or ".join(map(str, rows))
    # Rounded set points may make each leg one row longer or shorter than it was.
    if _may_be_rounded(procedure, header) and rows[0] - _LEGS <= n_rows <= rows[-1] + _LEGS:
        why = "the header rounds its set points to six digits, and the rows don't follow them"
        return Completeness(None, rule=f"{n_rows} rows ({words} expected); {why}")
    if n_rows > rows[-1]:
        words = f"{n_rows} rows, more than the {words} that the header prescribes"
        return Completeness(False, expected_rows=expected, rule=words)
    if n_rows < rows[0]:
        words = f"{n_rows} of {words} rows, and the set points are not those that the header prescribes"
        return Completeness(False, expected_rows=expected, rule=words)
    words = f"{n_rows} rows ({words} expected), but the set points are not those that the header prescribes"
    return Completeness(None, expected_rows=expected, rule=words)


def _follows(sweep: _Sweep, values: Sequence[float], tolerance: float) -> bool:
    """Tell whether the values are the sweep, or its beginning."""
    import numpy as np  # only workers judge rows, and they have it

    rows = len(values)
    if rows > sweep.rows:
        return False
    points = np.frombuffer(sweep.points)
    if rows > len(points):
        points = np.resize(points, rows)  # from the start again, as often as need be
    with np.errstate(over="ignore"):  # between numbers at the two ends of what a float can hold
        return bool((np.abs(np.asarray(values) - points[:rows]) <= tolerance).all())  # false for nan


# --- ends in time


def _end_s(procedure: Procedure, header: Header) -> float | None:
    end_s = _total(procedure, header, procedure.phases)
    return end_s if end_s is not None else _total(procedure, header, procedure.older_phases)


def _total(procedure: Procedure, header: Header, phases: tuple[Span, ...]) -> float | None:
    lengths = [_sum(procedure, header, span) for span in phases]
    known = [length for length in lengths if length is not None]
    return sum(known) if known and len(known) == len(lengths) else None


def _sum(procedure: Procedure, header: Header, span: Span, *, lacking: float | None = None) -> float | None:
    """Return the length of a span in seconds; None where a parameter lacks and nothing stands in for it."""
    if span.only_lit and not laser_is_on(procedure, header):
        return 0.0
    total = 0.0
    for name, factor in span.terms:
        number = procedure.number(header, name)
        number = lacking if number is None else number
        if number is None or not 0.0 <= number < math.inf:
            return None
        total += factor * number
    if not span.per_set_point:
        return total
    sweeps = _sweeps(procedure, header)
    return total * sweeps[0].rows if sweeps else None


def _completeness_in_time(procedure: Procedure, header: Header, end_s: float, times: Sequence[float]) -> Completeness:
    times_last = next((time for time in reversed(times) if not math.isnan(time)), None)
    if times_last is None:
        return Completeness(False, expected_end_s=end_s, rule=f"no row has a time; the end is at {end_s:g} s")
    words = f"the last row is at {times_last:g} s of {end_s:g} s"
    # The program stops at its first look at the clock after the end; each phase writes a row even if its time is up.
    most = len(procedure.phases) + _ROWS_BEYOND
    after = (time > end_s * (1 + _TIME_DUST) for time in reversed(times) if not math.isnan(time))
    beyond = sum(1 for _ in islice(takewhile(bool, after), most + 1))
    if beyond > most:
        rule = f"{words}, with more than {most} rows {BEYOND_END}: the header prescribes less"
        return Completeness(False, expected_end_s=end_s, rule=rule)
    slack = end_s * _TIME_DUST
    if procedure.stops == "before":  # the program looks at its clock first and writes the row then
        slack += _ROW_GAP_S + step_time_s(procedure, header)
    if times_last >= end_s - slack:
        return Completeness(True, expected_end_s=end_s, rule=words)
    older_s = _total(procedure, header, procedure.older_phases)
    gap = _ROW_GAP_S + step_time_s(procedure, header)
    if older_s is not None and abs(times_last - older_s) <= gap + older_s * _TIME_DUST:
        return Completeness(None, expected_end_s=end_s, rule=f"{words}; older programs ended at {older_s:g} s")
    return Completeness(False, expected_end_s=end_s, rule=words)


def _is_proven_in_time(procedure: Procedure, header: Header, time_s: float) -> bool:
    end_s = _total(procedure, header, procedure.phases)
    if end_s is None or not time_s >= end_s * (1 + _TIME_DUST):
        return False
    # Each phase writes a row even if its time is over: only where no phase is short is a row after the end the last.
    happening = (span for span in procedure.phases if not span.only_lit or laser_is_on(procedure, header))
    lengths = (_sum(procedure, header, replace(span, per_set_point=False)) for span in happening)
    shortest = min(length for length in lengths if length is not None)
    return shortest >= _SURE_PHASE_S + step_time_s(procedure, header)
