"""Surprises in the raw folder: each ends as if nothing had been surprising."""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import instrument
import pytest
from lab import QUICK, SCAN_ONLY, InlinePool, Lab, assert_converged, until

from nanolab_daemon import report
from nanolab_daemon.config import Watch
from nanolab_daemon.control import ask
from nanolab_daemon.tasks import StageJob

# A rescan so rare that within a test only hints, and the scans that they lead to, can find a file.
HINTS_ONLY = replace(QUICK, rescan_s=600.0)


def published(lab: Lab, *names: str) -> bool:
    states = {os.fsdecode(path): state for path, (state, _) in lab.files().items()}
    return all(states.get(name) in ("staged", "segmented") for name in names)


def test_a_tree_made_and_filled_at_once(tmp_path: Path) -> None:
    """Files in folders that were made an instant before are found by hints alone, each published once."""
    lab = Lab(tmp_path, watch=HINTS_ONLY)
    names = [f"{number}/b/c/f.csv" for number in range(60)]
    with lab.daemon():
        for number, name in enumerate(names):
            instrument.iv(number, start=1757018821.0 + number).write(lab.raw / name)
        until(lambda: published(lab, *names), 30)
        assert {run.revision for run in lab.runs().values()} == {1}


@pytest.mark.parametrize("way", ["file", "folder", "link", "part", "rename"])
def test_files_that_arrive_otherwise_than_by_writing(tmp_path: Path, way: str) -> None:
    """What is moved in, linked in or renamed into place is found by hints alone."""
    lab = Lab(tmp_path, watch=HINTS_ONLY)
    outside = tmp_path / "outside" / "deep"
    one = instrument.iv(1).write(outside / "one.csv")
    with lab.daemon():
        lab.wait_quiet()
        match way:
            case "file":
                one.rename(lab.raw / "one.csv")
                expected = "one.csv"
            case "folder":
                outside.parent.rename(lab.raw / "in")
                expected = "in/deep/one.csv"
            case "link":
                os.link(one, lab.raw / "one.csv")
                expected = "one.csv"
            case "part":
                shutil.copyfile(one, lab.raw / "one.csv.part")
                (lab.raw / "one.csv.part").rename(lab.raw / "one.csv")
                expected = "one.csv"
            case _:
                shutil.copyfile(one, lab.raw / "one.txt")
                (lab.raw / "one.txt").rename(lab.raw / "one.csv")
                expected = "one.csv"
        until(lambda: published(lab, expected), 20)
    assert_converged(lab)


def test_a_moved_folder_is_followed(tmp_path: Path) -> None:
    """When a folder gets another name, the ledger follows: nothing is read or published again."""
    lab = Lab(tmp_path, watch=HINTS_ONLY)
    made = instrument.lab(lab.raw / "old", 6)
    lab.age()
    with lab.daemon() as daemon:
        lab.wait_quiet()
        before = {run.run_id: (run.revision, run.staged_at) for run in lab.runs().values()}
        offered = daemon._engine.tally.to_stage
        (lab.raw / "old").rename(lab.raw / "new")
        until(lambda: all(path.startswith(b"new/") for path in lab.files()), 20)
        lab.wait_quiet()
        assert daemon._engine.tally.to_stage == offered
    assert made
    assert {run.run_id: (run.revision, run.staged_at) for run in lab.runs().values()} == before
    assert all(run.source.startswith(b"new/") for run in lab.runs().values())
    assert_converged(lab)


