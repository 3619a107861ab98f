"""docs/registry.md is true: it has every key, path and segment that there is, and its formulas and examples work."""

from __future__ import annotations

import math
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon.errors import ConfigError
from nanolab_daemon.model import SegmentKind
from nanolab_daemon.procedures import PathKind, Registry
from nanolab_daemon.ramps import set_points

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from inprocess import Folders

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "registry.md").read_text(encoding="utf-8")
BUILTIN = Registry.builtin()


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def first_cells(text: str) -> list[str]:
    """Give the first cell of each row of a table, without the head."""
    return [row.split(" | ")[0].strip("| ") for row in re.findall(r"^\| .*\|$", text, re.MULTILINE)][1:]


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def accepted_keys() -> list[str]:
    """Give the keys that the program accepts, as it lists them where it refuses one."""
    with pytest.raises(ConfigError) as caught:
        BUILTIN.with_overrides({"IV": {"frobnicate": 1}})
    return str(caught.value).partition("the keys are ")[2].rstrip(".").split(", ")


def test_every_key_is_told_and_no_other() -> None:
    """The table of keys holds each key that [procedures] takes, once."""
    told = [key for cell in first_cells(section("Keys")) for key in re.findall(r"`(\w+)`", cell)]
    assert sorted(told) == sorted(accepted_keys())


def test_keys_of_paths_and_sums() -> None:
    """The keys inside of a path and of a sum are told too."""
    with pytest.raises(ConfigError) as caught:
        BUILTIN.with_overrides({"IV": {"paths": [{"kind": "start-end", "frobnicate": 1}]}})
    keys = str(caught.value).partition("one of the keys ")[2].rstrip(".")
    assert f"`{{ {keys} }}`" in section("Paths")
    assert '"set points" = true' in section("Keys")
    assert '"lit" = true' in section("Keys")


def test_every_kind_is_told_and_no_other() -> None:
    """All kinds of paths and of segments stand in their tables."""
    assert sorted(first_cells(section("Paths"))) == sorted(f"`{kind}`" for kind in PathKind)
    assert sorted(first_cells(section("Segments"))) == sorted(f'`"{kind}"`' for kind in SegmentKind)


def test_the_head_of_the_table_tells_the_same_keys() -> None:
    """procedures.toml explains each key at its head."""
    head = (ROOT / "nanolab_daemon" / "procedures.toml").read_text(encoding="utf-8").partition("[common]")[0]
    told = {key for line in re.findall(r"^#   (\w+(?:, \w+)*)", head, re.MULTILINE) for key in line.split(", ")}
    assert set(accepted_keys()) - told - {"repeat_required"} == set()
    assert "repeat_required" in head


def formulas() -> dict[str, Callable[[float, float, float], np.ndarray]]:
    (code,) = blocks("python", section("Paths"))
    names: dict[str, Any] = {}
    exec(code, names)
    found: dict[str, Callable[[float, float, float], np.ndarray]] = names["paths"]
    return found


FORMULAS = formulas()


def test_every_path_has_a_formula() -> None:
    """The page has a formula for each kind of path, and for no other."""
    assert FORMULAS.keys() == {str(kind) for kind in PathKind}


ENDS = st.integers(-100, 100)


@pytest.mark.parametrize("kind", list(PathKind))
@given(st.data())
def test_formulas_are_those_of_the_program(kind: PathKind, data: st.DataObject) -> None:
    """The formula of each path gives what the program expects, to the last bit."""
    unit = data.draw(st.sampled_from([1e-4, 1e-3, 0.01, 0.05, 1.0]))
    start, end = (data.draw(ENDS) * unit for _ in range(2))
    step = data.draw(st.integers(1, 60)) * unit * data.draw(st.sampled_from([1.0, 0.5, 0.1]))
    wanted = set_points(kind, start, end, step)
    assert wanted is not None
    found = FORMULAS[kind](start, end, step)
    assert wanted.tobytes() == np.asarray(found, np.float64).tobytes()


