"""Set points, ends in time, completeness and silences, against numpy and the lab's own files."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nanolab_daemon.header import parse_header
from nanolab_daemon.model import BEYOND_END, Completeness, Header
from nanolab_daemon.procedures import PathKind, Procedure, Registry
from nanolab_daemon.ramps import (
    MAX_POINTS,
    arange,
    burn_in_s,
    completeness,
    expectation,
    is_proven,
    longest_silence_s,
    proof_column,
    set_points,
    step_time_s,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import formulas
from procedure_files import header_of
from realdata import real_files

REGISTRY = Registry.builtin()
BEFORE_TWO_STEPS = "1735732800"  # 2025-01-01
SUMMER_2025 = "1752364800"  # 2025-07-13
OCTOBER_2025 = "1760370548.4"
NEXT_YEAR = "1775000000"
volts = st.integers(-4000, 4000).map(lambda n: n / 100)
steps = st.sampled_from([0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.3, 0.7, 1.0])


def known(name: str) -> Procedure:
    procedure = REGISTRY.get(name)
    assert procedure is not None
    return procedure


def sweep(
    name: str, start: float, end: float, step: float, start_time: str | None = OCTOBER_2025, **more: str
) -> tuple[Procedure, Header]:
    procedure = known(name)
    assert procedure.start
    assert procedure.end
    assert procedure.step
    unit = procedure.parameters[procedure.start].unit
    values = {procedure.start: start, procedure.end: end, procedure.step: step}
    texts = {key: f"{value:g} {unit}" for key, value in values.items()}
    return procedure, header_of(
        name, {**texts, **{key.replace("_", " "): text for key, text in more.items()}}, start_time
    )


def judged(procedure: Procedure, header: Header, values: Sequence[float]) -> Completeness:
    return completeness(procedure, header, len(values), values, None)


# --- set points


RULES = {
    PathKind.ZERO_START_END_START_ZERO_MET: formulas.there_and_back_met,
    PathKind.TWO_STEPS_MET: formulas.two_steps_met,
    PathKind.ZERO_START_END_START_ZERO: formulas.there_and_back,
    PathKind.TWO_STEPS: formulas.two_steps,
    PathKind.ZERO_START_END_ZERO: formulas.zero_start_end_zero,
    PathKind.START_END: formulas.start_end,
    PathKind.START_END_START: formulas.up_down,
}


@given(
    st.floats(-1e6, 1e6) | volts,
    st.floats(-1e6, 1e6) | volts,
    st.floats(1e-3, 1e6).flatmap(lambda step: st.sampled_from([step, -step])) | steps,
)
def test_arange_is_numpys_bit_for_bit(start: float, stop: float, step: float) -> None:
    """The set points of the instrument program come from numpy.arange, so its arithmetic is repeated exactly."""
    assume(abs((stop - start) / step) < 5000)
    assert arange(start, stop, step).tolist() == np.arange(start, stop, step).tolist()


@pytest.mark.parametrize("kind", RULES)
@settings(max_examples=60)
@given(start=volts, end=volts, step=steps | st.sampled_from([1e-3, 5e-4]))
def test_paths_are_those_of_the_program(kind: PathKind, start: float, end: float, step: float) -> None:
    """Each path is that of the program, also where its arguments make little sense."""
    assume(abs(start) + abs(end) < 8000 * step)
    points = set_points(kind, start, end, step)
    assert points is not None
    assert points.tolist() == RULES[kind](start, end, step).tolist()


@pytest.mark.parametrize("kind", [PathKind.ZERO_START_END_START_ZERO_MET, PathKind.TWO_STEPS_MET])
@settings(max_examples=60)
@given(start=volts, end=volts, step=steps)
def test_paths_that_meet_their_ends(kind: PathKind, start: float, end: float, step: float) -> None:
    """The newest paths begin and end at zero, hold both ends, take no step twice and none longer than asked for."""
    assume(abs(start) > 1e-3 and abs(end) > 1e-3 and abs(start - end) > 1e-2 and abs(start) + abs(end) < 2000 * step)
    points = set_points(kind, start, end, step)
    assert points is not None
    assert points[0] == points[-1] == 0.0
    assert {start, end} <= set(points)
    jumps = np.abs(np.diff(points))
    assert jumps.min() > 1e-12
    assert jumps.max() <= step + 1e-9


@pytest.mark.parametrize(
    ("name", "arguments", "rows"),
    [
        ("IVg", (-5, 5, 0.05), 601),
        ("IVg", (-5, 5, 0.1), 301),
        ("IVg", (-5, 5, 0.2), 151),
        ("IVg", (-5, 5, 0.01), 3001),
        ("IVg", (-20, 20, 0.1), 1201),
        ("IVg", (-35, 35, 0.2), 1051),
        ("IVg", (5, -5, 0.05), 200),
        ("VVg", (-5, 5, 0.05), 401),
        ("IV", (-0.1, 0.1, 0.01), 44),
        ("IV", (-1, 1, 0.01), 404),
        ("IV", (1, -1, 0.01), 404),
        ("IV", (0, 1, 0.01), 203),
        ("IV", (-0.01, 0.01, 1e-4), 97),
        ("IV", (-0.001, 0.001, 1e-6), 2008),
        ("LaserCalibration", (0, 5, 0.1), 51),
    ],
)
def test_row_counts_of_the_lab(name: str, arguments: tuple[float, float, float], rows: int) -> None:
    """The sweeps that the lab runs have the row counts that its files have."""
    assert expectation(*sweep(name, *arguments)).rows[0] == rows


def test_every_path_kind_has_arithmetic() -> None:
    """No path can be configured that has no set points."""
    for kind in PathKind:
        assert set_points(kind, -1.0, 1.0, 0.1)


@pytest.mark.parametrize("kind", list(PathKind))
@pytest.mark.parametrize(
    "arguments",
    [(-1.0, 1.0, 1e-12), (-1.0, 1.0, 0.0), (-1e300, 1e300, 1e-300), (-1.0, 1.0, 5e-324), (0.0, float("inf"), 1.0)],
)
def test_absurd_headers_cost_nothing(kind: PathKind, arguments: tuple[float, float, float]) -> None:
    """A header that asks for billions of points, or for none, is answered at once, with a ramp or nothing."""
    begun = time.perf_counter()
    points = set_points(kind, *arguments)
    assert points is None or len(points) <= MAX_POINTS
    assert time.perf_counter() - begun < 2


@given(st.floats(), st.floats(), st.floats())
@settings(max_examples=60, deadline=None)
def test_any_floats_give_a_ramp_or_none(start: float, end: float, step: float) -> None:
    """No numbers make the arithmetic fail."""
    assume(step != step or abs(step) > 1e-3 * max(abs(start), abs(end)) or abs(step) < 1e-300)
    for kind in PathKind:
        set_points(kind, start, end, step)


# --- rows


JULY_13, BEFORE = SUMMER_2025, BEFORE_TWO_STEPS
THERE_AND_BACK, HOME = PathKind.ZERO_START_END_START_ZERO, PathKind.ZERO_START_END_ZERO
TWO, TWO_MET, BACK_MET = PathKind.TWO_STEPS, PathKind.TWO_STEPS_MET, PathKind.ZERO_START_END_START_ZERO_MET
AGAIN = "Number of sweep repetitions"
PROGRAMS = [  # procedure, path that is run, others that such a header allows, Start time, the rest of the header
    ("IV", TWO, [TWO_MET], NEXT_YEAR, {"Procedure version": "2.0.1"}),
    ("IV", TWO, [TWO_MET, THERE_AND_BACK], BEFORE, {"Procedure version": "1.5.0"}),
    ("IV", TWO_MET, [TWO], NEXT_YEAR, {"Procedure version": "2.0.1"}),
    ("IV", TWO, [TWO_MET], NEXT_YEAR, {AGAIN: "3"}),
    ("IV", THERE_AND_BACK, [TWO, TWO_MET], BEFORE, {"Procedure version": "1.4.0"}),
    ("IVT", TWO, [TWO_MET, THERE_AND_BACK], OCTOBER_2025, {}),
    ("IVg", THERE_AND_BACK, [BACK_MET], OCTOBER_2025, {}),
    ("IVg", BACK_MET, [THERE_AND_BACK], NEXT_YEAR, {}),
    ("IVg", THERE_AND_BACK, [BACK_MET], NEXT_YEAR, {AGAIN: "2"}),
    ("IVgT", THERE_AND_BACK, [BACK_MET], BEFORE, {}),
    ("VVg", THERE_AND_BACK, [], JULY_13, {}),
    ("VVg", HOME, [THERE_AND_BACK], OCTOBER_2025, {}),
    ("VVg", THERE_AND_BACK, [HOME], OCTOBER_2025, {}),
    ("VVg", HOME, [], NEXT_YEAR, {}),
    ("VVg", HOME, [], NEXT_YEAR, {AGAIN: "4"}),
    ("VVgCooldown", HOME, [], NEXT_YEAR, {AGAIN: "2"}),
    ("LaserCalibration", PathKind.START_END, [], NEXT_YEAR, {}),
    ("Pwl", PathKind.START_END, [], NEXT_YEAR, {}),
    ("Iwl", PathKind.START_END, [], BEFORE, {}),
]
FINE = st.sampled_from([1e-6, 1e-5, 1e-4, 5e-4, 1e-3])


def close(one: np.ndarray, other: np.ndarray, step: float) -> bool:
    """Tell whether two sweeps are, row for row, the same set points."""
    return len(one) == len(other) and bool(np.all(np.abs(one - other) <= 1e-9 + 1e-6 * step))


@pytest.mark.parametrize(("name", "kind", "besides", "start_time", "more"), PROGRAMS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_proven_at_the_last_row_and_no_earlier(
    name: str, kind: PathKind, besides: list[PathKind], start_time: str, more: dict[str, str], data: st.DataObject
) -> None:
    """A ramp that the instrument's formula makes is proven complete with its last row, and with none before it."""
    step = data.draw(FINE if "two steps" in kind and data.draw(st.booleans()) else steps)
    reach = st.integers(-300, 300).map(lambda n: float(f"{n * step:.5g}"))
    start, end = data.draw(reach), data.draw(reach)
    repeats = int(more.get(AGAIN, 1))
    points = np.tile(RULES[kind](start, end, step), repeats)
    assume(2 < len(points) < 6000)
    procedure, header = sweep(name, start, end, step, start_time, **more)
    others = [np.tile(RULES[other](start, end, step), repeats) for other in besides]
    longer = [other for other in others if len(other) > len(points)]
    hidden = any(abs(other[len(points) - 1] - points[-1]) <= 1e-9 + 1e-6 * step for other in longer)

    proven = [n for n in range(1, len(points) + 1) if is_proven(procedure, header, n, points[n - 1])]
    assert len(points) in expectation(procedure, header).rows
    assert proven == ([] if hidden else [len(points)])
    verdict = judged(procedure, header, points)
    assert (verdict.complete, verdict.expected_rows) == (True, len(points))
    for rows in {len(points) - 1, data.draw(st.integers(1, len(points) - 1))}:
        ends_here = any(close(points[:rows], other, step) for other in others)
        assert judged(procedure, header, points[:rows]).complete is ends_here


