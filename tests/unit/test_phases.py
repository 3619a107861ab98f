"""Phases: found by the program and by the plain reading of the rule are the same ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from hypothesis import example, given, settings
from hypothesis import strategies as st
from realdata import real_files

from nanolab_daemon import phases
from nanolab_daemon.header import parse_header
from nanolab_daemon.model import SegmentKind
from nanolab_daemon.procedures import PathKind, Registry
from nanolab_daemon.ramps import set_points
from nanolab_daemon.rows import read_rows

KINDS = st.sampled_from([SegmentKind.LIGHT, SegmentKind.PLATEAU, SegmentKind.WAVELENGTH])
LEVELS = st.sampled_from([0.0, -0.0, 2.11, 3.57, 5.0, -0.4, 455.0, 1e-6, 2e-6, -1e-6, 0.1, 0.2])
DUST = st.sampled_from([0.0, 0.0, 0.0, 1e-18, -4.4e-16, 1.8e-14, 4e-14])
ODD = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from(
    [1.7e308, -1.7e308, 1e-9, 2e-9, 2.11 + 2e-9, 2.11 + 4e-9]
)


def found_in(levels: list[float], kind: SegmentKind, least: int = 5) -> list[tuple[int, int, str, str]]:
    pieces = phases.cut(np.asarray(levels, dtype=np.float64), kind, least)
    return [(piece.start, piece.stop, piece.label, piece.direction) for piece in pieces]


@st.composite
def sequences(draw: st.DrawFn) -> tuple[list[float], list[tuple[float, int]]]:
    """Draw the phases of a run as (level, rows), no neighbours alike, and its rows, dusty and with gaps."""
    wanted: list[tuple[float, int]] = []
    rows: list[float] = []
    for level, length in draw(st.lists(st.tuples(LEVELS, st.integers(1, 30)), max_size=9)):
        if wanted and wanted[-1][0] == level:
            wanted[-1] = (level, wanted[-1][1] + length)
        else:
            wanted.append((level, length))
        gaps = draw(st.sets(st.integers(1, length), max_size=2)) if draw(st.booleans()) else set()
        rows += [math.nan if at in gaps else level + draw(DUST) for at in range(length)]
    early = draw(st.sampled_from([0, 0, 0, 2])) if wanted else 0
    if early:
        wanted[0] = (wanted[0][0], wanted[0][1] + early)
    return [math.nan] * early + rows, wanted


@given(sequences(), KINDS, st.integers(1, 9))
@settings(max_examples=300)
def test_what_was_set_is_found(
    run: tuple[list[float], list[tuple[float, int]]], kind: SegmentKind, least: int
) -> None:
    """Each phase that was made is found with its rows, its level and its name; only short ones are left out."""
    rows, made = run
    found = phases.cut(np.asarray(rows), kind, least)
    wanted, start, seen = [], 0, {"plateau": 0, "dark": 0, "light": 0}
    for level, length in made:
        word = "plateau" if kind is SegmentKind.PLATEAU else "light" if level else "dark"
        seen[word] += 1
        if length >= least:
            wanted.append((start, start + length, f"{word}_{seen[word]}", "constant"))
            piece = found[len(wanted) - 1]
            assert [piece.v_start, piece.v_end] == pytest.approx([level, level], rel=0, abs=1e-12)
        start += length
    assert found_in(rows, kind, least) == wanted


@given(sequences(), KINDS, st.integers(1, 9))
@settings(max_examples=200)
def test_phases_are_cut_as_the_rule_says(
    run: tuple[list[float], list[tuple[float, int]]], kind: SegmentKind, least: int
) -> None:
    """On runs of phases, program and plain rule agree."""
    rows, _ = run
    assert found_in(rows, kind, least) == [tuple(piece) for piece in reference.phases(rows, kind, least)]


@given(st.lists(LEVELS | ODD, max_size=40), KINDS)
@example([math.nan, math.nan, 1.0, math.nan, 0.0], SegmentKind.LIGHT)
@example([math.inf, math.inf, -math.inf, 1.0, math.inf], SegmentKind.PLATEAU)
@settings(max_examples=400)
def test_any_numbers_are_cut_as_the_rule_says(levels: list[float], kind: SegmentKind) -> None:
    """On any numbers at all, program and plain rule agree."""
    assert found_in(levels, kind, 1) == [tuple(piece) for piece in reference.phases(levels, kind, 1)]


@given(st.lists(LEVELS | ODD, max_size=60), KINDS, st.integers(1, 7))
def test_phases_are_in_order_and_lose_nothing(levels: list[float], kind: SegmentKind, least: int) -> None:
    """Phases follow one another without overlap; what is in none is a phase too short, or a run of NaN alone."""
    found, every = found_in(levels, kind, least), found_in(levels, kind, 1)
    assert [piece for piece in every if piece[1] - piece[0] >= least] == found
    rows = [row for start, stop, *_ in every for row in range(start, stop)]
    assert rows == ([] if all(map(math.isnan, levels)) else list(range(len(levels))))


@given(st.lists(LEVELS, min_size=1, max_size=60), st.sampled_from([SegmentKind.LIGHT, SegmentKind.WAVELENGTH]))
def test_names_follow_from_the_values(levels: list[float], kind: SegmentKind) -> None:
    """Dark is where nothing is set, and nowhere else; each word counts from 1 without a gap."""
    found = phases.cut(np.asarray(levels), kind, 1)
    for piece in found:
        word, _ = piece.label.split("_")
        assert {word} == {"light" if level else "dark" for level in levels[piece.start : piece.stop]}
        assert (piece.v_start, piece.v_end) == (levels[piece.start], levels[piece.stop - 1])
    for word in ("dark", "light"):
        numbers = [int(piece.label.split("_")[1]) for piece in found if piece.label.startswith(word)]
        assert numbers == list(range(1, len(numbers) + 1))


def test_short_phases_keep_their_numbers() -> None:
    """The dark after the first light is `dark_2`, also where the dark before it was too short to be a segment."""
    levels = [0.0] * 3 + [2.0] * 9 + [0.0] * 9 + [2.5] * 2 + [3.0] * 5
    assert found_in(levels, SegmentKind.LIGHT) == [
        (3, 12, "light_1", "constant"),
        (12, 21, "dark_2", "constant"),
        (23, 28, "light_3", "constant"),
    ]


@pytest.mark.parametrize("step", [1e-6, 0.05, 0.07, 0.5])
def test_staircase_has_a_plateau_for_each_set_point(step: float) -> None:
    """Each set point of a staircase is one plateau, however fine; the top, set twice, is one."""
    points = set_points(PathKind.START_END_START, -10 * step, 10 * step, step)
    assert points is not None
    levels = [point for point in points for _ in range(6)]
    found = phases.cut(np.asarray(levels), SegmentKind.PLATEAU, 5)
    plain: list[float] = []
    for point in points:
        if not plain or round(plain[-1] / step) != round(point / step):
            plain.append(point)
    assert [piece.label for piece in found] == [f"plateau_{number + 1}" for number in range(len(plain))]
    assert [piece.v_start for piece in found] == plain
    assert sum(piece.stop - piece.start for piece in found) == len(levels)


def test_nothing_gives_nothing() -> None:
    """A run without rows, without levels or with too few rows has no phases."""
    for levels in ([], [math.nan] * 9, [0.0] * 4):
        assert found_in(levels, SegmentKind.LIGHT) == []


@pytest.mark.skipif(not real_files(), reason="no real files here")
def test_real_time_series_have_their_phases() -> None:
    """Each of the lab's own runs is dark, lit, dark for half a period each, or dark throughout with the laser off."""
    registry, seen = Registry.builtin(), {"lit": 0, "dark": 0}
    for path in real_files():
        raw = path.read_bytes()
        header = parse_header(raw)
        procedure = registry.get(header.procedure)
        assert procedure is not None
        if procedure.segments is not SegmentKind.LIGHT:
            continue
        rows = read_rows(raw[header.data_offset :], len(header.columns), header.data_line)
        if not rows.count:
            continue
        columns = dict(zip(header.columns, (column.to_numpy() for column in rows.columns), strict=True))
        levels, times = columns["VL (V)"], columns["t (s)"]
        found = phases.cut(levels, SegmentKind.LIGHT, 5)
        plain = reference.phases(levels.tolist(), "light")
        assert [(one.start, one.stop, one.label, one.direction) for one in found] == [tuple(one) for one in plain]
        assert sum(one.stop - one.start for one in found) == rows.count, path
        half = procedure.number(header, "Laser ON+OFF period")
        assert half is not None
        half /= 2
        lit = procedure.light(header).on
        wanted = ["dark_1", "light_1", "dark_2"] if lit else ["dark_1"]
        assert [one.label for one in found] == wanted[: len(found)], path
        assert len(found) == len(wanted) or times[-1] < 2 * half, path
        for number, one in enumerate(found):
            # A row takes up to 1.2 s now and then, and the level is set between two rows.
            assert number * half <= times[one.start] < number * half + 1.5, path
            ends = (number + 1) * half if lit else 3 * half
            assert times[one.stop - 1] < ends + 1.5, path
            assert one.v_start == one.v_end == (procedure.number(header, "Laser voltage") if number == 1 else 0.0)
        seen["lit" if lit else "dark"] += 1
    assert seen["lit"] > 50
