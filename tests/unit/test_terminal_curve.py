"""`show`: the points are those that are published, the drawing fits and says which axis and unit it has."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import instrument
import messy
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lab import Lab
from terminals import drawn, plain

from nanolab_daemon.errors import EngineError, UsageError
from nanolab_daemon.terminal import axes, plot, show
from nanolab_daemon.terminal.trace import Piece, Trace, as_data, trace


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Give a lab after a backfill over a messy folder."""
    lab = Lab(tmp_path_factory.mktemp("messy"))
    messy.fill(lab.raw)
    lab.backfill()
    return lab


def made(x: np.ndarray, y: np.ndarray, names: tuple[str, str] = ("Vsd (V)", "I (A)")) -> Trace:
    half = len(x) // 2
    pieces = (
        Piece(0, "forward_positive", "increasing", 0, x[:half], y[:half]),
        Piece(None, "", "", half, x[half : half + 1], y[half : half + 1]),
        Piece(1, "return_positive", "decreasing", half + 1, x[half + 1 :], y[half + 1 :]),
    )
    return Trace("a.csv", "segmented", "0" * 16, "IV", "2025-09-04", "", len(x), True, len(x), *names, pieces)


def text(found: Trace, *, width: int = 80, log: bool = False, colours: bool = False, ascii_only: bool = False) -> str:
    return plot.drawing(found, width, 20, log=log, colours=colours, ascii_only=ascii_only)


UP = np.linspace(0.0, 1.0, 101)


class TestTrace:
    def test_of_a_run_has_the_points_of_its_segments(self, lab: Lab) -> None:
        found = trace(lab.config, "iv.csv")
        run = next(run for run in lab.runs().values() if run.source == b"iv.csv")
        segments = [piece for piece in found.pieces if piece.number is not None]
        assert len(segments) == len(run.segment_files) == 4
        for piece, published in zip(segments, run.segment_files, strict=True):
            frame = pl.read_parquet(lab.output / published.path, hive_partitioning=False)
            assert piece.name == frame["segment_type"][0]
            assert piece.direction == frame["segment_direction"][0]
            assert piece.x.tolist() == frame["Vsd (V)"].to_list()
            assert piece.y.tolist() == frame["I (A)"].to_list()
        assert sum(len(piece.x) for piece in found.pieces) == found.rows == 44
        assert (found.run_id, found.x, found.y, found.state) == (run.run_id, "Vsd (V)", "I (A)", "segmented")

    @pytest.mark.parametrize("length", [16, 6])
    def test_is_found_by_its_run_id_or_the_beginning_of_it(self, lab: Lab, length: int) -> None:
        run = next(run for run in lab.runs().values() if run.source == b"day/ivg.csv")
        assert trace(lab.config, run.run_id[:length]).file == "day/ivg.csv"

    def test_a_beginning_that_several_runs_have_names_them(self, tmp_path: Path) -> None:
        lab = Lab(tmp_path)
        for seed in range(17):  # so that two of them begin alike
            instrument.iv(seed, reach=0.05).write(lab.raw / f"iv{seed}.csv")
        lab.backfill()
        first, *_ = next(c for c in "0123456789abcdef" if sum(run.startswith(c) for run in lab.runs()) > 1)
        with pytest.raises(UsageError) as told:
            trace(lab.config, first)
        named = [run for run in lab.runs() if run.startswith(first)]
        assert [run for run in named[:5] if run in told.value.advice]

    def test_a_run_id_with_a_slip_is_named(self, lab: Lab) -> None:
        run_id = next(iter(lab.runs()))
        slip = run_id[:-1] + ("0" if run_id[-1] != "0" else "1")
        with pytest.raises(UsageError, match=f"did you mean {run_id}"):
            trace(lab.config, slip)

    def test_of_a_file_that_grows_is_what_is_written(self, lab: Lab, tmp_path: Path) -> None:
        measuring = Lab(tmp_path)
        whole = instrument.iv(2)
        file = measuring.raw / "now.csv"
        file.write_bytes(whole.data(30) + b"0.07,1e-")  # the writer is in the middle of a row
        os.utime(file, (1e9, 1e9))
        found = trace(measuring.config, "now.csv")
        assert (found.rows, found.expected_rows, found.complete, found.state) == (30, 44, False, "")
        whole.write(measuring.raw / "done.csv")
        published = trace(measuring.config, "done.csv")
        for mine, theirs in zip(found.pieces[:-1], published.pieces, strict=False):
            assert mine.name == theirs.name
            assert mine.y.tolist() == theirs.y.tolist()
        assert file.stat().st_mtime == 1e9
        assert not measuring.stage.exists()
        assert not measuring.state.exists()

    def test_of_a_file_that_has_grown_since_is_the_file(self, tmp_path: Path) -> None:
        lab = Lab(tmp_path)
        whole = instrument.iv(2)
        whole.first(30).write(lab.raw / "iv.csv")
        lab.backfill()
        assert trace(lab.config, "iv.csv").rows == 30
        whole.write(lab.raw / "iv.csv")
        found = trace(lab.config, "iv.csv")
        assert found.rows == 44
        assert "changed since" in found.notes[0]
        assert trace(lab.config, found.run_id).rows == 30

    def test_of_a_run_whose_file_has_gone_is_the_run(self, tmp_path: Path) -> None:
        lab = Lab(tmp_path)
        instrument.iv(2).write(lab.raw / "iv.csv")
        lab.backfill()
        (lab.raw / "iv.csv").unlink()
        assert trace(lab.config, "iv.csv").rows == 44

    def test_leaves_out_lines_that_are_no_numbers_and_says_which(self, lab: Lab) -> None:
        found = trace(lab.config, "bad.csv")
        assert found.rows == 43
        assert f"Line {messy.bad_line(instrument.iv(4))} is left out" in found.notes[0]

    def test_takes_other_columns_and_names_those_there_are(self, lab: Lab) -> None:
        assert trace(lab.config, "it.csv", y="vl").y == "VL (V)"
        assert trace(lab.config, "it.csv", x="I (A)").x == "I (A)"
        with pytest.raises(UsageError, match=r"did you mean VL \(V\)") as told:
            trace(lab.config, "it.csv", y="VL(V)")
        assert "t (s), I (A), VL (V)" in told.value.advice

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("started.csv", "no rows yet"),
            ("queued.csv", "no rows yet"),
            ("text.csv", "can't be drawn"),
            ("nowhere.csv", "no such file"),
            ("iv", "did you mean iv.csv"),
            ("pipe.csv", "no regular file"),
            ("link.csv", "can't be read"),
            ("day", "can't be"),
        ],
    )
    def test_says_why_there_is_nothing_to_draw(self, lab: Lab, name: str, words: str) -> None:
        with pytest.raises(EngineError) as told:
            trace(lab.config, name)
        assert words in str(told.value)

    def test_as_data_is_json(self, lab: Lab) -> None:
        found = trace(lab.config, "it.csv", y="Plate T (degC)")
        told = json.loads(json.dumps(as_data(found), allow_nan=False))
        assert [segment["segment_type"] for segment in told["segments"]] == ["dark_1", "light_1", "dark_2"]
        assert set(told["segments"][0]["y"]) == {None}
        assert told["x"] == "t (s)"