@settings(max_examples=60)
@given(st.integers(-20, 60), st.integers(-20, 60), st.integers(1, 20), st.integers(1, 600))
def test_tt_lasts_as_long_as_its_set_points(start: int, end: int, step: int, step_time: int) -> None:
    """A Tt ends after as many step times as the instrument's formula has temperatures, and not before."""
    temperatures = formulas.start_end(float(start), float(end), float(step))
    assume(len(temperatures))
    procedure, header = sweep("Tt", start, end, step, NEXT_YEAR, **{"Step time": f"{step_time} s"})
    end_s = float(len(temperatures) * step_time)
    assert expectation(procedure, header).end_s == end_s
    assert completeness(procedure, header, 9, [], [end_s - 0.1]).complete is True
    assert completeness(procedure, header, 9, [], [end_s - 3.0]).complete is False


@settings(max_examples=60)
@given(volts, volts, steps, st.integers(5, 600), st.sampled_from(["0 V", "2.1 V"]))
def test_itvg_lasts_as_long_as_its_staircase(
    start: float, end: float, step: float, step_time: int, laser: str
) -> None:
    """An ItVg ends after as many step times as the instrument's formula has plateaus, a lit one a burn-in later."""
    plateaus = formulas.up_down(start, end, step)
    assume(0 < len(plateaus) < 2000)
    more = {"Step time": f"{step_time} s", "Burn-in time": "60 s", "Laser voltage": laser}
    procedure = known("ItVg")
    swept = {"VG start": f"{start:g} V", "VG end": f"{end:g} V", "VG step": f"{step:g} V"}
    header = header_of("ItVg", {**swept, **more})
    end_s = float(len(plateaus) * step_time + 60 * (laser != "0 V"))
    assert expectation(procedure, header).end_s == end_s
    assert completeness(procedure, header, 9, [], [end_s]).complete is True
    six_digits = 1e-5 * end_s  # so far from each other two times may be that the header writes alike
    early, late = end_s - 0.1 - six_digits, end_s + 0.1 + six_digits
    assert completeness(procedure, header, 9, [], [early]).complete is False
    assert is_proven(procedure, header, 9, late) is (step_time >= 10)
    assert not is_proven(procedure, header, 9, early)


