"""A disk that fills in the middle of the work: all waits, says for what, goes on by itself, and has lost nothing."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import instrument
import outputs
import polars as pl
import pytest
from lab import InlinePool, Lab, assert_converged, until
from smalldisk import fill, mounted, needs_root, remount

from nanolab_daemon import batch, pauses
from nanolab_daemon import verify as verify_module
from nanolab_daemon.errors import EngineError
from nanolab_daemon.report import status
from nanolab_daemon.verify import verify

pytestmark = needs_root
PLACES = ("stage", "output", "state")
ROOM_KB = 8192  # SQLite's journal alone may take four of them
LEFT_KB = 60
FILES = {"stage": 14, "output": 14, "state": 30}  # more than there is room for


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `verify` need no processes of its own, and pauses be short: both are tested elsewhere."""
    monkeypatch.setattr(verify_module, "Pool", InlinePool)
    monkeypatch.setattr(pauses, "WAITS_S", (0.1, 0.2, 0.4, 0.8, 1.6))


def load(lab: Lab, first: int, count: int, *, old: bool) -> None:
    """Put some measurements there, as being written just now or as an archive."""
    for seed in range(first, first + count):
        make = (instrument.iv, instrument.ivg, instrument.it)[seed % 3]
        path = make(seed).write(lab.raw / f"day{seed // 10}" / f"{seed}.csv")
        if old:
            then = time.time() - 3600
            os.utime(path, (then, then))


def begun(lab: Lab, files: int) -> None:
    """Let there be a ledger already, and files that it does not know."""
    load(lab, 0, 2, old=True)
    lab.backfill()
    load(lab, 2, files, old=True)


def assert_nothing_wrong(lab: Lab) -> None:
    """Whatever is published is whole, and of one of the raw files."""
    for root in (lab.stage, lab.output):
        for path in root.glob("*=*/**/*.parquet"):
            assert pl.read_parquet(path.read_bytes()).height, path


def assert_sound(lab: Lab) -> None:
    found = verify(lab.config)
    assert not found.problems, found.problems
    assert_converged(lab)
    assert not outputs.leftovers(lab.stage, lab.output)


def paused(lab: Lab) -> str:
    """Give what `status` says, if the daemon is paused."""
    found = status(lab.config, datetime.now(UTC))
    return found.health if found.health.startswith("paused since") else ""


@pytest.mark.parametrize("place", PLACES)
def test_the_daemon_waits_for_room(tmp_path: Path, place: str) -> None:
    """The folder that is full is named in `status`, with the time; with room again, the daemon goes on by itself."""
    lab = Lab(tmp_path)
    folder = getattr(lab, place)
    with mounted(folder, ROOM_KB):
        with lab.daemon():
            load(lab, 0, 6, old=False)
            lab.wait_quiet()
            filling = fill(folder, LEFT_KB)
            more = FILES[place] // 2
            load(lab, 6, more, old=True)
            load(lab, 6 + more, more, old=False)
            (lab.raw / "day0/0.csv").write_bytes(instrument.iv(0).first(30).data())  # a run that is to be replaced
            words = until(lambda: paused(lab), what="for the pause")
            assert f"the {place} folder {folder} can't be written" in words
            assert datetime.now(UTC).astimezone().strftime("%Y-") in words
            since = words[:40]
            time.sleep(0.5)  # some tries later
            assert paused(lab)[:40] == since
            assert_nothing_wrong(lab)
            os.unlink(filling)
            until(lambda: not paused(lab), 40, "for it to go on")
            lab.wait_quiet()
            assert len(lab.runs()) == 6 + 2 * more
        assert_sound(lab)


@pytest.mark.parametrize("place", PLACES)
def test_the_daemon_starts_on_a_full_disk(tmp_path: Path, place: str) -> None:
    """At its first start it waits as well, says for what, and works by itself when there is room."""
    lab = Lab(tmp_path)
    folder = getattr(lab, place)
    log = tmp_path / "starting.log"
    with mounted(folder, ROOM_KB):
        load(lab, 0, 6, old=True)
        filling = fill(folder)
        with ThreadPoolExecutor(1) as others:
            starting = others.submit(lab.spawn, log=log)
            until(lambda: log.exists() and '"paused"' in log.read_text(), what="for it to say that it waits")
            assert f"the {place} folder {folder} can't be written: No space left" in log.read_text()
            os.unlink(filling)
            daemon = starting.result()
        try:
            until(lambda: len(lab.runs()) == 6)
            lab.wait_quiet()
        finally:
            daemon.terminate()
            assert daemon.wait(30) == 0
        assert '"resumed"' in log.read_text()
        assert_sound(lab)


