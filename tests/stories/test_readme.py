"""What the README says can be done, can be done: its queries run over real outputs, its commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from nanolab_daemon import batch, config
from nanolab_daemon.cli import cli
from nanolab_daemon.demo_lab import CONFIG, RAW, programme
from nanolab_daemon.simulate import Instrument

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a lab in which the demo's measurements were taken and worked off."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "config.toml").write_text(CONFIG, encoding="utf-8")
    day = [
        replace(one.measurement, course=replace(one.measurement.course, burn_in_s=0, lasts_s=0))
        for one in programme()
    ]
    Instrument(folder / RAW, day, speed=100).measure()
    batch.run(config.load(folder / "config.toml", environ={}), "backfill")
    return folder


def test_the_polars_example_finds_the_aborted_sweep_and_sound_resistances(lab: Path) -> None:
    (code,) = [block for block in blocks("python") if "aborted" in block]
    check = """
assert aborted.select("rows", "expected_rows").rows() == [(233, 601)]
assert resistance.height == 8
assert resistance["ohm"].is_between(1e3, 1e5).all()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + check],
        cwd=lab,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_notebook_example_prints_runs_segments_and_a_maximum(lab: Path) -> None:
    (code,) = [block for block in blocks("python") if "nl.runs" in block]
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=lab, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "run_id" in done.stdout
    assert "Vsd (V)" in done.stdout


def test_the_duckdb_example_gives_one_line_a_chip_and_kind_of_segment(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (query,) = blocks("sql")
    monkeypatch.chdir(lab)
    with duckdb.connect() as connection:
        lines = connection.execute(query).fetchall()
    kinds = ["forward_negative", "forward_positive", "return_negative", "return_positive"]
    assert [line[:2] for line in lines] == [(75, kind) for kind in kinds]
    assert all(1e3 < ohm < 1e5 for *_, ohm in lines)


def test_every_command_of_the_readme_exists_and_the_other_way_round() -> None:
    table = README.partition("## Commands")[2].partition("Exit codes")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = {word.split()[0] for cell in cells for word in re.findall(r"`([^`]+)`", cell)}
    assert named == set(cli.commands)
    used = re.findall(r"nanolab-daemon ([a-z]+) ", "".join(blocks("sh")))
    assert len(used) > 5
    assert set(used) <= named


def test_what_go_can_do_is_what_the_readme_uses() -> None:
    done = subprocess.run([ROOT / "go"], capture_output=True, text=True, timeout=30, check=True)
    offered = set(re.findall(r"^\./go (\w+)", done.stdout, re.MULTILINE))
    assert set(re.findall(r"\./go ([a-z]+)", README)) <= offered


def test_every_file_that_the_readme_names_is_there() -> None:
    names = re.findall(r"`((?:docs|tests|requirements|\.ci)/[\w./]*|[A-Za-z]+\.(?:md|toml))`", README)
    assert len(names) > 4
    assert [name for name in names if not os.path.exists(ROOT / name)] == []
