"""Files that kill, hang or fill the workers that read them: found out, quarantined by content, and nobody else hurt.

The readers survive every file that is known; `poison_site` makes workers obey what a file's Information says.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import instrument
import pytest
from lab import Lab, toml, until
from realdata import real_files

from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord
from nanolab_daemon.errors import RejectCause
from nanolab_daemon.verify import verify

pytestmark = pytest.mark.long

SITE = Path(__file__).parents[1] / "poison_site"
CAUSES = {
    "exit": RejectCause.CRASHED,
    "segfault": RejectCause.CRASHED,
    "gil": RejectCause.TIMED_OUT,
    "memory": RejectCause.OUT_OF_MEMORY,
}
ALL_CAUSES = CAUSES | {"sleep": RejectCause.TIMED_OUT, "raise": RejectCause.INTERNAL}


class PoisonLab(Lab):
    """A lab whose workers obey poisonous files. `tries` counts how often each was met."""

    def __init__(self, home: Path, workers: int = 2) -> None:
        super().__init__(home, workers=workers)
        pools = replace(self.config.pools, task_timeout_s=4.0, task_memory_mb=400)
        self.config = replace(self.config, pools=pools)
        self.log = home / "tries"
        os.environ["POISON_LOG"] = str(self.log)
        os.environ["POISON_STATE"] = str(home / "met")

    def tries(self, word: str, stage: str = "poison") -> int:
        if not self.log.exists():
            return 0
        return len(re.findall(rf"^{stage}={word} ", self.log.read_text(), re.MULTILINE))

    def command(self, *words: str) -> str:
        """Run a command to its end and give what it says."""
        (self.home / "config.toml").write_text(toml(self.config))
        command = [sys.executable, "-m", "nanolab_daemon", *words, "--config", str(self.home / "config.toml")]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=self.home, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def record(self, path: str) -> FileRecord:
        catalog = Catalog.open_to_read(self.state / FILE_NAME)
        assert catalog is not None
        try:
            found = catalog.file(path.encode())
        finally:
            catalog.close()
        assert found is not None, path
        return found

    def records(self) -> dict[str, FileRecord]:
        catalog = Catalog.open_to_read(self.state / FILE_NAME)
        assert catalog is not None
        try:
            return {os.fsdecode(record.path): record for record in catalog.files("present")}
        finally:
            catalog.close()

    def cause(self, path: str) -> RejectCause | None:
        rejection = self.record(path).rejection
        return rejection.cause if rejection else None


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PoisonLab:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(SITE), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("POISON_LOG", "")
    monkeypatch.setenv("POISON_STATE", "")
    return PoisonLab(tmp_path)


def poisonous(word: str, seed: int, stage: str = "poison") -> instrument.Measurement:
    """Make a sound measurement with a word in its Information that its reader obeys."""
    one = instrument.iv(seed, start=1760000000.0)
    return replace(one, parameters={**one.parameters, "Information": f"{stage}={word}"})


def archive(raw: Path, number: int) -> list[str]:
    """Fill the folder with so many sound files: the lab's own where this machine has them."""
    raw.mkdir(parents=True, exist_ok=True)
    sound = [path for path in real_files() if 1500 < path.stat().st_size < 200_000]
    names = []
    for at in range(number):
        name = f"{at // 100}/{at:03}.csv"
        (raw / name).parent.mkdir(exist_ok=True)
        if at < len(sound):
            shutil.copyfile(sound[at], raw / name)
        else:
            instrument.iv(at, start=1600000000.0).write(raw / name)
        names.append(name)
    return names


def place_four(lab: PoisonLab, folder: str = "2") -> dict[str, str]:
    """Put the four poisonous files among the others; give their names and words."""
    placed = {}
    for seed, word in enumerate(CAUSES):
        name = f"{folder}/{seed * 20:03}_{word}.csv"
        poisonous(word, seed).write(lab.raw / name)
        placed[name] = word
    return placed