def raw_file(procedure: str, parameters: str, columns: Sequence[str], rows: Sequence[Sequence[float]]) -> bytes:
    lines = [f"#Procedure: <lab.{procedure}>", "#Parameters:", *(f"#\t{one}" for one in parameters.split("; "))]
    lines += ["#Metadata:", "#\tStart time: 1757018821.6", "#Data:", ",".join(columns)]
    return "".join(f"{line}\r\n" for line in [*lines, *(",".join(map(repr, row)) for row in rows)]).encode()


def example(title: str) -> dict[str, Any]:
    (block,) = blocks("toml", section(title))
    table: dict[str, Any] = tomllib.loads(block)["procedures"]
    return table


def outcome(folders: Folders, path: str, contents: bytes) -> tuple[bool | None, list[tuple[str, str]]]:
    """Stage and cut a file; give whether it is complete, and types and directions of its segments."""
    staged = folders.staged(path, contents)
    assert staged.remarks == ()
    pieces = [pl.read_parquet(folders.output / one.path) for one in folders.cut(staged).outputs]
    return staged.facts.completeness.complete, [
        (one["segment_type"][0], one["segment_direction"][0]) for one in pieces
    ]


def test_the_new_sweep(tmp_path: Path) -> None:
    """The example of a sweep does what the page says: complete with the last set point, cut into legs."""
    folders = Folders(tmp_path, procedures=example("A new sweep")).make()
    points = [float(x) for x in FORMULAS["zero-start-end-start-zero"](-1.0, 1.0, 0.1)]
    header = "B start: -1 T; B end: 1 T; B step: 0.1 T; Step time: 1 s; Current: 1e-06 A; Chip number: 3"
    rows = [(x, x * 1e-3 + 1e-9 * at, 4.2) for at, x in enumerate(points)]
    whole = raw_file("Hall", header, ["B (T)", "Hall voltage (V)", "T (K)"], rows)
    complete, pieces = outcome(folders, "a.csv", whole)
    assert complete is True
    assert {(label, way) for label, way in pieces} == {
        ("forward_negative", "decreasing"),
        ("return_negative", "increasing"),
        ("forward_positive", "increasing"),
        ("return_positive", "decreasing"),
    }
    assert (folders.output / "hall_segments").is_dir()
    assert outcome(folders, "b.csv", whole[: whole.rindex(b"\r\n", 0, -2) + 2])[0] is False


def test_the_new_time_series(tmp_path: Path) -> None:
    """The example of a time series does what the page says: complete at the last phase's end, cut into phases."""
    folders = Folders(tmp_path, procedures=example("A new time series")).make()
    header = "Dark time: 10 s; Light time: 5 s; Sampling time: 0.5 s; Laser voltage: 0.2 V; Laser wavelength: 455"
    rows = [(at * 0.5, 1e-9 * (at + math.sin(at)), 0.2 if 20 < at <= 30 else 0.0) for at in range(51)]
    whole = raw_file("Pulse", f"{header}; VDS: 0.1 V", ["t (s)", "I (A)", "VL (V)"], rows)
    assert outcome(folders, "a.csv", whole) == (
        True,
        [(name, "constant") for name in ("dark_1", "light_1", "dark_2")],
    )
    assert outcome(folders, "b.csv", whole[: whole.rindex(b"\r\n", 0, -2) + 2])[0] is False


def test_a_column_more() -> None:
    """The example of a column more gives it to IVg and to what is like it, after all that were there."""
    registry = BUILTIN.with_overrides(example("A column more"))
    for name in ("IVg", "IVgT"):
        before, after = BUILTIN.get(name), registry.get(name)
        assert before is not None
        assert after is not None
        assert after.columns == (*before.columns, "Ig (A)")


def test_no_example_goes_untested() -> None:
    """Each block of settings on the page is one of those above."""
    titles = ("A new sweep", "A new time series", "A column more")
    assert blocks("toml") == [block for title in titles for block in blocks("toml", section(title))]


@pytest.mark.parametrize("file", ["README.md", "config.toml", "docs/procedures.md"])
def test_it_is_pointed_to(file: str) -> None:
    """Who reads of [procedures] elsewhere finds the page."""
    assert "registry.md" in (ROOT / file).read_text(encoding="utf-8")