def test_zero_on_the_way_is_not_the_end() -> None:
    """A gate sweep aborted as it crosses zero looks like its end, and is not."""
    procedure, header = sweep("IVg", -5, 5, 0.1)
    points = set_points(PathKind.ZERO_START_END_START_ZERO, -5.0, 5.0, 0.1)
    assert points is not None
    assert abs(points[200]) < 1e-12
    assert not is_proven(procedure, header, 201, points[200])
    verdict = judged(procedure, header, points[:201])
    assert (verdict.complete, verdict.expected_rows) == (False, 301)


def test_rows_without_the_set_points_are_not_complete() -> None:
    """The right number of rows with other values is no proof."""
    procedure, header = sweep("IVg", -5, 5, 0.1)
    points = list(set_points(PathKind.ZERO_START_END_START_ZERO, -5.0, 5.0, 0.1) or [])
    points[150] += 0.01
    verdict = judged(procedure, header, points)
    assert verdict.complete is None
    assert "not those that the header prescribes" in verdict.rule
    assert judged(procedure, header, [float("nan")] * 301).complete is None
    assert judged(procedure, header, [*points[:140], 7.0]).complete is False
    assert not is_proven(procedure, header, 301, 0.5)
    assert not is_proven(procedure, header, 301, float("nan"))