@pytest.mark.parametrize("place", PLACES)
def test_a_backfill_waits_for_room(tmp_path: Path, place: str) -> None:
    """A backfill goes on as well when there is room within the minute that it waits."""
    lab = Lab(tmp_path)
    folder = getattr(lab, place)
    with mounted(folder, ROOM_KB):
        begun(lab, FILES[place])
        filling = fill(folder, LEFT_KB)
        reasons: list[str] = []

        def look(engine: object) -> None:
            pause = engine.paused  # type: ignore[attr-defined]
            if pause is not None and not reasons:
                reasons.append(pause.reason)
                threading.Timer(0.25, filling.unlink).start()

        ended = lab.backfill(on_step=look)
        assert str(folder) in reasons[0]
        assert ended.tally.outcomes.total() == FILES[place]
        assert_sound(lab)


@pytest.mark.parametrize("place", [pytest.param("output", marks=pytest.mark.long), "state"])
def test_a_backfill_gives_up_and_is_repeated(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no room is made, it ends with a clear error and leaves nothing wrong; the next one goes on from there."""
    monkeypatch.setattr(batch, "GIVE_UP_AFTER_S", 0.2)
    lab = Lab(tmp_path)
    folder = getattr(lab, place)
    with mounted(folder, ROOM_KB):
        begun(lab, FILES[place])
        filling = fill(folder, LEFT_KB)
        began = time.monotonic()
        with pytest.raises(EngineError, match="can't be written"):
            lab.backfill()
        assert time.monotonic() - began < 20
        assert_nothing_wrong(lab)
        filling.unlink()
        lab.backfill()
        assert_sound(lab)


@pytest.mark.long
@pytest.mark.parametrize("place", PLACES)
def test_killed_while_it_waits(tmp_path: Path, place: str) -> None:
    """A daemon with real workers that is killed while the disk is full loses nothing by it."""
    lab = Lab(tmp_path)
    folder = getattr(lab, place)
    with mounted(folder, ROOM_KB):
        begun(lab, FILES[place])
        filling = fill(folder, LEFT_KB)
        daemon = lab.spawn()
        until(lambda: paused(lab), what="for the pause")
        daemon.kill()
        daemon.wait()
        filling.unlink()
        with lab.process():
            lab.wait_quiet()
        assert not verify(lab.config).problems
        assert_converged(lab)


@pytest.mark.parametrize("place", [pytest.param("stage", marks=pytest.mark.long), "output"])
def test_an_output_folder_that_is_read_only(tmp_path: Path, place: str) -> None:
    """So it is with a folder that is mounted read-only, and one that is unmounted: nothing is written below it."""
    lab = Lab(tmp_path)
    folder = getattr(lab, place)
    with mounted(folder, ROOM_KB), lab.daemon():
        load(lab, 0, 6, old=False)
        lab.wait_quiet()
        remount(folder, "ro")
        load(lab, 6, 9, old=False)
        words = until(lambda: paused(lab), what="for the pause")
        assert "Read-only file system" in words
        remount(folder, "rw")
        until(lambda: not paused(lab), 40)
        lab.wait_quiet()
        (tmp_path / "elsewhere").mkdir()
        subprocess.run(["mount", "--move", folder, tmp_path / "elsewhere"], check=True)
        try:
            load(lab, 15, 9, old=False)
            until(lambda: "on another disk" in paused(lab), what="for the pause")
            assert not [path for path in folder.rglob("*") if path.is_file()]
        finally:
            subprocess.run(["mount", "--move", tmp_path / "elsewhere", folder], check=True)
        until(lambda: not paused(lab), 40)
        lab.wait_quiet()
        assert not verify(lab.config).problems
        assert_converged(lab)
