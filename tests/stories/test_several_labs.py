"""Several laboratories publish into the same folders, each with a daemon, a ledger and a raw folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import duckdb
import instrument
import polars as pl
import pytest
from lab import Lab, assert_converged, toml

import nanolab_daemon as nl
from nanolab_daemon.backlog import Rules
from nanolab_daemon.check import check
from nanolab_daemon.config import Lab as Name
from nanolab_daemon.config import Paths
from nanolab_daemon.errors import ConfigError, EngineError
from nanolab_daemon.findings import Status
from nanolab_daemon.lake import NoRunsError
from nanolab_daemon.plan import plan
from nanolab_daemon.rebuild import rebuild
from nanolab_daemon.verify import verify


def sharing(home: Path, name: str, folder: str = "") -> Lab:
    """Make a laboratory that publishes into the folders `stage` and `output` of `home`."""
    lab = Lab(home / (folder or name or "unnamed"))
    paths = Paths(raw=lab.raw, stage=home / "stage", output=home / "output", state=lab.state).of_lab(name)
    lab.stage, lab.output = paths.stage, paths.output
    lab.config = replace(lab.config, lab=Name(name=name), paths=paths)
    return lab


def fill(lab: Lab, count: int = 4) -> None:
    """Write measurements that started in the same moments in every laboratory."""
    for number in range(count):
        instrument.iv(number).write(lab.raw / f"IV{number}.csv")
    lab.age()


def assert_sound(*labs: Lab) -> None:
    for lab in labs:
        found = verify(lab.config)
        assert (found.problems, found.notes) == ((), ())


@pytest.fixture
def east(tmp_path: Path) -> Lab:
    return sharing(tmp_path, "east")


@pytest.fixture
def west(tmp_path: Path) -> Lab:
    return sharing(tmp_path, "west")


def test_two_daemons_at_once(tmp_path: Path, east: Lab, west: Lab) -> None:
    """What started in the same second in both is two runs; each laboratory's are those of a fresh backfill."""
    with east.process(), west.process():
        fill(east)
        fill(west, 6)
        for lab in (east, west):
            lab.wait_quiet()
            assert_converged(lab)
    assert (len(east.runs()), len(west.runs())) == (4, 6)
    assert not east.runs().keys() & west.runs().keys()
    assert_sound(east, west)

    manifests = str(tmp_path / "stage" / "lab=*" / "_manifest" / "manifest.parquet")
    union = pl.scan_parquet(manifests, hive_partitioning=True).select("lab", "run_id").collect()
    assert sorted(union.get_column("lab")) == ["east"] * 4 + ["west"] * 6
    assert union.get_column("run_id").n_unique() == 10
    table = f"read_parquet('{manifests}', hive_partitioning=true)"
    counted = f"SELECT lab, count(DISTINCT run_id) FROM {table} GROUP BY lab"
    assert sorted(duckdb.sql(counted).fetchall()) == [("east", 4), ("west", 6)]
    everything = str(tmp_path / "stage" / "lab=*" / "proc=IV" / "**" / "*.parquet")
    rows = pl.scan_parquet(everything, hive_partitioning=True).select("lab", "run_id").unique().collect()
    assert sorted(rows.get_column("lab")) == ["east"] * 4 + ["west"] * 6


def test_runs_of_all_laboratories(tmp_path: Path, east: Lab, west: Lab) -> None:
    """`nanolab_daemon.runs` gives those of all laboratories with a column `lab`, or of the ones that are named."""
    for lab, count in ((east, 2), (west, 3)):
        fill(lab, count)
        lab.backfill()
    folders = {"stage": tmp_path / "stage", "output": tmp_path / "output"}
    every = nl.runs(**folders)
    assert every.collect().get_column("lab").to_list().count("west") == 3
    assert set(every.data().collect().get_column("run_id")) == east.runs().keys() | west.runs().keys()
    assert every.segments().collect().get_column("run_id").n_unique() == 5
    assert set(nl.runs(lab="east", **folders).data().collect().get_column("run_id")) == east.runs().keys()
    assert nl.runs(tmp_path, lab=["east", "west"]).data().collect().get_column("run_id").n_unique() == 5
    with pytest.raises(NoRunsError, match=r"No laboratory 'wset'.*did you mean west"):
        nl.runs(lab="wset", **folders)