def test_more_rows_than_prescribed() -> None:
    """Rows beyond the sweep make a run odd, not complete."""
    procedure, header = sweep("IVg", -5, 5, 0.1)
    points = list(set_points(PathKind.ZERO_START_END_START_ZERO, -5.0, 5.0, 0.1) or [])
    verdict = judged(procedure, header, [*points, 0.0])
    assert (verdict.complete, verdict.expected_rows) == (False, 301)
    assert "302 rows, more than the 301" in verdict.rule
    assert not is_proven(procedure, header, 302, 0.0)


def test_old_iv_is_told_by_its_set_points() -> None:
    """An IV of 2024 runs the old path, in which its rows are judged."""
    procedure, header = sweep("IV", -1, 1, 0.1, BEFORE_TWO_STEPS, Procedure_version="1.4.0")
    points = list(set_points(PathKind.ZERO_START_END_START_ZERO, -1.0, 1.0, 0.1) or [])
    assert judged(procedure, header, points) == Completeness(
        True, 61, None, "61 of 61 rows, every set point as the header prescribes (zero-start-end-start-zero)"
    )
    assert judged(procedure, header, points[:30]).expected_rows == 61


def test_path_of_an_ambiguous_version_is_told_by_the_rows() -> None:
    """Where version and date allow both paths of IV, the rows decide."""
    procedure, header = sweep("IV", -1, 1, 0.1, "1738500000", Procedure_version="1.5.0")
    for kind in (PathKind.TWO_STEPS, PathKind.ZERO_START_END_START_ZERO):
        points = list(set_points(kind, -1.0, 1.0, 0.1) or [])
        assert judged(procedure, header, points).complete is True
        verdict = judged(procedure, header, points[:20])
        assert (verdict.complete, verdict.expected_rows) == (False, len(points))


def test_new_version_excludes_the_old_path() -> None:
    """From Procedure version 2.0.0 on an IV has the new path alone."""
    assert 601 not in expectation(*sweep("IV", -1, 1, 0.01, Procedure_version="2.0.1")).rows
    assert 601 in expectation(*sweep("IV", -1, 1, 0.01, Procedure_version="1.5.0")).rows