class TestPlot:
    def test_has_axes_with_names_units_and_prefixes(self) -> None:
        first, *_, last = text(made(UP, UP * 5e-6)).splitlines()
        assert first == "I (µA)"
        assert last.strip() == "Vsd (V)"

    @pytest.mark.parametrize("width", [40, 80, 110])
    @pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.3, 0.7), (21.65, 22.8), (1e-12, 9e-12), (-5e7, 5e7)])
    def test_the_marks_stand_where_their_numbers_are(self, low: float, high: float, width: int) -> None:
        """Of a straight line, the point at each mark of y is at the same number on the axis of x."""
        values = np.linspace(low, high, 2000)
        drawn = text(made(values, values, ("x", "y")), width=width).splitlines()
        rows = [line for line in drawn if "┤" in line]
        assert len(rows) >= 2
        across = drawn[-2]
        for row in rows:
            label = row.partition(" ┤")[0].strip()
            spot = across.find(f" {label} ")
            if spot >= 0:
                middle = spot + 1 + len(label) // 2
                assert row[middle - 2 : middle + 3].strip(" │"), (label, row, across)

    @given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(1, 12))
    def test_a_label_is_the_number_of_its_mark(self, low: float, span: float, about: int) -> None:
        axis = axes.linear(axes.Scale("x", 0, ""), np.array([low, low + span]), about)
        for place, label in axis.marks:
            assert float(label) == pytest.approx(place, abs=max(span, abs(low)) * 1e-9)
            assert axis.low <= place + span * 1e-6 + abs(place) * 1e-9
        assert len(axis.marks) <= 2 * about + 2

    def test_segments_have_their_colours(self) -> None:
        drawn = text(made(UP, UP * 5e-6), colours=True)
        assert {"\x1b[31m", "\x1b[35m"} <= set(re.findall(r"\x1b\[\d+m", drawn))
        assert "\x1b" not in text(made(UP, UP * 5e-6))

    def test_of_two_segments_on_each_other_both_are_seen(self) -> None:
        there_and_back = np.concatenate([UP, [1.0], UP[::-1]])
        drawn = text(made(there_and_back, there_and_back), colours=True)
        counts = {code: drawn.count(f"\x1b[{code}m") for code in (31, 35)}
        assert min(counts.values()) > 10

    def test_on_a_logarithmic_scale_draws_sizes(self) -> None:
        drawn = text(made(UP, np.where(UP > 0, -(10.0 ** (UP * 6 - 12)), 0.0)), log=True)
        assert drawn.startswith("|I| (A), logarithmic")
        assert [label for label in ("10^-12 ┤", "10^-10 ┤", "10^-8 ┤") if label in drawn]

    def test_on_a_logarithmic_scale_of_less_than_a_decade_is_marked_too(self) -> None:
        drawn = text(made(UP, 1e-5 + UP * 4e-5), log=True)
        assert {label for label in ("1e-5", "2e-5", "5e-5") if f"{label} ┤" in drawn} >= {"2e-5"}

    def test_can_do_with_ascii(self) -> None:
        assert text(made(UP, UP * 5e-6), ascii_only=True).isascii()

    @pytest.mark.parametrize(
        ("x", "y"),
        [
            ([1.0], [2.0]),
            ([1.0, 1.0, 1.0], [2.0, 3.0, 4.0]),
            ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]),
            ([1.0, 2.0, 3.0], [-5e-9] * 3),
            ([1.0, 2.0, 3.0], [np.nan, 1e-9, np.inf]),
            ([1.0, 2.0, 3.0], [1e-300, 2e-300, 3e-300]),
            ([1.0, 2.0, 3.0], [-1.7e308, 0, 1.7e308]),
            ([1757018821.0, 1757018822.0, 1757018823.0], [1.0, 1.0 + 1e-15, 1.0]),
        ],
    )
    @pytest.mark.parametrize("log", [False, True])
    def test_draws_what_has_no_extent_or_too_much(self, x: list[float], y: list[float], log: bool) -> None:
        drawn = text(made(np.array(x), np.array(y)), log=log)
        assert all(len(line) <= 80 for line in drawn.splitlines())
        assert drawn or (log and not any(y))

    @given(
        values=hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.just(2)), elements=st.floats(width=64)),
        log=st.booleans(),
        width=st.integers(40, 200),
    )
    def test_draws_any_numbers_within_its_columns(self, values: np.ndarray, log: bool, width: int) -> None:
        with np.errstate(all="ignore"):
            drawn = text(made(values[:, 0], values[:, 1]), log=log, width=width)
        assert all(len(line) <= width for line in drawn.splitlines())

    @pytest.mark.parametrize(
        ("column", "largest", "unit", "written"),
        [
            ("I (A)", 4.2e-6, "µA", "4.2"),
            ("I (A)", 0.0, "A", "0"),
            ("Vsd (V)", 2.0, "V", "2"),
            ("t (s)", 3600.0, "s", "3600"),
            ("wl (nm)", 455.0, "nm", "455"),
            ("Clock (ms)", 5e9, "10^9 ms", "5"),
            ("Timestamp", 2.5, "", "2.5"),
        ],
    )
    def test_units_are_scaled_where_the_field_scales_them(
        self, column: str, largest: float, unit: str, written: str
    ) -> None:
        scale = axes.scale(column, np.array([0.0, -largest]))
        assert (scale.unit, scale.write(largest)) == (unit, written)

    def test_dust_is_zero(self) -> None:
        assert axes.scale("Vg (V)", np.array([-5.0, 5.0])).write(-1.776e-14) == "0"