def assert_quarantined(lab: PoisonLab, poison: dict[str, str], sound: list[str]) -> None:
    records = lab.records()
    assert {name: lab.cause(name) for name in poison} == {name: ALL_CAUSES[word] for name, word in poison.items()}
    assert {word: lab.tries(word) for word in poison.values()} == dict.fromkeys(poison.values(), 2)
    assert {records[name].attempts for name in poison} == {2}
    assert {records[name].attempts for name in sound} == {0}
    assert {name for name in sound if records[name].run_id is None} == set()
    assert {run.revision for run in lab.runs().values()} == {1}
    assert len(lab.runs()) == len(sound)


def workers_of(pid: int) -> set[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in children if b"nl-" in Path(f"/proc/{child}/comm").read_bytes()}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_four_poison_files_among_500(lab: PoisonLab) -> None:
    """The daemon publishes 496 of 500 and quarantines 4, each for its cause; it stays the same process throughout."""
    sound = archive(lab.raw, 496)
    poison = place_four(lab)
    lab.age()
    with lab.process() as daemon:
        until(lambda: len(lab.runs()) == 496 and set(poison) <= set(lab.records()), 200, "for all files")
        status = lab.wait_quiet(60)
        assert_quarantined(lab, poison, sound)
        assert daemon.poll() is None
        assert status["pid"] == daemon.pid
        pools = {pool["name"]: pool for pool in status["pools"]}
        assert (pools["stage"]["replaced"], pools["segment"]["replaced"]) == (8, 0)
        until(lambda: [pool["ready"] for pool in (lab.status() or {})["pools"]] == [2, 2], 30, "for the last worker")
        assert not verify(lab.config).problems
    with lab.process():  # a restart tries none of them again
        lab.wait_quiet()
        assert_quarantined(lab, poison, sound)
    lab.command("retry")  # a person may
    assert {word: lab.tries(word) for word in CAUSES} == dict.fromkeys(CAUSES, 4)
    assert {name: lab.cause(name) for name in poison} == {name: CAUSES[word] for name, word in poison.items()}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_poison_in_a_backfill(lab: PoisonLab) -> None:
    """Four in one folder, so in one batch of a backfill, cost that batch's others nothing."""
    sound = archive(lab.raw, 120)
    poison = {}
    for seed, word in enumerate(CAUSES):
        name = f"0/0{seed:02}_{word}.csv"  # the first batch
        poisonous(word, seed).write(lab.raw / name)
        poison[name] = word
    lab.command("backfill")
    assert_quarantined(lab, poison, sound)
    lab.command("backfill")
    assert_quarantined(lab, poison, sound)
    assert not verify(lab.config).problems


@pytest.mark.parametrize("word", ["exit", "sleep", "raise"])
def test_changed_bytes_are_tried_again(lab: PoisonLab, word: str) -> None:
    """A quarantined file is tried again when its bytes change, by itself; not when it is touched, moved or copied."""
    if word == "sleep":
        lab.config = replace(lab.config, pools=replace(lab.config.pools, task_timeout_s=3.0))
    path = poisonous(word, 1).write(lab.raw / "a" / "bad.csv")
    with lab.process():
        until(lambda: lab.state_of("a/bad.csv") == "rejected")
        assert (lab.cause("a/bad.csv"), lab.tries(word)) == (ALL_CAUSES[word], 2)
        os.utime(path)
        lab.wait_quiet()
        assert lab.tries(word) == 2
        path.rename(lab.raw / "a" / "moved.csv")
        lab.wait_quiet()
        assert lab.tries(word) == 2
        shutil.copyfile(lab.raw / "a" / "moved.csv", lab.raw / "a" / "copy.csv")
        until(lambda: lab.state_of("a/copy.csv") == "rejected")
        lab.wait_quiet()
        one, other = lab.record("a/moved.csv"), lab.record("a/copy.csv")
        assert (one.reason, one.attempts, one.sha256) == (other.reason, other.attempts, other.sha256)
        assert lab.tries(word) == 2
        data = other.path and (lab.raw / "a" / "copy.csv").read_bytes()
        (lab.raw / "a" / "copy.csv").write_bytes(data.replace(f"poison={word}".encode(), b"well again"))
        until(lambda: lab.state_of("a/copy.csv") == "segmented")
        assert lab.tries(word) == 2
        assert lab.record("a/copy.csv").attempts == 0
        (lab.raw / "a" / "moved.csv").write_bytes(data.replace(b"0.1", b"0.2", 1))  # still poisonous, but another one
        until(lambda: lab.tries(word) == 4)
        lab.wait_quiet()
        assert lab.state_of("a/moved.csv") == "rejected"