def test_vvg_of_both_weeks() -> None:
    """A VVg is as long as the program of its day made it; where either is possible, nothing is proven early."""
    points = list(set_points(PathKind.ZERO_START_END_START_ZERO, -5.0, 5.0, 0.05) or [])
    procedure, header = sweep("VVg", -5, 5, 0.05, SUMMER_2025)
    assert expectation(procedure, header).rows == (601,)
    assert judged(procedure, header, points[:401]).complete is False
    procedure, header = sweep("VVg", -5, 5, 0.05, OCTOBER_2025)
    assert expectation(procedure, header).rows == (401, 601)
    assert judged(procedure, header, points[:401]).complete is True
    assert judged(procedure, header, points[:402]).expected_rows == 601
    assert not is_proven(procedure, header, 401, 0.0)
    assert is_proven(procedure, header, 601, 0.0)
    procedure, header = sweep("VVg", -5, 5, 0.05, NEXT_YEAR)
    assert is_proven(procedure, header, 401, 0.0)


def test_repeated_sweeps() -> None:
    """A header that asks for three sweeps expects three times the rows."""
    procedure, header = sweep("VVg", -1, 1, 0.1, NEXT_YEAR, Number_of_sweep_repetitions="3")
    points = list(set_points(PathKind.ZERO_START_END_ZERO, -1.0, 1.0, 0.1) or [])
    assert judged(procedure, header, points * 3).complete is True
    assert judged(procedure, header, points).complete is False
    assert not is_proven(procedure, header, len(points), points[-1])
    assert is_proven(procedure, header, 3 * len(points), points[-1])
    cooldown, header = sweep("VVgCooldown", -1, 1, 0.1, NEXT_YEAR)
    assert judged(cooldown, header, points).complete is None


def test_rounded_header_is_no_false_alarm() -> None:
    """A step that the header shows with six digits may have had more: a small misfit is not called incomplete."""
    procedure, header = sweep("IVg", -5, 5, 1 / 30)
    points = list(set_points(PathKind.ZERO_START_END_START_ZERO, -5.0, 5.0, 1 / 30) or [])
    verdict = judged(procedure, header, points)
    assert verdict.complete is None
    assert "six digits" in verdict.rule
    assert judged(procedure, header, points[:100]).complete is False
    assert not is_proven(procedure, header, len(points), points[-1])


def test_header_without_the_sweep() -> None:
    """Without its parameters nothing is known of a sweep's end."""
    procedure, header = known("IVg"), header_of("IVg", {"VG start": "-5 V", "VG end": "5 V"})
    assert expectation(procedure, header).rows == ()
    assert judged(procedure, header, [0.0]).complete is None
    assert not is_proven(procedure, header, 1, 0.0)


@pytest.mark.parametrize("name", ["Stress", "FakeProcedure", "Wait"])
def test_procedures_without_an_end(name: str) -> None:
    """Where nothing tells the end, the answer says so."""
    verdict = completeness(known(name), header_of(name, {}), 10, [], [3.0])
    assert verdict.complete is None
    assert verdict.rule
    assert proof_column(known(name)) is None


def test_unknown_procedure() -> None:
    """Nothing is claimed of a procedure that is not known."""
    header = header_of("Novel", {"VG start": "-5 V"})
    assert completeness(None, header, 10, [], [3.0]).complete is None
    assert not is_proven(None, header, 10, 0.0)


# --- time

PHASES = {f"Phase {n} duration (laser {state})": f"{n}0 s" for n, state in ((1, "OFF"), (2, "ON"), (3, "OFF"))}
STAIRCASE = {"VG start": "-1 V", "VG end": "1 V", "VG step": "0 V", "Step time": "30 s", "Burn-in time": "60 s"}
TEMPERATURES = {"T start": "25 C", "T end": "45 C", "T step": "10 C", "Step time": "60 s"}


