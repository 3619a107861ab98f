"""Flags: each has a meaning, is raised where it is due and nowhere else, and costs next to nothing."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import instrument
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from instrument import Measurement, it, iv, ivg
from realdata import REAL_DATA, real_files

from nanolab_daemon import quality, simulate
from nanolab_daemon.facts import Judged, Lab, judge
from nanolab_daemon.header import parse_header
from nanolab_daemon.procedures import Registry
from nanolab_daemon.quality import MEANINGS, Flag
from nanolab_daemon.rows import read_rows

LAB = Lab(Registry.builtin(), ZoneInfo("America/Santiago"))
DOCS = Path(__file__).resolve().parents[2] / "docs" / "flags.md"


def judged(contents: bytes, path: bytes = b"x.csv") -> Judged:
    header = parse_header(contents)
    body = contents[header.data_offset :]
    rows = read_rows(body, len(header.columns), header.data_line)
    found = judge(LAB, header, rows, path, 0, body)
    assert found is not None
    return found


def flags(measurement: Measurement) -> set[str]:
    """Stage a measurement's file as far as its flags."""
    return set(judged(measurement.data()).facts.flags or ())


def with_column(measurement: Measurement, name: str, change: Callable[[list[float]], list[float]]) -> Measurement:
    """Give a measurement with other values in one of its columns."""
    at = measurement.columns.index(name)
    rows = [row.split(",") for row in measurement.rows]
    for row, value in zip(rows, change([float(row[at]) for row in rows]), strict=True):
        row[at] = repr(value)
    return replace(measurement, rows=[",".join(row) for row in rows])


def with_header(measurement: Measurement, **parameters: str) -> Measurement:
    return replace(measurement, parameters={**measurement.parameters, **parameters})


def clipped(at: float) -> Callable[[list[float]], list[float]]:
    """Hold values at a limit, as a current limit does: to within its last digit."""
    flicker = itertools.cycle([0.0, 1e-6, -1e-6])
    return lambda values: [v if abs(v) < at else math.copysign(at * (1 + next(flicker)), v) for v in values]


def vvg(start: float = 1757018821.0) -> Measurement:
    """Make a VVg run of one leg's length: voltage and time along the gate."""
    parameters = {
        "Vrange": "1 V",
        "VG start": "-5 V",
        "VG end": "5 V",
        "VG step": "0.5 V",
        "Procedure version": "1.0.0",
    }
    rows = [f"{at * 0.5!r},{0.1 + at * 0.01 + 1e-6 * (at % 3)!r},{at * 0.2!r}" for at in range(11)]
    return Measurement("VVg", parameters, ("Vg (V)", "VDS (V)", "t (s)"), rows, f"{start:.6f}")


def back(times: list[float]) -> list[float]:
    """Let the time begin anew in the middle, as in a file that was used for two runs."""
    middle = len(times) // 2
    return times[:middle] + times[: len(times) - middle]


SWEEP, SERIES = ivg(2, step=0.1), it(1)
NO_RANGE = with_header(SWEEP, Irange="0 A")
TWICE = with_column(vvg(), "t (s)", back)
DARK = with_column(SERIES, "VL (V)", lambda v: [0.0] * len(v))
PHOTO = with_column(SERIES, "I (A)", lambda v: [1e-9 if at % 40 < 20 else 1e-6 for at in range(len(v))])
STIFF = with_column(NO_RANGE, "I (A)", lambda v: [1e-6 + x * 1e-9 for x in v])