def test_one_without_a_name_stays_where_it_is(tmp_path: Path, east: Lab) -> None:
    """A laboratory that was alone keeps its paths and ids when another one joins; neither is a stranger's."""
    first = sharing(tmp_path, "")
    for lab in (first, east):
        fill(lab)
        lab.backfill()
    assert (tmp_path / "stage" / "_manifest" / "manifest.parquet").exists()
    assert first.runs().keys() == Lab.fresh(first).runs().keys()
    assert not first.runs().keys() & east.runs().keys()
    assert_sound(first, east)
    assert len(nl.runs(tmp_path)) == 4
    assert nl.runs(tmp_path, lab="*").collect()["lab"].to_list().count("") == 4
    assert nl.runs(tmp_path, lab="*").data().collect()["run_id"].n_unique() == 8
    assert set(nl.runs(tmp_path, lab="").segments().collect()["run_id"]) == first.runs().keys()
    assert set(nl.runs(tmp_path, lab="east").collect().get_column("run_id")) == east.runs().keys()


def test_another_name_is_refused(tmp_path: Path, east: Lab) -> None:
    """The name is a part of every id, so it can't be changed over a ledger; a ledger without runs takes any."""
    east.backfill()
    fill(east)
    renamed = sharing(tmp_path, "west", "east")
    renamed.backfill()
    before = renamed.snapshot()
    for name in ("", "east"):
        with pytest.raises(ConfigError, match='are of the laboratory "west"'):
            sharing(tmp_path, name, "east").backfill()
    assert renamed.snapshot().keys() == before.keys()
    for name in ("", "east"):
        config = sharing(tmp_path, name, "east").config
        for reader in (verify, rebuild, lambda config: plan(config, Rules())):
            with pytest.raises(ConfigError, match='are of the laboratory "west"'):
                reader(config)
        assert any(one.name == "laboratory" and one.status == Status.FAIL for one in check(config))
    shutil.rmtree(renamed.state)
    assert rebuild(renamed.config).runs == 4
    assert renamed.runs().keys() == {path.split("run_id=")[1][:16] for path in before if "run_id=" in path}


def test_the_same_name_twice_is_refused(tmp_path: Path, east: Lab) -> None:
    """Two ledgers would each take the other's runs for strangers and write the same manifest: the second says so."""
    again = sharing(tmp_path, "east", "other")
    fill(east)
    fill(again, 6)
    process = east.spawn()
    try:
        east.wait_quiet()
        before = east.snapshot()
        with pytest.raises(EngineError, match="Another engine, with another state folder, is at work in"):
            again.backfill()
        assert east.snapshot().keys() == before.keys()
        east.wait_quiet()
        assert_sound(east)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with pytest.raises(ConfigError, match="another laboratory of that name publishes in"):
        again.backfill()  # nobody is at work any more, and it is another one's all the same
    assert east.snapshot().keys() == before.keys()
    assert not again.runs()


def test_a_lost_ledger_is_made_anew_where_it_was(east: Lab, tmp_path: Path) -> None:
    """The same raw folder on the same machine takes its partition over; from elsewhere it has to be told to."""
    fill(east)
    east.backfill()
    shutil.rmtree(east.state)
    east.backfill()
    assert len(east.runs()) == 4
    moved = sharing(tmp_path, "east", "moved")
    shutil.copytree(east.raw, moved.raw, dirs_exist_ok=True)
    with pytest.raises(ConfigError, match="verify --rebuild"):
        moved.backfill()
    assert rebuild(moved.config).runs == 4
    assert_sound(moved)
    with pytest.raises(ConfigError, match="another laboratory of that name"):
        east.backfill()


def test_a_copied_ledger_is_refused(tmp_path: Path, east: Lab) -> None:
    """A copy of a state folder at work is told from the original, and takes nothing away from it."""
    fill(east)
    with east.process():
        east.wait_quiet()
        copy = sharing(tmp_path, "east", "copy")
        shutil.copytree(east.state, copy.state, ignore=shutil.ignore_patterns("*.sock", "lock"))
        with pytest.raises(EngineError, match="at work in"):
            copy.backfill()
        instrument.iv(9).write(east.raw / "IV9.csv")
        east.wait_quiet()
        assert_converged(east)


def test_settings_written_out_are_read_back(tmp_path: Path, east: Lab) -> None:
    """The laboratory's partition is added once, however often settings are written out and read again."""
    from nanolab_daemon.config import load

    file = tmp_path / "config.toml"
    file.write_text(
        f'[lab]\nname = "east"\n[paths]\nraw = "{east.raw}"\nstage = "s"\noutput = "o"\nstate = "state"\n'
    )
    once = load(file, environ={})
    assert (once.paths.stage, once.paths.output) == (tmp_path / "s" / "lab=east", tmp_path / "o" / "lab=east")
    file.write_text(toml(once))
    assert load(file, environ=dict(os.environ)).paths == once.paths