class TestShow:
    @pytest.mark.parametrize("width", [60, 80, 132])
    def test_in_a_pipe_it_is_plain_and_as_wide_as_it_is_asked_to_be(self, lab: Lab, width: int) -> None:
        lines = list(show.lines(trace(lab.config, "iv.csv"), width, 20, log=False, ascii_only=False))
        assert lines[0].startswith("IV of 2025-09-04, chip Alisson 79F: 44 rows, complete, segmented")
        assert all(line.isprintable() for line in lines)
        assert max(map(len, lines[2:])) <= width
        assert sum(line.startswith(("forward_", "return_")) for line in lines) == 4

    def test_on_a_terminal_the_names_have_the_colours_of_the_curves(self, lab: Lab) -> None:
        found = trace(lab.config, "iv.csv")
        shown = drawn(show.picture(found, 80, 40, log=False, ascii_only=False))
        assert re.search(r"\x1b\[34mforward_negative\x1b\[0m", shown)
        assert re.search(r"\x1b\[31mforward_positive\x1b\[0m", shown)

    @pytest.mark.parametrize("lines", [16, 24, 40])
    def test_a_live_view_fits(self, lab: Lab, lines: int) -> None:
        found = trace(lab.config, "iv.csv")
        many = replace(
            found, pieces=tuple(replace(found.pieces[0], number=n, name=f"plateau_{n}") for n in range(40))
        )
        for one in (found, many):
            shown = plain(drawn(show.picture(one, 80, lines, log=False, ascii_only=False, fits=True)))
            assert len(shown.splitlines()) <= lines

    def test_many_segments_are_cut_short(self, lab: Lab) -> None:
        found = trace(lab.config, "iv.csv")
        many = replace(
            found, pieces=tuple(replace(found.pieces[0], number=n, name=f"plateau_{n}") for n in range(40))
        )
        rows = list(show.segments(many, show.MOST_SEGMENTS))
        assert rows[-1][0] == "and 28 more"

    def test_a_measurement_under_way_shows_how_far_it_is(self, lab: Lab) -> None:
        found = replace(trace(lab.config, "iv.csv"), rows=30, complete=False, state="measuring")
        assert "30 of 44 rows (68 %), measuring" in show.head(found)[0]