@pytest.mark.parametrize(
    ("name", "parameters", "end_s"),
    [
        ("It", {"Laser ON+OFF period": "120 s"}, 180.0),
        ("ITt", {"Laser ON+OFF period": "120 s"}, 180.0),
        ("Vt", {"Laser ON+OFF period": "120 s"}, 180.0),
        ("Pt", {"Laser ON+OFF period": "120 s"}, 180.0),
        ("It2", PHASES, 60.0),
        ("ItVg", STAIRCASE, 90.0),
        ("ItVg", {**STAIRCASE, "Laser voltage": "1 V"}, 150.0),
        ("ItVg", {**STAIRCASE, "Laser voltage": "1 V", "Laser toggle": "False"}, 90.0),
        ("ItWl", {"Burn-in time": "60 s", "Step time": "120 s"}, 180.0),
    ],
)
def test_time_series_end_where_the_header_says(name: str, parameters: dict[str, str], end_s: float) -> None:
    """A time series is complete, and proven so, once its last row reaches the end that the header gives."""
    procedure, header = known(name), header_of(name, parameters)
    assert expectation(procedure, header).end_s == end_s
    assert proof_column(procedure) == "t (s)"
    for last, complete in ((end_s + 0.1, True), (end_s, True), (end_s - 1, False), (float("nan"), False)):
        verdict = completeness(procedure, header, 100, [], [last])
        assert (verdict.complete, verdict.expected_end_s) == (complete, end_s)
    assert is_proven(procedure, header, 100, end_s + 0.1)
    assert not is_proven(procedure, header, 100, end_s - 0.1)
    assert completeness(procedure, header, 0, [], None).complete is False


def test_a_file_without_a_time_column_is_no_aborted_one() -> None:
    """Files of the first weeks have no column of the time: nothing can be said of their end."""
    verdict = completeness(known("It"), header_of("It", {"Laser ON+OFF period": "120 s"}), 100, [], None)
    assert (verdict.complete, verdict.expected_end_s) == (None, 180.0)
    assert "no column of the time" in verdict.rule


def test_aborted_time_series() -> None:
    """A series of 10,800 s that stops after 2,566 s is not complete, and the words say it."""
    verdict = completeness(known("It"), header_of("It", {"Laser ON+OFF period": "7200 s"}), 30_000, [], [2566.0])
    assert verdict == Completeness(False, None, 10800.0, "the last row is at 2566 s of 10800 s")


@pytest.mark.parametrize(
    "parameters", [{"Laser ON+OFF period": "2 s"}, {**PHASES, "Phase 3 duration (laser OFF)": "0 s"}]
)
def test_short_phases_prove_nothing(parameters: dict[str, str]) -> None:
    """Each phase writes a row though its time be over, so after short phases a late row may not be the last."""
    procedure = known("It2" if len(parameters) > 1 else "It")
    assert not is_proven(procedure, header_of(procedure.name, parameters), 100, 1e4)
    assert completeness(procedure, header_of(procedure.name, parameters), 100, [], [1e4]).complete is True


def test_tt_stops_before_its_end() -> None:
    """Tt looks at the clock before it writes a row, so its last row comes a moment before the end, unproven."""
    procedure, header = known("Tt"), header_of("Tt", {**TEMPERATURES, "Sampling time (excluding Keithley)": "1 s"})
    assert expectation(procedure, header).end_s == 180.0
    assert completeness(procedure, header, 100, [], [178.2]).complete is True
    assert completeness(procedure, header, 100, [], [150.0]).complete is False
    assert proof_column(procedure) is None


def test_older_tt_had_a_period() -> None:
    """Until 2025 a Tt measured for as long as its period said."""
    assert expectation(known("Tt"), header_of("Tt", {"Laser ON+OFF period": "600 s"})).end_s == 600.0


def test_older_itwl_is_left_undecided() -> None:
    """An older program ended ItWl at its step time; a run that stops just there is not called incomplete."""
    procedure, header = known("ItWl"), header_of("ItWl", {"Burn-in time": "60 s", "Step time": "120 s"})
    assert completeness(procedure, header, 100, [], [120.1]).complete is None
    assert completeness(procedure, header, 100, [], [100.0]).complete is False


# --- silences


@pytest.mark.parametrize(
    ("name", "parameters", "burn_in", "between"),
    [
        ("IVg", {"Burn-in time": "300 s", "Laser voltage": "2 V", "Step time": "0.5 s"}, 300.0, 0.5),
        ("IVg", {"Burn-in time": "300 s", "Laser voltage": "0 V"}, 0.0, 0.0),
        ("It", {"Sampling time (excluding Keithley)": "20 s", "Laser ON+OFF period": "120 s"}, 0.0, 20.0),
        ("ItVg", {"Step time": "1800 s", "Burn-in time": "60 s", "Laser voltage": "1 V"}, 0.0, 0.0),
        ("VVgCooldown", {"Inter-sweep wait": "60 s", "Burn-in time": "30 s", "Step time": "1 s"}, 0.0, 90.0),
        ("Novel", {"Step time": "9 s", "Burn-in time": "30 s", "Laser voltage": "1 V"}, 30.0, 9.0),
        ("Wait", {"Wait time": "1000 s"}, 0.0, 1000.0),
        ("IVg", {"Step time": "inf s", "Burn-in time": "inf s", "Laser voltage": "1 V"}, 0.0, 0.0),
        ("IVg", {"Step time": "nan s", "Burn-in time": "-3 s", "Laser voltage": "1 V"}, 0.0, 0.0),
    ],
)
def test_silences(name: str, parameters: dict[str, str], burn_in: float, between: float) -> None:
    """The header tells how long a healthy run may write nothing, before its first row and between two."""
    procedure, header = REGISTRY.get(name), header_of(name, parameters)
    assert burn_in_s(procedure, header) == burn_in
    assert step_time_s(procedure, header) == between
    assert longest_silence_s(procedure, header) == max(burn_in, between)