def test_bytes_that_change_while_they_kill_are_tried_again(lab: PoisonLab) -> None:
    """What is quarantined is what was read: bytes that came while a worker hung over the older ones are judged."""
    lab.config = replace(lab.config, pools=replace(lab.config.pools, task_timeout_s=3.0))
    path = poisonous("sleep", 1).write(lab.raw / "x.csv")
    with lab.process():
        until(lambda: lab.tries("sleep") == 2)
        path.write_bytes(instrument.iv(1, start=1760000000.0).data())
        until(lambda: lab.state_of("x.csv") == "segmented")
        assert lab.record("x.csv").attempts == 0


def test_poison_every_other_time(lab: PoisonLab) -> None:
    """A file that kills its first worker and not the second, which has it alone, is published; nobody is charged."""
    names = [os.path.relpath(instrument.iv(seed).write(lab.raw / f"{seed}.csv"), lab.raw) for seed in range(6)]
    poisonous("sometimes", 9).write(lab.raw / "3b.csv")
    lab.command("backfill")
    assert lab.tries("sometimes") == 2
    assert lab.state_of("3b.csv") == "segmented"
    assert {record.attempts for record in lab.records().values()} == {0}
    assert len(lab.runs()) == len(names) + 1


@pytest.mark.long
@pytest.mark.timeout(240)
def test_poison_in_the_second_stage(lab: PoisonLab) -> None:
    """A staged run that kills the workers that cut it stays published, says so, and is not tried for ever."""
    poison = {f"{seed}_{word}.csv": word for seed, word in enumerate(ALL_CAUSES)}
    for seed, (name, word) in enumerate(poison.items()):
        poisonous(word, seed, "poison2").write(lab.raw / name)
    sound = [os.path.relpath(instrument.iv(s).write(lab.raw / f"s{s}.csv"), lab.raw) for s in range(10, 20)]
    with lab.process() as daemon:
        until(lambda: len(lab.runs()) == len(poison) + len(sound), 60)
        status = lab.wait_quiet(150)
        assert status["pid"] == daemon.pid
        runs = {os.fsdecode(run.source): run for run in lab.runs().values()}
        assert {runs[name].segmentation for name in sound} == {"done"}
        for name in poison:
            assert runs[name].segmentation != "pending", name
            assert "not its segments" in lab.record(name).reason
            assert lab.state_of(name) == "staged"
            assert not runs[name].segment_files
        assert {record.attempts for record in lab.records().values()} == {0}
        before = lab.log.read_text()
        # An exception is told apart from a staged file that can't be read by making that once more.
        assert {word: lab.tries(word, "poison2") for word in poison.values()} == dict.fromkeys(poison.values(), 2)
    with lab.process():
        lab.wait_quiet()
    assert lab.log.read_text() == before
    lab.command("retry", "0_exit.csv")  # a person may have it tried again
    assert lab.tries("exit", "poison2") == 4
    assert not verify(lab.config).problems