def test_links_lead_nowhere(tmp_path: Path) -> None:
    """Symbolic links, loops of them, pipes and folders with a file's name are passed over and stop nothing."""
    lab = Lab(tmp_path)
    outside = instrument.iv(9).write(tmp_path / "outside.csv")
    with lab.daemon():
        (lab.raw / "link.csv").symlink_to(outside)
        (lab.raw / "loop").symlink_to(lab.raw)
        os.mkfifo(lab.raw / "pipe.csv")
        (lab.raw / "folder.csv").mkdir()
        instrument.iv(1).write(lab.raw / "folder.csv" / "one.csv")
        lab.wait_quiet()
        assert set(lab.files()) == {b"folder.csv/one.csv"}
    assert_converged(lab)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A name that is no UTF-8, or holds a line break, goes all the way through."""
    lab = Lab(tmp_path, watch=HINTS_ONLY)
    names = [b"caf\xe9.csv", b"two\nlines.csv", b"bell\x07.csv"]
    with lab.daemon():
        for number, name in enumerate(names):
            Path(os.fsdecode(os.path.join(os.fsencode(lab.raw), name))).write_bytes(
                instrument.iv(number, start=1757018821.0 + number).data()
            )
        until(lambda: published(lab, *map(os.fsdecode, names)), 20)
        lab.wait_quiet()
    sources = {frame["source_file"][0] for path, frame in lab.snapshot().items() if path.startswith("stage/proc")}
    assert sources == {"caf\\xe9.csv", "two\\nlines.csv", "bell\\x07.csv"}
    assert_converged(lab)


@pytest.mark.parametrize("watch", [HINTS_ONLY, SCAN_ONLY], ids=["events", "scan"])
def test_the_raw_folder_comes_and_goes(tmp_path: Path, watch: Watch) -> None:
    """A raw folder that is missing, made, or renamed away and back is waited for; nothing counts as deleted."""
    lab = Lab(tmp_path, watch=watch)
    lab.raw.rmdir()
    with lab.daemon():
        until(lambda: (lab.status() or {})["degraded"])
        lab.raw.mkdir()
        instrument.lab(lab.raw, 5)
        until(lambda: len(lab.runs()) == 5, 20)
        lab.wait_quiet()
        before = lab.files()

        lab.raw.rename(tmp_path / "away")
        until(lambda: (lab.status() or {})["degraded"])
        assert lab.files() == before
        (tmp_path / "away").rename(lab.raw)
        until(lambda: not (lab.status() or {})["degraded"])
        lab.wait_quiet()
        assert lab.files() == before

        lab.raw.rename(tmp_path / "away")
        lab.raw.mkdir()  # another folder under the same name, empty: a share that is not mounted looks like that
        instrument.iv(90, start=1757800000.0).write(lab.raw / "new.csv")
        until(lambda: published(lab, "new.csv"), 20)


def test_the_raw_folder_is_a_link(tmp_path: Path) -> None:
    """A raw folder reached through a symbolic link is watched like any other."""
    lab = Lab(tmp_path, watch=HINTS_ONLY)
    lab.raw.rename(tmp_path / "real")
    lab.raw.symlink_to(tmp_path / "real")
    with lab.daemon():
        lab.wait_quiet()
        instrument.iv(1).write(lab.raw / "one.csv")
        until(lambda: published(lab, "one.csv"), 20)


def test_the_watch_dies(tmp_path: Path) -> None:
    """When a thread of the watch is dead, the watch is started again, and a scan finds what it missed."""
    lab = Lab(tmp_path, watch=HINTS_ONLY)
    with lab.daemon() as daemon:
        lab.wait_quiet()
        watch = daemon._lookout.watch
        assert watch is not None
        assert watch._observer is not None
        for emitter in list(watch._observer.emitters):
            emitter.stop()
        instrument.iv(1).write(lab.raw / "missed.csv")
        until(lambda: published(lab, "missed.csv"), 20)
        instrument.iv(2, start=1757300000.0).write(lab.raw / "seen.csv")
        until(lambda: published(lab, "seen.csv"), 20)


def test_lost_events_lead_to_a_scan(tmp_path: Path) -> None:
    """What the kernel's queue could not hold is found by the scan that its overflow leads to."""
    lab = Lab(tmp_path, watch=HINTS_ONLY)
    with lab.daemon() as daemon:
        lab.wait_quiet()
        watch = daemon._lookout.watch
        assert watch is not None
        watch.hint, original = (lambda *_: None), watch.hint  # type: ignore[method-assign]
        instrument.iv(1).write(lab.raw / "lost.csv")
        time.sleep(1.0)  # longer than any event takes; there is nothing to wait for, since nothing may happen
        watch.hint = original  # type: ignore[method-assign]
        assert not published(lab, "lost.csv")
        watch._lost()
        until(lambda: published(lab, "lost.csv"), 20)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_stopped_while_a_burst_arrives(tmp_path: Path) -> None:
    """A daemon that was stopped while more files came than the kernel queues events for misses none of them."""
    lab = Lab(tmp_path, watch=replace(QUICK, rescan_s=600.0))
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(50):
        (lab.raw / str(number)).mkdir()  # watched: nothing is queued for folders that are made meanwhile
    with lab.process() as daemon:
        lab.wait_quiet()
        os.kill(daemon.pid, signal.SIGSTOP)
        count = limit // 2 + 2000  # two events a file are queued
        for number in range(count):
            (lab.raw / str(number % 50) / f"{number}.csv").write_bytes(b"no instrument file %d\n" % number)
        instrument.iv(1).write(lab.raw / "last.csv")
        os.kill(daemon.pid, signal.SIGCONT)
        until(lambda: (lab.status() or {})["lost_events"] > 0, 60, "for the kernel to have dropped events")
        until(lambda: len(lab.files()) == count + 1, 300)
        until(lambda: published(lab, "last.csv"), 60)


