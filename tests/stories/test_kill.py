"""SIGKILL at moments chosen by chance: the program, a worker of either stage, all of them, again and again.

After each, the program is started again; between them the raw folder changes. Whatever was hit, the end is that of an
undisturbed backfill. `KILLS=500 KILL_FILES=3000 ./go test -m slow …` is the long form, `KILL_SEED` repeats a test.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import instrument
import outputs
import pytest
from lab import QUICK, Lab, assert_converged, toml, until

KILLS = int(os.environ.get("KILLS", "20"))
FILES = int(os.environ.get("KILL_FILES", "200"))
SEED = os.environ.get("KILL_SEED") or str(random.randrange(10**6))
ORPHANS_GONE_S = 1.0
APART_S = 1.0  # between two lost workers: a file that has cost two of them is put into quarantine, as it should be
STARTED_FILES = FILES // 2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 + 12 * KILLS + FILES)]


class Victims:
    """A lab whose program is killed again and again."""

    def __init__(self, home: Path, command: str) -> None:
        self.lab = Lab(home, watch=QUICK, workers=2)
        self.command = command
        self.chance = random.Random(f"{SEED} {command}")
        self.config = home / "config.toml"
        self.config.write_text(toml(self.lab.config))
        makers = (instrument.iv, instrument.ivg, instrument.it)
        self.measured = [makers[seed % 3](seed) for seed in range(FILES)]
        self.paths: dict[int, Path] = {}
        self.killed: Counter[str] = Counter()
        self.ended = 0
        self.worker_lost = -APART_S
        self.began = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        for number in range(STARTED_FILES):
            self.write(number)
        self.lab.age()

    # -- the raw folder

    def write(self, number: int) -> None:
        """Write a new file, maybe not to its end; or one that is there, whole."""
        path = self.paths.get(number)
        measurement = self.measured[number]
        if path is None:
            path = self.lab.raw / f"{number // 50:03}" / f"{number}.csv"
            measurement = measurement.first(self.chance.choice((len(measurement.rows), 30, 4)))
        self.paths[number] = measurement.write(path)
        then = time.time() - 3600
        os.utime(path, (then, then))

    def change(self, share: int) -> None:
        """Let the lab go on: new files, grown ones, renamed, copied and deleted ones."""
        for number in self.chance.sample(range(FILES), FILES // share):
            path = self.paths.get(number)
            what = "write" if path is None else self.chance.choice(("write", "write", "rename", "copy", "delete"))
            if what == "write" or path is None:
                self.write(number)
            elif what == "rename":
                self.paths[number] = path.rename(path.with_name(f"{number}-{self.chance.randrange(10**6)}.csv"))
            elif what == "copy":
                path.with_name(f"copy-{number}.csv").write_bytes(path.read_bytes())
            elif self.chance.random() < 0.3:
                path.unlink()
                del self.paths[number]

    # -- the program

    def start(self) -> subprocess.Popen[bytes]:
        self.began = time.time()
        with (self.lab.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nanolab_daemon", self.command, "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.lab.home,
                start_new_session=True,
            )
        return self.process

    def members(self) -> dict[int, str]:
        """Give the living processes of the program's session and their names."""
        assert self.process is not None
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if os.getsid(int(entry.name)) == self.process.pid and _lives((entry / "status").read_text()):
                        found[int(entry.name)] = (entry / "comm").read_text().strip()
                except OSError:
                    continue
        return found

    def workers(self, stage: str = "") -> list[int]:
        """Give the workers of one pool or of both."""
        return [pid for pid, name in sorted(self.members().items()) if name.startswith(f"nl-{stage}")]

    def wait_for_work(self, process: subprocess.Popen[bytes], limit_s: float = 10.0) -> None:
        """Wait until a worker of this life is about to publish something, if one ever is."""
        deadline = time.monotonic() + limit_s
        notes = [root / outputs.TEMPORARY for root in (self.lab.stage, self.lab.output)]
        while time.monotonic() < deadline and process.poll() is None:
            if any(_changed(note) > self.began for root in notes for note in root.glob("*/announced-*")):
                return
            time.sleep(0.02)

    def kill_one(self) -> None:
        """Kill whom chance chooses, at the moment that it chooses."""
        process = self.process
        if process is None or process.poll() is not None:
            if process is not None:
                assert process.returncode == 0, (self.lab.home / "log").read_text()[-4000:]
                self.ended += 1
            self.change(10)
            process = self.start()
        victim = self.chance.choice(("parent", "stage", "segment", "all"))
        moment = self.chance.random()
        if moment > 0.2:  # the others die while they start
            until(lambda: process.poll() is not None or self.workers(), 60, "for the workers")
        if moment > 0.4:
            self.wait_for_work(process)
        if victim in ("stage", "segment"):
            time.sleep(max(0.0, self.worker_lost + APART_S - time.monotonic()))
        time.sleep(self.chance.uniform(0.0, 1.0))
        if victim in ("stage", "segment"):
            workers = self.workers(victim)
            if workers:
                self.end(self.chance.choice(workers))
                self.worker_lost = time.monotonic()
                self.count(victim)
                return
            victim = "parent"
        if process.poll() is not None:
            return
        if victim == "all":
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        dead = time.monotonic()
        until(lambda: not self.members(), 20, "for the workers to be gone")
        assert time.monotonic() - dead < ORPHANS_GONE_S, "orphans"
        self.count(victim)
        self.look()
        self.change(40)
        self.start()

    def count(self, victim: str) -> None:
        self.killed[victim] += 1
        with (self.lab.home / "log").open("a") as log:
            log.write(f"--- death {sum(self.killed.values())}: {victim}\n")

    def end(self, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            self.killed["nobody"] += 1

    def look(self) -> None:
        """See what a reader sees, and what is left of the dead."""
        temporary = sum(
            file.stat().st_size
            for root in (self.lab.stage, self.lab.output)
            for file in (root / outputs.TEMPORARY).rglob("*")
            if file.is_file()
        )
        assert temporary < 8 << 20, "what killed programs leave behind grows"
        everything = [path for root in (self.lab.stage, self.lab.output) for path in root.rglob("*.parquet")]
        for path in self.chance.sample(everything, min(50, len(everything))):
            contents = path.read_bytes()
            assert contents[:4] == contents[-4:] == b"PAR1", path

    def finish(self) -> None:
        """Let the program come to its end undisturbed, and compare."""
        process = self.process
        assert process is not None
        if self.command == "run":
            if process.poll() is not None:
                process = self.start()
            self.lab.wait_quiet(60 + FILES / 10)
            process.terminate()
        assert process.wait(60 + FILES / 10) == 0, (self.lab.home / "log").read_text()[-4000:]
        until(lambda: not self.members(), ORPHANS_GONE_S, "for the workers to be gone")
        if self.command != "run":
            assert self.start().wait(60 + FILES / 10) == 0
        assert not outputs.leftovers(self.lab.stage, self.lab.output)
        verified = subprocess.run(
            [sys.executable, "-m", "nanolab_daemon", "verify", "--config", str(self.config)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.lab.home,
            check=False,
        )
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert_converged(self.lab)


def _lives(status: str) -> bool:
    """Tell whether a process is neither dead nor killed already, if held up in the kernel by a slow disk."""
    pending = int(status.partition("ShdPnd:\t")[2].split("\n")[0] or "0", 16)
    return "State:\tZ" not in status and not pending >> (signal.SIGKILL - 1) & 1


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@pytest.mark.parametrize("command", ["backfill", "run"])
def test_killed_at_any_moment(tmp_path: Path, command: str, record_property: Callable[[str, object], None]) -> None:
    """Neither a value, nor a state, nor a file more or less comes of any number of deaths."""
    began = time.monotonic()
    victims = Victims(tmp_path, command)
    try:
        while sum(victims.killed.values()) < KILLS // 2:
            victims.kill_one()
        victims.finish()
    except AssertionError as error:
        words = f"KILL_SEED={SEED}, {dict(victims.killed)}: {error}"
        print(words)
        raise AssertionError(words) from error
    finally:
        if victims.process is not None and victims.process.poll() is None:
            os.killpg(victims.process.pid, signal.SIGKILL)
            victims.process.wait()
    words = f"{dict(victims.killed)}, {victims.ended} ends in between, {len(victims.lab.runs())} runs"
    record_property("kills", words)
    print(f"{command}: {words}, {time.monotonic() - began:.0f} s, KILL_SEED={SEED}")
