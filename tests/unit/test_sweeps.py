"""Sweeps: segments found by the program and by the plain reading of the rule are the same ones."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import reference
from hypothesis import example, given, settings
from hypothesis import strategies as st
from realdata import real_files

from nanolab_daemon.header import parse_header
from nanolab_daemon.model import SegmentKind
from nanolab_daemon.procedures import PathKind, Registry
from nanolab_daemon.ramps import set_points
from nanolab_daemon.rows import read_rows
from nanolab_daemon.sweeps import cut

FOUR_LEGS = ["forward_negative", "return_negative", "forward_positive", "return_positive"]
REGISTRY = Registry.builtin()
STEPS = st.sampled_from([1e-6, 1e-4, 5e-4, 0.001, 0.0015, 0.002, 0.01, 0.05, 0.07, 0.1, 0.2, 1.0])


@st.composite
def ramps(draw: st.DrawFn) -> tuple[list[float], float]:
    """Draw a ramp of any kind of path, with what may befall it, and its step."""
    step = draw(STEPS)
    reach = step * draw(st.integers(3, 40))
    start = draw(st.sampled_from([-reach, 0.0, reach, -reach / 2, reach / 3]))
    end = draw(st.sampled_from([reach, 0.0, -reach, reach / 2, -reach / 3]))
    points = set_points(draw(st.sampled_from(list(PathKind))), start, end, step)
    values = list(points)[:2000] if points else [start, end]
    chance = random.Random(draw(st.integers(0, 2**32)))
    match draw(st.sampled_from(["as it is", "noise", "nan", "plateau", "zeros", "cut", "shift"])):
        case "noise":
            size = draw(st.sampled_from([1e-18, 1e-9, step / 10, step * 0.6, step * 2]))
            values = [value + chance.gauss(0, size) for value in values]
        case "nan":
            values = [math.nan if chance.random() < 0.1 else value for value in values]
        case "plateau":
            values = [value for value in values for _ in range(chance.choice([1, 1, 1, 2, 6]))]
        case "zeros":
            values = [again for value in values for again in ([value, 0.0, -0.0] if abs(value) < step else [value])]
        case "cut":
            values = values[: chance.randrange(len(values) + 1)]
        case "shift":
            values = [value + draw(st.sampled_from([step / 2, -step / 2, step * 10])) for value in values]
    return values, step


NUMBERS = st.one_of(
    st.floats(-2, 2, width=32),
    st.sampled_from([0.0, -0.0, 0.001, -0.001, 5e-4, 1.7e308, -1.7e308, math.nan, math.inf, -math.inf]),
)


def found_in(values: list[float], step: float | None, least: int = 5) -> list[tuple[int, int, str, str]]:
    pieces = cut(np.asarray(values, dtype=np.float64), step, least)
    return [(piece.start, piece.stop, piece.label, piece.direction) for piece in pieces]


@given(ramps(), st.integers(1, 7))
@settings(max_examples=300)
def test_ramps_are_cut_as_the_rule_says(ramp: tuple[list[float], float], least: int) -> None:
    """On ramps of all kinds, noisy, torn, shifted, with plateaus and gaps, program and plain rule agree."""
    values, step = ramp
    assert found_in(values, step, least) == [tuple(piece) for piece in reference.segments(values, step, least)]


@given(
    st.lists(NUMBERS.filter(lambda v: not math.isinf(v)), max_size=40), st.sampled_from([None, 0.0, math.nan, 0.01])
)
@example([-0.1, math.nan, 0.1], None)
@example([0.1, 0.2, math.nan, 0.1], None)
@settings(max_examples=300)
def test_any_numbers_are_cut_as_the_rule_says(values: list[float], step: float | None) -> None:
    """On any numbers at all, program and plain rule agree."""
    assert found_in(values, step, 1) == [tuple(piece) for piece in reference.segments(values, step, 1)]


@given(st.lists(NUMBERS, max_size=60), STEPS, st.integers(1, 7))
def test_segments_are_in_order_and_lose_nothing(values: list[float], step: float, least: int) -> None:
    """Segments follow one another without overlap; what is in none is a piece too short, or a run of NaN alone."""
    found = found_in(values, step, least)
    inside = [row for start, stop, *_ in found for row in range(start, stop)]
    assert inside == sorted(set(inside))
    assert all(stop - start >= least for start, stop, *_ in found)
    every = [row for start, stop, *_ in found_in(values, step, 1) for row in range(start, stop)]
    assert every == ([] if all(map(math.isnan, values)) else list(range(len(values))))
    assert set(found) <= set(found_in(values, step, 1))


@given(ramps())
def test_labels_follow_from_the_values(ramp: tuple[list[float], float]) -> None:
    """A segment lies on the side and runs in the direction that its name says; its ends are its own values."""
    values, step = ramp
    for piece in cut(np.asarray(values), step, 1):
        inside = [value for value in values[piece.start : piece.stop] if not math.isnan(value)]
        verb, side = piece.label.split("_")
        assert not inside or all(value <= 0 if side == "negative" else value >= 0 for value in inside)
        if inside and abs(inside[-1]) != abs(inside[0]):
            assert verb == ("forward" if abs(inside[-1]) > abs(inside[0]) else "return")
            assert piece.direction == ("increasing" if inside[-1] > inside[0] else "decreasing")
        ends = np.array([piece.v_start, piece.v_end])
        np.testing.assert_array_equal(ends, [inside[0], inside[-1]])


@pytest.mark.parametrize("step", [1e-6, 1e-4, 5e-4, 0.001, 0.002, 0.01, 0.05])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    "kind", [PathKind.ZERO_START_END_ZERO, PathKind.ZERO_START_END_START_ZERO, PathKind.TWO_STEPS]
)
def test_plain_iv_has_four_legs(kind: PathKind, wide: bool, step: float) -> None:
    """A plain IV, however fine its step, gives exactly the four segments that the analysis expects.

    The wide one in two steps has 0.5 mV steps outside, a thousand times those of its middle.
    """
    reach = max(20 * step, 0.1 if wide and kind is PathKind.TWO_STEPS else 0.001)
    points = set_points(kind, -reach, reach, step)
    assert points is not None
    found = found_in(list(points), step)
    kinds = [kind for _, _, kind, _ in found]
    if kind is PathKind.ZERO_START_END_START_ZERO:  # it comes back through the negative side
        assert kinds == [*FOUR_LEGS, "forward_negative", "return_negative"]
    else:
        assert kinds == FOUR_LEGS
    assert len(points) - sum(stop - start for start, stop, *_ in found) <= 2  # back at 0, and a step beyond


@pytest.mark.parametrize("step", [1e-6, 1e-4, 0.05, 0.5])
@pytest.mark.parametrize("sweeps", [1, 2, 5])
def test_repeated_sweeps_have_four_legs_each(sweeps: int, step: float) -> None:
    """Sweep after sweep from 0 to 0 gives the four legs again and again; at most the last point of each is left."""
    points = set_points(PathKind.ZERO_START_END_ZERO, -20 * step, 20 * step, step)
    assert points is not None
    found = found_in(list(points) * sweeps, step)
    assert [kind for _, _, kind, _ in found] == FOUR_LEGS * sweeps
    assert len(points) * sweeps - sum(stop - start for start, stop, *_ in found) <= sweeps


def test_nothing_gives_nothing() -> None:
    """A run without rows, or with too few, has no segments."""
    assert found_in([], 0.01) == []
    assert found_in([0.0] * 4, 0.01) == []


@pytest.mark.skipif(not real_files(), reason="no real files here")
def test_real_sweeps_are_cut_as_the_rule_says() -> None:
    """Every swept run of the lab's own files is cut as the plain rule says; complete IVs have exactly four legs."""
    seen = 0
    for path in real_files():
        raw = path.read_bytes()
        header = parse_header(raw)
        procedure = REGISTRY.get(header.procedure)
        assert procedure is not None
        if procedure.segments is not SegmentKind.SWEEP or procedure.swept is None:
            continue
        rows = read_rows(raw[header.data_offset :], len(header.columns), header.data_line)
        values = rows.columns[header.columns.index(procedure.swept)].to_pylist()
        step = procedure.number(header, procedure.step)
        found = found_in(values, step)
        assert found == [tuple(piece) for piece in reference.segments(values, step)], path
        if header.procedure == "IV" and len(values) in (44, 404):
            assert [kind for _, _, kind, _ in found] == FOUR_LEGS
        seen += 1
    assert seen > 50