def test_late_rows_publish_again(tmp_path: Path) -> None:
    """Rows that come after publication publish the run again, whole, and no segment of the old one is left."""
    lab = Lab(tmp_path, watch=HINTS_ONLY)
    one = instrument.iv(1)
    with lab.daemon():
        file = lab.raw / "one.csv"
        file.write_bytes(one.data(20))
        until(lambda: published(lab, "one.csv"), 20)
        with file.open("ab") as growing:
            growing.write(one.data()[len(one.data(20)) :])
        until(lambda: [run.facts.rows for run in lab.runs().values()] == [len(one.rows)], 20)
        lab.wait_quiet()
        assert [run.revision for run in lab.runs().values()] == [2]
    assert_converged(lab)


def test_a_folder_moved_out_is_no_ghost(tmp_path: Path) -> None:
    """What is written into a folder after it was moved out of raw concerns nobody, and its runs stay."""
    lab = Lab(tmp_path, watch=HINTS_ONLY)
    instrument.iv(1).write(lab.raw / "day" / "one.csv")
    with lab.daemon():
        lab.wait_quiet()
        (lab.raw / "day").rename(tmp_path / "elsewhere")
        instrument.iv(2, start=1757100000.0).write(tmp_path / "elsewhere" / "ghost.csv")
        until(lambda: all(run.source_missing for run in lab.runs().values()), 20)
        lab.wait_quiet()
        assert len(lab.runs()) == 1
        assert not lab.files()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_in_the_watch_is_survived(tmp_path: Path) -> None:
    """An exception in the observer's own thread costs the watch its life, not the daemon any file."""
    lab = Lab(tmp_path, watch=HINTS_ONLY)
    with lab.daemon() as daemon:
        lab.wait_quiet()
        watch = daemon._lookout.watch
        assert watch is not None
        original = watch.hint

        def fail(*_: object) -> None:
            watch.hint = original  # type: ignore[method-assign]
            raise RuntimeError

        watch.hint = fail  # type: ignore[method-assign]
        instrument.iv(1).write(lab.raw / "one.csv")
        until(lambda: published(lab, "one.csv"), 20)
        instrument.iv(2, start=1757100000.0).write(lab.raw / "two.csv")
        until(lambda: published(lab, "two.csv"), 20)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; CI runs this as a plain user too")
def test_a_raw_folder_that_is_closed_to_us(tmp_path: Path) -> None:
    """A raw folder without rights is told and waited for, and nothing in it counts as gone."""
    lab = Lab(tmp_path, watch=HINTS_ONLY)
    instrument.iv(1).write(lab.raw / "one.csv")
    with lab.daemon():
        lab.wait_quiet()
        before = lab.files()
        lab.raw.chmod(0)
        until(lambda: (lab.status() or {})["degraded"])
        assert lab.files() == before
        lab.raw.chmod(0o755)
        until(lambda: not (lab.status() or {})["degraded"])
        lab.wait_quiet()
        assert lab.files() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; CI runs this as a plain user too")
def test_a_folder_below_raw_that_is_closed_to_us(tmp_path: Path) -> None:
    """It is named with the reason, keeps nobody waiting, and what is in it comes as soon as it is opened."""
    lab = Lab(tmp_path, watch=HINTS_ONLY)
    closed = lab.raw / "private"
    instrument.iv(1).write(closed / "one.csv")
    closed.chmod(0)
    try:
        with lab.daemon():
            instrument.iv(2, start=1757100000.0).write(lab.raw / "two.csv")
            lab.wait_quiet()
            assert lab.state_of("two.csv") == "segmented"
            assert (lab.status() or {})["unlisted"] == {"private": "Permission denied"}
            assert "private (Permission denied)" in report.status(lab.config, datetime.now(UTC)).health
            closed.chmod(0o755)
            lab.wait_quiet()
            assert not (lab.status() or {})["unlisted"]
            until(lambda: lab.state_of("private/one.csv") == "segmented")
    finally:
        closed.chmod(0o755)


def test_held_open_and_continued(tmp_path: Path) -> None:
    """A file that its writer keeps open, with pauses longer than it takes to settle, ends with all its rows."""
    lab = Lab(tmp_path, watch=replace(HINTS_ONLY, quiet_s=0.2))
    one = replace(instrument.it(1, rows=9), parameters={})
    with lab.daemon():
        with (lab.raw / "one.csv").open("wb", buffering=0) as file:
            file.write(one.data(3))
            until(lambda: published(lab, "one.csv"), 20)
            file.write(one.data(6)[len(one.data(3)) :])
        until(lambda: [run.facts.rows for run in lab.runs().values()] == [6], 20)
        lab.wait_quiet()
    assert_converged(lab)