# --- the lab's own files

ABORTED = {
    ("Alisson_12_sept", "IV2025-09-12_1.csv"): (74, 404),
    ("Alisson_04_sept", "IVg2025-09-04_11.csv"): (799, 1201),
    ("Alisson_04_sept", "IVg2025-09-04_12.csv"): (201, 301),
    ("Alisson_12_sept", "IVg2025-09-12_1.csv"): (483, 601),
    ("Alisson_12_sept", "IVg2025-09-12_2.csv"): (59, 601),
}
CUT = {("2025-10-20", "It2025-10-20_1.csv"), ("Alisson_25_sept", "It2025-09-25_10.csv")}


@pytest.mark.skipif(not real_files(), reason="no real instrument files here")
def test_real_runs_are_judged_as_they_are() -> None:
    """Of the lab's files exactly the aborted ones are called incomplete; the others are proven at their last row."""
    for path in real_files():
        raw = path.read_bytes()
        header = parse_header(raw)
        procedure = known(header.procedure)
        column = proof_column(procedure)
        assert column is not None
        place = procedure.canonical_columns(header.columns).index(column)
        values = [float(line.split(b",")[place]) for line in raw[header.data_offset :].splitlines()]
        swept = values if procedure.swept else []
        verdict = completeness(procedure, header, len(values), swept, values)
        proven = [n for n in _last_rows(values) if is_proven(procedure, header, n, values[n - 1])]
        _check(path, verdict, proven, len(values))


def _last_rows(values: list[float]) -> Sequence[int]:
    return range(max(1, len(values) - 700), len(values) + 1)


def _check(path: Path, verdict: Completeness, proven: list[int], rows: int) -> None:
    key = (path.parent.name, path.name)
    if key in ABORTED:
        assert (rows, verdict.expected_rows) == ABORTED[key]
    if key in ABORTED or key in CUT:
        assert (verdict.complete, proven) == (False, []), path
    else:
        assert (verdict.complete, proven) == (True, [rows]), (path, verdict)


def test_ramps_are_remembered() -> None:
    """The same header again costs no arithmetic: the archive has few kinds of sweep."""
    set_points.cache_clear()
    for _ in itertools.repeat(None, 5):
        is_proven(*sweep("IVg", -5, 5, 0.05), 601, 0.0)
    assert set_points.cache_info().misses <= 2


@given(
    step_s=st.floats(0.05, 1.0),
    before=st.integers(1, 30),
    beyond=st.integers(0, 40),
    blanks=st.sets(st.integers(0, 70), max_size=5),
)
def test_a_time_series_that_goes_on_is_no_proof(step_s: float, before: int, beyond: int, blanks: set[int]) -> None:
    """The program stops right after the end: many rows beyond it contradict the header. NaN times are passed over."""
    header = header_of("It", {"Laser ON+OFF period": "80 s"})
    ends_s = 120.0
    times = [ends_s - step_s * n for n in range(before, 0, -1)] + [ends_s + 0.01 + step_s * n for n in range(beyond)]
    times = [math.nan if at in blanks else time for at, time in enumerate(times)]
    finite = [time for time in times if not math.isnan(time)]
    verdict = completeness(known("It"), header, len(times), [], times)
    after = sum(time > ends_s for time in finite)
    if not finite:
        assert "no row has a time" in verdict.rule
    elif after > 5:
        assert verdict.complete is False
        assert BEYOND_END in verdict.rule
    else:
        assert verdict.complete is (after > 0)
        assert f"{finite[-1]:g} s of" in verdict.rule