def test_another_version_tries_again_once(lab: PoisonLab) -> None:
    """What one version of the program refused or could not cut, the next one looks at anew, once."""
    poisonous("exit", 1).write(lab.raw / "first.csv")
    poisonous("exit", 2, "poison2").write(lab.raw / "second.csv")
    (lab.raw / "text.csv").write_text("hello\n")
    (lab.raw / "queued.csv").write_bytes(instrument.iv(3).queued())
    lab.age(1e6)
    lab.command("backfill")
    tries = {("exit", "poison"): 2, ("exit", "poison2"): 2}
    assert {key: lab.tries(*key) for key in tries} == tries
    with contextlib.closing(Catalog.open(lab.state / FILE_NAME)) as catalog:
        for record in list(catalog.files()):
            catalog.put_file(replace(record, version="0.0.1"))
        catalog.set_program("0.0.1")
    for _ in range(2):
        lab.command("backfill")
        assert {key: lab.tries(*key) for key in tries} == dict.fromkeys(tries, 4)
    assert lab.cause("first.csv") is RejectCause.CRASHED
    assert lab.record("text.csv").version != "0.0.1"
    assert lab.record("queued.csv").version == "0.0.1"


def test_an_idle_worker_killed_costs_a_log_line(lab: PoisonLab) -> None:
    """Idle workers killed from outside are replaced; the log says it and nobody is charged."""
    with lab.process() as daemon:
        before = workers_of(daemon.pid)
        until(lambda: all(pool["idle"] == 2 for pool in (lab.status() or {"pools": [{"idle": 0}]})["pools"]))
        before = workers_of(daemon.pid)
        assert len(before) == 4
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(workers_of(daemon.pid) - before) == 4)
        instrument.iv(1).write(lab.raw / "x.csv")
        until(lambda: lab.state_of("x.csv") == "segmented")
        assert [pool["lost_idle"] for pool in lab.wait_quiet()["pools"]] == [2, 2]
        assert lab.record("x.csv").attempts == 0
    log = (lab.home / "daemon.log").read_text()
    assert log.count("a worker was lost") == 4
    assert "Traceback" not in log


@contextlib.contextmanager
def daemon_with_stuck_workers(lab: PoisonLab, stage: str) -> Iterator[tuple[subprocess.Popen[bytes], set[int]]]:
    """Run a daemon both workers of one stage of which hang in native code, holding the interpreter's lock."""
    lab.config = replace(lab.config, pools=replace(lab.config.pools, task_timeout_s=60.0))
    daemon = lab.spawn()
    try:
        for seed in range(2):
            poisonous("gil", seed, stage).write(lab.raw / f"{seed}.csv")
        until(lambda: lab.tries("gil", stage) == 2)
        yield daemon, workers_of(daemon.pid)
    finally:
        daemon.kill()
        daemon.wait()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("stage", ["poison", "poison2"])
def test_stuck_workers_die_with_the_daemon(lab: PoisonLab, stage: str) -> None:
    """SIGKILL of the daemon ends workers that hold the interpreter's lock too, at once."""
    with daemon_with_stuck_workers(lab, stage) as (daemon, workers):
        assert len(workers) == 4
        daemon.kill()
        daemon.wait()
        until(lambda: not any(alive(pid) for pid in workers), 2.0, "for the workers to die with the daemon")


def test_stuck_workers_do_not_hold_up_a_stop(lab: PoisonLab) -> None:
    """SIGTERM ends the daemon well and in time while its workers hang; their files are no worse off for it."""
    with daemon_with_stuck_workers(lab, "poison") as (daemon, workers):
        began = time.monotonic()
        daemon.terminate()
        assert daemon.wait(30) == 0
        assert time.monotonic() - began < 20
        assert not any(alive(pid) for pid in workers)
        assert not list(lab.home.rglob(".nanolab-tmp"))
    assert all(record.attempts == 0 for record in lab.records().values())


def test_poison_in_a_dry_run(lab: PoisonLab) -> None:
    """`--dry-run` survives it too, says what would become of it, and leaves nothing."""
    poisonous("exit", 1).write(lab.raw / "bad.csv")
    instrument.iv(2).write(lab.raw / "good.csv")
    said: Any = lab.command("backfill", "--dry-run")
    assert re.search(r"reject\w*\s.*bad\.csv|bad\.csv.*reject", said), said
    assert not lab.state.exists() or not any(lab.state.iterdir())