RAISED: list[tuple[Flag, str, Measurement]] = [
    (Flag.INCOMPLETE, "an aborted sweep", SWEEP.first(30)),
    (Flag.INCOMPLETE, "a series cut short", SERIES.first(30)),
    (Flag.INCOMPLETE, "more rows than prescribed", replace(SWEEP, rows=[*SWEEP.rows, *SWEEP.rows])),
    (Flag.OVERFLOW, "one reading", with_column(SWEEP, "I (A)", lambda v: [*v[:9], 9.9e37, *v[10:]])),
    (Flag.OVERFLOW, "negative", with_column(SERIES, "I (A)", lambda v: [*v[:9], -9.9e37, *v[10:]])),
    (Flag.OVERFLOW, "beyond all numbers", with_column(SERIES, "I (A)", lambda v: [math.inf, *v[1:]])),
    (Flag.SATURATED, "105 % of the range", with_column(SERIES, "I (A)", lambda v: [*v[:-1], 1.050022e-4])),
    (
        Flag.SATURATED,
        "105 % in mA",
        with_header(with_column(SERIES, "I (A)", lambda v: [-1.05e-4, *v[1:]]), Irange="0.1 mA"),
    ),
    (
        Flag.SATURATED,
        "a series held at its range",
        with_column(SERIES, "I (A)", lambda v: [*v[:20], *[1e-4] * 8, *v[28:]]),
    ),
    (Flag.SATURATED, "a sweep held by an unknown limit", with_column(NO_RANGE, "I (A)", clipped(4e-7))),
    (Flag.SATURATED, "a voltage", with_column(vvg(), "VDS (V)", lambda v: [*v[:-1], 1.0499])),
    (Flag.CONSTANT_CURRENT, "a dead sweep", with_column(SWEEP, "I (A)", lambda v: [1e-12] * len(v))),
    (Flag.CONSTANT_CURRENT, "a dead series", with_column(SERIES, "I (A)", lambda v: [0.0] * len(v))),
    (Flag.CONSTANT_CURRENT, "a dead voltage", with_column(vvg(), "VDS (V)", lambda v: [0.5] * len(v))),
    (Flag.NAN_READINGS, "one reading", with_column(SWEEP, "I (A)", lambda v: [*v[:9], math.nan, *v[10:]])),
    (Flag.NAN_READINGS, "all readings", with_column(SERIES, "I (A)", lambda v: [math.nan] * len(v))),
    (Flag.NO_LIGHT, "dark all through", DARK),
    (Flag.TIME_BACKWARDS, "two runs in one file", with_column(SERIES, "t (s)", back)),
    (Flag.TIME_BACKWARDS, "two sweeps in one file", TWICE),
    (Flag.TIME_BACKWARDS, "beside a NaN", with_column(vvg(), "t (s)", lambda v: [*v[:4], math.nan, 0.1, *v[6:]])),
]