def test_renaming_folders_is_no_lack_of_watches(tmp_path: Path) -> None:
    """Folders that are renamed and removed leave the watch as it is: events still come, and no limit is blamed."""
    lab = Lab(tmp_path)
    for name in ("a", "b/c", "d"):
        instrument.iv(len(name), start=1757018821.0 + len(name)).write(lab.raw / name / "one.csv")
    with lab.daemon():
        lab.wait_quiet()
        (lab.raw / "a").rename(lab.raw / "a2")
        (lab.raw / "b").rename(lab.raw / "a")
        shutil.rmtree(lab.raw / "d")
        for _ in range(4):
            status = lab.wait_quiet()
        assert status["places"]["."]["mode"] == "events"
        assert status["trouble"] is None
    assert_converged(lab)


@pytest.mark.parametrize("watch", [HINTS_ONLY, SCAN_ONLY], ids=["events", "scan"])
def test_most_files_gone_at_once(tmp_path: Path, watch: Watch) -> None:
    """When most files are gone at once, that is told and nothing concluded, until a person says that it is meant."""
    lab = Lab(tmp_path, watch=watch)
    one = instrument.iv(1)
    for number in range(30):
        replace(one, start_time=f"{1757000000 + number}.5").write(lab.raw / "day" / f"{number}.csv")
    instrument.iv(2, start=1757900000.0).write(lab.raw / "stays.csv")
    lab.age()
    with lab.daemon():
        lab.wait_quiet()
        (lab.raw / "day").rename(tmp_path / "archived")
        until(lambda: (lab.wait_quiet())["frozen"], 20)
        assert not any(run.source_missing for run in lab.runs().values())
        (tmp_path / "archived").rename(lab.raw / "day")
        until(lambda: not (lab.wait_quiet())["frozen"], 20)
        (lab.raw / "day").rename(tmp_path / "archived")
        until(lambda: (lab.wait_quiet())["frozen"], 20)
        answer = ask(lab.state, {"ask": "backfill", "accept_missing": True})
        assert answer is not None
        until(lambda: sum(run.source_missing for run in lab.runs().values()) == 30, 20)
        assert not lab.wait_quiet()["frozen"]
    assert_converged(lab)


# -- what random sequences have found --------------------------------------------------------------------------------


def test_nonsense_in_a_header_without_rows(tmp_path: Path) -> None:
    """A header without rows whose start time is no time is rejected by the daemon as it is by a backfill."""
    lab = Lab(tmp_path, watch=HINTS_ONLY)
    with lab.daemon():
        (lab.raw / "one.csv").write_bytes(replace(instrument.iv(1), start_time="no time at all").data(0))
        until(lambda: lab.state_of("one.csv") == "rejected", 20)
        lab.wait_quiet()
    assert_converged(lab)


@pytest.mark.parametrize("way", ["live", "backlog"])
def test_gone_between_reading_and_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """A file that is deleted when a worker has read it, but the ledger does not know it yet, does not stay there."""
    lab = Lab(tmp_path, watch=HINTS_ONLY)
    file = lab.raw / "one.csv"

    def delete(pool: str) -> None:
        if pool == "stage":
            file.unlink(missing_ok=True)

    monkeypatch.setattr(InlinePool, "meanwhile", staticmethod(delete))
    if way == "backlog":
        instrument.iv(1).write(file)
        os.utime(file, (time.time() - 3600,) * 2)
    with lab.daemon():
        if way == "live":
            instrument.iv(1).write(file)
        until(lab.runs, 20)
        until(lambda: not lab.files(), 20)
        assert all(run.source_missing for run in lab.runs().values())


def test_changed_between_decision_and_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that seemed to wait, but has rows when the worker comes to it, is not published with them."""
    lab = Lab(tmp_path, watch=replace(HINTS_ONLY, settle_s=0.1))
    one = instrument.iv(1)
    with lab.daemon() as daemon:
        original = daemon._engine.offer

        def offer(job: StageJob) -> None:
            monkeypatch.setattr(daemon._engine, "offer", original)
            (lab.raw / "one.csv").write_bytes(one.data(3))
            original(job)

        monkeypatch.setattr(daemon._engine, "offer", offer)
        (lab.raw / "one.csv").write_bytes(one.data(0))
        until(lambda: lab.state_of("one.csv") == "measuring", 20)
        with (lab.raw / "one.csv").open("ab") as file:
            file.write(one.data()[len(one.data(3)) :])
        until(lambda: published(lab, "one.csv"), 20)
        lab.wait_quiet()
    assert [run.revision for run in lab.runs().values()] == [1]
