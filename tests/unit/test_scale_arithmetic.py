"""The simulation of a cluster and the arithmetic of ids, on which `docs/scale.md` rests, against closed forms."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

BENCH = Path(__file__).parents[2] / "bench/scale.py"


def _load() -> ModuleType:
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("bench_scale", BENCH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_scale"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


scale = _load()

clusters = st.builds(
    scale.Cluster,
    workers=st.integers(1, 40),
    batch=st.integers(1, 32),
    work_s=st.floats(1e-3, 1e-1),
    task_s=st.floats(1e-4, 1e-2),
    engine_s=st.floats(1e-4, 1e-2),
)


@settings(max_examples=60, deadline=None)
@given(clusters)
def test_no_cluster_is_faster_than_what_binds_it(cluster) -> None:
    assert scale.simulate(cluster, 20 * cluster.workers) <= cluster.bound * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(clusters)
def test_where_one_part_binds_alone_it_is_kept_busy(cluster) -> None:
    least, second, _ = sorted(cluster.bounds().values())
    found = scale.simulate(cluster, 60 * cluster.workers)
    if second >= 3 * least:
        assert found >= 0.9 * cluster.bound
    else:  # two that are equally slow wait for each other now and then
        assert found >= 0.3 * cluster.bound


@pytest.mark.parametrize(
    ("cluster", "binds", "files_a_second"),
    [
        (scale.Cluster(2, 32, 4e-3, 1e-3, 5e-4), "workers", 500),
        (scale.Cluster(512, 1, 4e-3, 1e-3, 5e-4), "scheduler", 500),
        (scale.Cluster(512, 32, 4e-3, 1e-3, 5e-4), "engine", 2000),
    ],
)
def test_each_part_can_be_the_one_that_binds(cluster, binds: str, files_a_second: float) -> None:
    assert cluster.binding == binds
    assert cluster.bound == pytest.approx(files_a_second)
    assert scale.simulate(cluster, 4000, spread=0.5) == pytest.approx(files_a_second, rel=0.1)


def test_the_same_seed_gives_the_same_cluster() -> None:
    cluster = scale.Cluster(3, 8, 5e-3, 1e-3, 5e-4)
    assert scale.simulate(cluster, 100, seed=1, spread=0.5) == scale.simulate(cluster, 100, seed=1, spread=0.5)
    assert scale.simulate(cluster, 100, seed=1, spread=0.5) != scale.simulate(cluster, 100, seed=2, spread=0.5)


def test_the_chance_of_a_clash_is_that_of_a_few_drawn_one_by_one() -> None:
    none = math.prod(1 - at / 2**16 for at in range(300))
    assert scale.clash_chance(300, 16) == pytest.approx(1 - none, rel=0.01)
    assert scale.clash_chance(1, 16) == 0.0
    assert scale.clash_chance(10**9) == pytest.approx(0.0267, rel=0.01)


@pytest.mark.parametrize("runs", [150, 300, 450])
def test_the_chance_of_a_clash_is_what_draws_show(runs: int) -> None:
    tries = 1500
    chance = scale.clash_chance(runs, 16)
    four_sigma = 4 * math.sqrt(chance * (1 - chance) / tries)
    assert scale.clash_share(runs, 16, tries, seed=runs) == pytest.approx(chance, abs=four_sigma)


def test_exponent_and_slope_are_those_of_known_lines() -> None:
    sizes = [1e3, 1e4, 1e5]
    assert scale.exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    assert scale.slope(sizes, [7 + 2 * n for n in sizes]) == pytest.approx(2)


def test_tables_are_put_between_their_marks_alone() -> None:
    page = "a\n<!-- measured: scan -->\nold\n<!-- end -->\nb\n<!-- measured: ledger -->\n<!-- end -->\n"
    told = scale.put(page, "scan", "new")
    assert told == page.replace("old", "\nnew\n")
    with pytest.raises(SystemExit, match="0 places for tasks"):
        scale.put(page, "tasks", "x")


@pytest.mark.parametrize(
    ("number", "told"),
    [(1e7, "1.0·10⁷"), (2.7e-6, "2.7·10⁻⁶"), (0.16, "0.16"), (3.2, "3.2"), (158, "160"), (2475, "2,500")],
)
def test_numbers_are_told_with_two_digits(number: float, told: str) -> None:
    assert scale._many(number) == told


def test_the_page_has_a_place_for_each_part() -> None:
    page = scale.PAGE.read_text(encoding="utf-8")
    for name in scale.PARTS:
        assert scale.put(page, name, "x") != page