NOT_RAISED: list[tuple[Flag, str, Measurement]] = [
    (Flag.INCOMPLETE, "nothing known of its end", replace(SERIES, procedure="Stress")),
    (Flag.OVERFLOW, "just below", with_column(SWEEP, "I (A)", lambda v: [9.8e36, *v[1:]])),
    (Flag.SATURATED, "an overflow, which is no reading", with_column(SWEEP, "I (A)", lambda v: [9.9e37, *v[1:]])),
    (Flag.SATURATED, "in the legal excess of the range", with_column(SERIES, "I (A)", lambda v: [1.03e-4, *v[1:]])),
    (Flag.SATURATED, "light without noise", with_header(PHOTO, Irange="0 A")),
    (Flag.SATURATED, "seven rows", with_column(NO_RANGE, "I (A)", lambda v: [*v[:9], *[9e-7] * 7, *v[16:]])),
    (Flag.SATURATED, "a device that does not answer", STIFF),
    (Flag.SATURATED, "ohmic, fine steps", with_header(ivg(2, step=0.01), Irange="0 A")),
    (
        Flag.SATURATED,
        "steps of 10 nA in a range of 10 mA",
        with_header(
            with_column(SWEEP, "I (A)", lambda v: [round(1e-8 * (at // 9), 8) for at in range(len(v))]),
            Irange="0.01 A",
        ),
    ),
    (Flag.CONSTANT_CURRENT, "nine rows", with_column(SWEEP, "I (A)", lambda v: [1e-12] * len(v)).first(9)),
    (
        Flag.CONSTANT_CURRENT,
        "one row differs",
        with_column(SWEEP, "I (A)", lambda v: [*v[:1] * 40, v[1], *v[:1] * (len(v) - 41)]),
    ),
    (Flag.NAN_READINGS, "a sensor that is off", SWEEP),
    (Flag.NO_LIGHT, "no laser asked for", with_header(DARK, **{"Laser voltage": "0 V"})),
    (Flag.NO_LIGHT, "the program's switch was off", with_header(DARK, **{"Laser toggle": "False"})),
    (Flag.NO_LIGHT, "cut before the light was due", SERIES.first(15)),
    (Flag.NO_LIGHT, "a procedure without such a column", iv(1)),
    (Flag.TIME_BACKWARDS, "the same time twice", with_column(SERIES, "t (s)", lambda v: [v[0], v[0], *v[2:]])),
    (Flag.TIME_BACKWARDS, "each sweep has its own", replace(TWICE, procedure="VVgCooldown")),
]


def case(one: tuple[Flag, str, Measurement]) -> str:
    return f"{one[0]}: {one[1]}"


@pytest.mark.parametrize("one", RAISED, ids=case)
def test_raised(one: tuple[Flag, str, Measurement]) -> None:
    """What a flag stands for raises it."""
    assert one[0] in flags(one[2])


@pytest.mark.parametrize("one", NOT_RAISED, ids=case)
def test_not_raised(one: tuple[Flag, str, Measurement]) -> None:
    """What only resembles it does not."""
    assert one[0] not in flags(one[2])


@pytest.mark.parametrize("make", [iv, ivg, it])
@pytest.mark.parametrize("seed", range(4))
def test_sound_runs_have_none(make: Callable[[int], Measurement], seed: int) -> None:
    """A whole measurement with noise has no flag at all."""
    assert flags(make(seed)) == set()


def test_every_flag_is_tested_and_told() -> None:
    """Each flag has an example for and against it, and a sentence that the documentation repeats."""
    by_columns = set(Flag) - {Flag.CLOCK_MISMATCH}
    assert {flag for flag, *_ in RAISED} == {flag for flag, *_ in NOT_RAISED} == by_columns
    assert set(MEANINGS) == set(Flag)
    told = DOCS.read_text(encoding="utf-8")
    assert [flag for flag in Flag if f"| `{flag}` | {MEANINGS[flag]} |" not in told] == []


# -- properties

NAMES = ("I (A)", "VDS (V)", "P (W)", "VL (V)", "t (s)", "Time (s)", "Vg (V)", "anything")
VALUES = st.floats() | st.sampled_from([0.0, -0.0, 1e-4, 1.05e-4, 9.9e37, -9.9e37, math.nan, math.inf, -math.inf])


@st.composite
def tables(draw: st.DrawFn) -> dict[str, list[float]]:
    rows = draw(st.integers(0, 30))
    names = draw(st.sets(st.sampled_from(NAMES)))
    level = st.lists(VALUES, min_size=rows, max_size=rows) | VALUES.map(lambda value: [value] * rows)
    return {name: draw(level) for name in sorted(names)}


def told(columns: Mapping[str, pa.Array | pa.ChunkedArray], question: dict[str, object]) -> tuple[str, ...]:
    return quality.of_columns({n: c.to_numpy() for n, c in columns.items()}, **question)  # type: ignore[arg-type]


QUESTIONS = st.fixed_dictionaries(
    {
        "complete": st.sampled_from([True, False, None]),
        "ranges": st.dictionaries(st.sampled_from(NAMES), st.none() | st.floats()),
        "swept": st.none() | st.sampled_from(NAMES),
        "lit": st.booleans(),
        "one_time": st.booleans(),
    }
)


@given(tables(), QUESTIONS)
def test_any_rows_have_flags(columns: dict[str, list[float]], question: dict[str, object]) -> None:
    """Whatever the values, none or one or all NaN, there is an answer, in order, without a warning."""
    found = told({name: pa.array(values, pa.float64()) for name, values in columns.items()}, question)
    order = [str(flag) for flag in Flag]
    assert list(found) == sorted(set(found), key=order.index)


@given(tables(), QUESTIONS, st.data())
def test_chunks_do_not_matter(
    columns: dict[str, list[float]], question: dict[str, object], data: st.DataObject
) -> None:
    """Columns that come in pieces have the flags of the whole."""
    whole, pieces = {}, {}
    for name, values in columns.items():
        cut = data.draw(st.integers(0, len(values)))
        whole[name] = pa.array(values, pa.float64())
        pieces[name] = pa.chunked_array([values[:cut], values[cut:]], pa.float64())
    assert told(whole, question) == told(pieces, question)


@given(tables(), QUESTIONS, st.randoms())
def test_order_of_columns_does_not_matter(
    columns: dict[str, list[float]], question: dict[str, object], chance: object
) -> None:
    """It is the names of the columns that count, not their places."""
    arrays = {name: pa.array(values, pa.float64()) for name, values in columns.items()}
    shuffled = list(arrays.items())
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert told(arrays, question) == told(dict(shuffled), question)


@given(st.lists(st.floats(1e-9, 9e-5), min_size=20, max_size=60), st.integers(0, 50), st.integers(8, 20))
def test_a_limit_is_found_wherever_it_holds(currents: list[float], at: int, rows: int) -> None:
    """Rows held at 105 % of the range are found at any place of a run."""
    held = [*currents[:at], *[1.050022e-4] * rows, *currents[at:]]
    for swept in (None, "Vg (V)"):
        columns = {"I (A)": np.array(held)}
        assert quality.of_columns(columns, complete=True, ranges={"I (A)": 1e-4}, swept=swept, lit=False) == (
            Flag.SATURATED,
        )


COARSE = st.floats(1e-3, 2.0)
"""A step between readings, as a part of the largest one."""


def there_and_back(rows: int, offset: float, power: float) -> np.ndarray:
    """Give a smooth response to a gate that goes from -1 to 1 and back, from `offset` to 1 at the most."""
    leg = np.linspace(0.0, 1.0, rows) ** power * (1 - offset) + offset
    return np.concatenate((leg, leg[::-1]))


def saturated(values: np.ndarray, range_: float = 0.0) -> bool:
    found = quality.of_columns({"I (A)": values}, complete=True, ranges={"I (A)": range_}, swept="Vg (V)", lit=False)
    return Flag.SATURATED in found


@given(st.integers(20, 2000), st.floats(-1.0, 0.9), st.floats(0.4, 3.0), COARSE, st.floats(1e-9, 1e-3))
def test_coarse_readings_are_no_limit(rows: int, offset: float, power: float, step: float, scale: float) -> None:
    """Readings in coarse steps stand still for rows at their extreme, as everywhere: that is no limit."""
    smooth = there_and_back(rows, offset, power)
    assert not saturated(np.round(smooth / step) * step * scale)


@given(
    *(st.integers(60, 600), st.floats(-0.4, 0.2), st.floats(0.6, 0.9), st.integers(2, 50), st.floats(1e-9, 1e-3)),
    st.booleans(),
)
def test_a_limit_is_told_in_coarse_readings_too(
    rows: int, offset: float, limit: float, steps_a_row: int, scale: float, floor: bool
) -> None:
    """Where the readings move with each row and then stand still, a limit holds them, however coarse they are."""
    step = (1 - offset) / rows / steps_a_row
    held = np.minimum(there_and_back(rows, offset, 1.0), limit)
    if floor:  # a device that is off in the lower half of the sweep
        held = np.maximum(held, limit * 0.3)
    assert saturated(np.round(held / step) * step * scale)


def test_a_switch_held_by_a_limit() -> None:
    """A device that jumps to the limit within a row is told by the noise of what it reads, and not without any."""
    noise = np.random.default_rng(1).normal(0.0, 1e-12, 40)
    jump = np.concatenate((noise, np.full(40, 1e-6), noise))
    assert saturated(jump)
    assert not saturated(np.where(jump > 1e-9, 1e-6, 0.0))


# -- the clock and the file's name

START = "2025-10-23"


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("It2025-10-23_4.csv", True),
        ("It22025-10-23_4.csv", True),
        ("It2025-10-22_4.csv", True),  # queued in the evening, begun past midnight
        ("It2025-10-16_4.csv", True),  # the longest queue
        ("It2025-10-15_4.csv", False),
        ("It2024-10-23_4.csv", False),
        ("It2025-10-24_4.csv", False),  # nothing begins before it is queued
        ("It2025-10-24_4 of 2025-10-22.csv", True),
        ("2020-01-01/It2025-10-23_4.csv", True),
        ("2020-01-01/It_4.csv", True),  # people name folders as they like
        ("It_4.csv", True),
        ("It2025-13-45_4.csv", True),
        ("caf\udce9 2020-01-01.csv", False),
    ],
)
def test_clock_and_name(name: str, fits: bool) -> None:
    """A date in the name of the file fits if a queue explains it; a name without one tells nothing."""
    path = name.encode("utf-8", "surrogateescape")
    assert quality.misdated([("run", START, path)]) == (set() if fits else {"run"})


DAYS = st.integers(-30, 30).map(lambda days: date.fromisoformat(START) + timedelta(days))
COPIES = st.lists(DAYS.map(lambda day: f"x/It{day}_1.csv".encode()) | st.just(b"x.csv"), max_size=5)


@given(COPIES, st.randoms())
def test_one_copy_that_fits_is_enough(names: list[bytes], chance: object) -> None:
    """In whatever order copies came, the answer is that of their set: one name that fits explains all others."""
    shuffled = list(names)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    alone = [bool(quality.misdated([("run", START, name)])) for name in names if name != b"x.csv"]
    expected = {"run"} if alone and all(alone) else set()
    assert quality.misdated([("run", START, name) for name in shuffled]) == expected


# -- the real files

CUT = {
    "IV2025-09-12_1.csv": (74, 404, None),
    "IVg2025-09-04_11.csv": (799, 1201, None),
    "IVg2025-09-04_12.csv": (201, 301, None),
    "IVg2025-09-12_1.csv": (483, 601, None),
    "IVg2025-09-12_2.csv": (59, 601, None),
}
"""The sweeps that were aborted: rows present and expected."""

HELD = "Alisson_04_sept/IVg2025-09-04_1.csv"
"""The first measurement of a chip, with a range of 0.1 mA: its current stays at 0.10500 mA over 31 set points."""


@pytest.mark.skipif(not real_files(), reason="no real instrument files here")
def test_real_files() -> None:
    """Whole runs are proven whole, cut ones named with their rows, and one flag besides is raised, rightly."""
    raised: dict[str, list[str]] = {}
    names = Counter(path.name for path in real_files())
    cut_here = {name: rows for name, rows in CUT.items() if name in names}
    found_cut: dict[str, tuple[int, int | None, float | None]] = {}
    for path in real_files():
        contents = path.read_bytes()
        relative = str(path.relative_to(REAL_DATA))
        header = parse_header(contents)
        if not contents[header.data_offset :]:
            continue  # queued, never measured
        facts = judged(contents, relative.encode()).facts
        end = facts.completeness
        if path.name in cut_here:
            found_cut[path.name] = (facts.rows, end.expected_rows, end.expected_end_s)
            assert f"{facts.rows} of {end.expected_rows} rows" in end.rule
        else:
            assert end.complete is True, (relative, end)
        misdated = quality.misdated([("run", facts.date, relative.encode())])
        told = quality.with_clock(facts.flags, disagrees=bool(misdated))
        if told:
            raised[relative] = list(told)
    assert found_cut == cut_here
    expected = {str(p.relative_to(REAL_DATA)): ["incomplete"] for p in real_files() if p.name in cut_here}
    if any(str(p.relative_to(REAL_DATA)) == HELD for p in real_files()):
        expected[HELD] = ["saturated"]
    assert raised == expected


@pytest.mark.skipif(not real_files(), reason="no real instrument files here")
def test_real_series_cut_short() -> None:
    """A real time series is whole with its last row, and named as cut, with both times, with any fewer."""
    seen = 0
    for path in real_files():
        contents = path.read_bytes()
        header = parse_header(contents)
        lines = contents[header.data_offset :].splitlines(keepends=True)
        if header.procedure != "It" or len(lines) < 3 or len(lines) > 3000 or seen == 12:
            continue
        seen += 1
        head = contents[: header.data_offset]
        assert judged(contents).facts.completeness.complete is True
        for rows in (1, len(lines) // 3, len(lines) - 2):
            facts = judged(head + b"".join(lines[:rows])).facts
            last = float(lines[rows - 1].split(b",")[0])
            assert facts.flags == (Flag.INCOMPLETE,), (path, rows)
            assert facts.completeness.expected_end_s is not None
            assert facts.completeness.rule.startswith(f"the last row is at {last:g} s of ")
            assert last < facts.completeness.expected_end_s
    assert seen


def test_instrument_files_of_tests_are_sound(tmp_path: Path) -> None:
    """The lab that other tests use has no flags but for its aborted runs."""
    made = instrument.lab(tmp_path, 12)
    found = {name: flags(one) for name, one in made.items() if one.start_time is not None and one.rows}
    assert {flag for one in found.values() for flag in one} <= {"incomplete"}


@pytest.mark.parametrize(
    "simulated",
    [
        simulate.iv(1.0, 0.01, seed=1, course=simulate.Course()),
        simulate.ivg(5.0, 0.05, seed=1, course=simulate.Course()),
        simulate.it(2.0, 1.25, seed=1, course=simulate.Course()),
    ],
    ids=lambda one: one.procedure,
)
def test_the_simulated_instrument_is_sound(simulated: simulate.Measurement) -> None:
    """The instrument of the demo measures nothing that a real one could not."""
    rows = [",".join(map(repr, row)) for row in simulated.rows]
    made = Measurement(simulated.procedure, simulated.parameters, simulated.columns, rows)
    assert flags(made) == set()
