"""Dry runs: they write nothing, and a real run right after hits their totals."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import instrument
import messy
import pytest
from lab import InlinePool, Lab

from nanolab_daemon import cli_summary, plan
from nanolab_daemon.backlog import Rules
from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.cli_render import PLAN_TOTALS
from nanolab_daemon.errors import ConfigError
from nanolab_daemon.lock import Lock
from nanolab_daemon.sections import Lab as LabSection
from nanolab_daemon.sections import Segments
from nanolab_daemon.tasks import Selection


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "Pool", InlinePool)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path)
    messy.fill(lab.raw)
    return lab


def planned(lab: Lab, rules: Rules | None = None, *, segment: bool = True) -> plan.Plan:
    return plan.plan(lab.config, rules or Rules(), segment=segment)


def real(lab: Lab, rules: Rules | None = None, *, segment: bool = True) -> dict[str, Any]:
    began = time.time()
    ended = lab.backfill(rules=rules or Rules(), segment=segment)
    catalog = Catalog.open_to_read(lab.state / FILE_NAME)
    assert catalog is not None
    try:
        return cli_summary.summary(ended, catalog, "backfill", began)
    finally:
        catalog.close()


def everything(root: Path) -> dict[str, tuple[int, int]]:
    """Give all below a folder with size and time, to see that nothing was written."""
    return {
        str(path.relative_to(root)): (status.st_size, status.st_mtime_ns)
        for path in root.rglob("*")
        if (status := path.lstat())
    }


def test_each_file_is_told_with_its_reason(lab: Lab) -> None:
    rows = {row.file: row for row in planned(lab).rows}
    assert {file: rows[file].verdict for file in messy.VERDICTS} == {
        file: {"segmented": "stage", "staged": "stage", "rejected": "reject"}.get(state, state)
        for file, state in messy.VERDICTS.items()
    }
    assert rows["od\\xffd\\nname.csv"].verdict == "stage"
    assert rows["iv.csv"].segments == 4
    assert rows["bad.csv"].line == messy.bad_line(instrument.iv(4))
    assert rows["bad.csv"].text == "0.1,oops,nan,nan,nan"
    assert rows["z-copy.csv"].other == "iv.csv"
    assert rows["z-short.csv"].other == "day/ivg.csv"
    assert set(rows) - set(messy.VERDICTS) == {"od\\xffd\\nname.csv"}


def test_nothing_is_written_before_there_is_a_ledger(lab: Lab) -> None:
    before = everything(lab.home)
    planned(lab)
    assert everything(lab.home) == before
    assert not lab.state.exists()


def test_nothing_is_written_beside_a_ledger(lab: Lab) -> None:
    lab.backfill()
    before = everything(lab.home)
    planned(lab, Rules(force=True))
    assert everything(lab.home) == before


def test_it_works_while_another_engine_has_the_lock(lab: Lab) -> None:
    with Lock(lab.state, "run"):
        assert planned(lab).totals["staged"] == 4


def test_a_missing_raw_folder_is_refused(lab: Lab) -> None:
    paths = replace(lab.config.paths, raw=lab.home / "nowhere")
    with pytest.raises(ConfigError, match="nowhere"):
        plan.plan(replace(lab.config, paths=paths), Rules())


def grown(raw: Path) -> None:
    instrument.ivg(1).write(raw / "z-short.csv")  # now the same bytes as ivg.csv
    instrument.iv(4).write(raw / "bad.csv")


def renamed(raw: Path) -> None:
    (raw / "iv.csv").rename(raw / "renamed.csv")
    (raw / "day").rename(raw / "other day")


def gone(raw: Path) -> None:
    (raw / "day" / "ivg.csv").unlink()  # its shorter twin takes over
    (raw / "iv.csv").unlink()  # so does its copy, which holds the same bytes


def touched(raw: Path) -> None:
    for path in raw.rglob("*.csv"):
        if path.is_file() and not path.is_symlink():
            os.utime(path)


def another_measurement(raw: Path) -> None:
    instrument.iv(9).write(raw / "iv.csv")
    instrument.ivg(1).first(30).write(raw / "day" / "longer.csv")


def without_start_time(raw: Path) -> None:
    bare = replace(instrument.iv(8), start_time=None)
    for name in ("bare.csv", "2025-09-01/bare.csv", "2025-09-02/bare.csv"):
        bare.write(raw / name)


def nothing(_raw: Path) -> None:
    pass


@pytest.mark.parametrize(
    "change", [nothing, grown, renamed, gone, touched, another_measurement, without_start_time, shutil.rmtree]
)
@pytest.mark.parametrize("force", [False, True])
def test_a_real_run_hits_the_totals(lab: Lab, change: Callable[[Path], None], force: bool) -> None:
    without_start_time(lab.raw)
    lab.backfill()
    if change is shutil.rmtree:
        change(lab.raw / "day")
    else:
        change(lab.raw)
    rules = Rules(force=force)
    expected = planned(lab, rules)
    came_to = real(lab, rules)
    assert {name: expected.totals[name] for name in PLAN_TOTALS} == {name: came_to[name] for name in PLAN_TOTALS}
    assert dict(expected.causes) == came_to["causes"]


@pytest.mark.parametrize("change", [nothing, grown, gone])
@pytest.mark.parametrize(
    "settings",
    [
        {"segments": Segments(min_segment_points=12)},
        {"lab": LabSection(timezone="Asia/Tokyo")},
        {"procedures": {"IV": {"segments": ""}}},
    ],
    ids=["segments", "timezone", "procedures"],
)
def test_other_settings_hit_the_totals(lab: Lab, settings: dict[str, Any], change: Callable[[Path], None]) -> None:
    """What other settings do again is foreseen, too, and nothing is written by asking."""
    without_start_time(lab.raw)
    lab.backfill()
    lab.config = replace(lab.config, **settings)
    change(lab.raw)
    before = everything(lab.state)
    expected = planned(lab)
    assert {name: mark for name, mark in everything(lab.state).items() if name in before} == before
    came_to = real(lab)
    assert {name: expected.totals[name] for name in PLAN_TOTALS} == {name: came_to[name] for name in PLAN_TOTALS}
    assert dict(expected.causes) == came_to["causes"]
    assert came_to["staged"]


@pytest.mark.parametrize("segment", [True, False])
@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(procedures=frozenset({"IVg"})),
        Selection(since="2025-09-05"),
        Selection(until="2025-09-04", procedures=frozenset({"IV", "It"})),
    ],
)
def test_a_first_run_hits_the_totals(lab: Lab, selection: Selection, segment: bool) -> None:
    rules = Rules(selection=selection)
    expected = planned(lab, rules, segment=segment)
    came_to = real(lab, rules, segment=segment)
    assert {name: expected.totals[name] for name in PLAN_TOTALS} == {name: came_to[name] for name in PLAN_TOTALS}


def test_runs_that_wait_for_their_second_stage_are_counted(lab: Lab) -> None:
    lab.backfill(segment=False)
    expected = planned(lab)
    assert {row.run_id for row in expected.rows if row.verdict == "cut"} == {
        run_id for run_id, run in lab.runs().items() if run.segmentation == "pending"
    }
    came_to = real(lab)
    assert (expected.totals["runs_cut"], expected.totals["segments"]) == (came_to["runs_cut"], came_to["segments"])
