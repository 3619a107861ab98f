"""An accelerated laboratory in which everything goes wrong that can: a soak test, of any length.

Instruments (processes of their own) write, queue, abort and are killed in mid file; people rename, move, copy and
delete; one share is unmounted, another falls silent; the daemon, its workers and the instruments are killed. At the
end all must be as a fresh backfill would have it, and the daemon as light as at the beginning.

`python tests/soak.py HOME SECONDS` runs it by hand, and prints its figures as JSON lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import outputs
from lab import Lab, assert_converged, until

from nanolab_daemon import simulate
from nanolab_daemon.config import Watch
from nanolab_daemon.control import ask
from nanolab_daemon.errors import EngineError
from nanolab_daemon.verify import verify

WATCH = Watch(settle_s=0.3, quiet_s=3.0, poll_s=0.1, rescan_s=2.0)
TASK_TIMEOUT_S = 20.0
PATIENCE_S = 300.0  # for an answer: the machine may have other things to do
LONGEST_LIFE_S = 240.0  # of a daemon, in the first half of the time
WARM_UP_PART = 0.15  # of the second half, which one daemon lives through
GROWTH_MIB = 8.0  # 6 of it are the records of 2,048 runs that the ledger keeps at hand
WAITING_FILE_KIB = 7.0  # a file without all its rows is watched as long as it lies there; 6 KiB measured with 4,000
WORKER_GROWTH_MIB = 40.0
_START = re.compile(rb"#\tStart time: ([0-9.]+)\r\n")


# -- the instruments ----------------------------------------------------------------------------------------------


def instrument_pc(folder: Path, seed: int) -> None:
    """Measure one thing after another until SIGTERM, three at a time. SIGKILL leaves files as they are."""
    chance = random.Random(seed)
    running: list[simulate.Instrument] = []
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True
        for one in running:
            one.stop(0)

    signal.signal(signal.SIGTERM, end)
    while not ended:
        running[:] = [simulate.Instrument(folder, [_measurement(chance) for _ in range(3)])]
        with contextlib.suppress(OSError, ValueError):  # a queued file was moved or deleted
            running[0].measure()


def _measurement(chance: random.Random) -> simulate.Measurement:
    seed = chance.randrange(1 << 30)
    course = simulate.Course(
        starts_at_s=chance.choice([0.0, 0.3, 1.0, float("inf")]),
        burn_in_s=chance.choice([0.0, 0.3]),
        lasts_s=chance.uniform(0.3, 4.0),
        stops_after=chance.choice([None, None, None, 0, 7, 20]),
        damage={5: "0.1,over,range"} if chance.random() < 0.03 else {},
    )
    match chance.randrange(3):
        case 0:
            made = simulate.iv(chance.choice([0.3, 1.0]), 0.05, seed=seed, course=course)
        case 1:
            made = simulate.ivg(chance.choice([1.0, 2.0]), 0.1, seed=seed, course=course)
        case _:
            made = simulate.it(4.0, chance.choice([0.0, 2.11]), seed=seed, course=course)
    # As short as it really is: where closes can't be seen, a file is waited for as long as its header asks for.
    return replace(made, parameters={name: text for name, text in made.parameters.items() if name != "Burn-in time"})


class Writer:
    """An instrument's PC."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.start()

    def start(self) -> None:
        self.seed += 1000
        command = [sys.executable, __file__, "instrument", str(self.folder), str(self.seed)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def reboot(self) -> None:
        self.process.kill()
        self.process.wait()
        self.start()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# -- the shares ---------------------------------------------------------------------------------------------------


class BoundShare:
    """A share that can be unmounted and mounted again."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target = source, target
        source.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        self.back()

    def drop(self) -> None:
        subprocess.run(["umount", "-l", self.target], check=True)

    def back(self) -> None:
        subprocess.run(["mount", "--bind", self.source, self.target], check=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.target], check=False, stderr=subprocess.DEVNULL)


class ServedShare:
    """A share whose server falls silent: every call on it hangs until it answers again."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target = source, target
        source.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        command = ["bindfs", "-f", "-o", "attr_timeout=0,entry_timeout=0", source, target]
        self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        until(lambda: os.path.ismount(target), what="for the mount")

    def drop(self) -> None:
        self.server.send_signal(signal.SIGSTOP)

    def back(self) -> None:
        self.server.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.back()
        subprocess.run(["umount", "-l", self.target], check=False, stderr=subprocess.DEVNULL)
        self.server.terminate()
        self.server.wait(10)


# -- what it costs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What the daemon takes at a moment of rest; memory in MiB. `worker_mib` is that of its largest worker."""

    after_s: float
    rss_mib: float
    pss_mib: float
    descriptors: int
    threads: int
    workers: int
    worker_mib: float
    files: int
    waiting: int  # of the files, those without all their rows


def cost(lab: Lab, pid: int, began: float) -> Cost:
    proc = Path(f"/proc/{pid}")
    rollup = dict(re.findall(r"^(\w+):\s+(\d+) kB", (proc / "smaps_rollup").read_text(), re.MULTILINE))
    threads = re.search(r"^Threads:\s+(\d+)", (proc / "status").read_text(), re.MULTILINE)
    pools = (lab.status() or {"pools": []})["pools"]
    workers = [worker["rss_mb"] for pool in pools for worker in pool["workers"]]
    files = lab.files()
    return Cost(
        after_s=round(time.monotonic() - began, 1),
        rss_mib=round(int(rollup["Rss"]) / 1024, 1),
        pss_mib=round(int(rollup["Pss"]) / 1024, 1),
        descriptors=len(os.listdir(proc / "fd")),
        threads=int(threads[1]) if threads else 0,
        workers=len(workers),
        worker_mib=max(workers, default=0.0),
        files=len(files),
        waiting=sum(state in {"queued", "started"} for state, _ in files.values()),
    )


@dataclass
class Figures:
    """What came of it."""

    seconds: float = 0.0
    did: Counter[str] = field(default_factory=Counter)
    costs: list[Cost] = field(default_factory=list)  # of the daemon that lived through the second half
    first: Cost | None = None  # of the first daemon, empty
    slowest_answer_s: float = 0.0
    files: int = 0
    runs: int = 0
    states: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("seconds", "slowest_answer_s", "files", "runs", "states")}
        costs = {"first": self.first and asdict(self.first), "costs": [asdict(one) for one in self.costs]}
        return plain | {"did": dict(self.did)} | costs

    def assert_light(self) -> None:
        """Fail unless the daemon takes at the end what it took at the beginning, but for what it watches more."""
        assert self.first is not None
        empty, warm, last = self.first, self.costs[0], self.costs[-1]
        waiting_mib = max(0, last.waiting - warm.waiting) * WAITING_FILE_KIB / 1024
        assert last.rss_mib <= warm.rss_mib + GROWTH_MIB + waiting_mib, self.as_dict()
        assert last.worker_mib <= warm.worker_mib + WORKER_GROWTH_MIB, self.as_dict()
        assert last.descriptors <= empty.descriptors + 2, self.as_dict()
        assert last.threads <= empty.threads + 1, self.as_dict()
        assert last.workers == empty.workers, self.as_dict()


class PatientLab(Lab):
    """A lab on a machine that is busy with other things as well. Keeps how long the slowest answer took."""

    patience_s = PATIENCE_S
    slowest_s = 0.0

    def status(self) -> dict[str, Any] | None:
        began = time.monotonic()
        answer = ask(self.state, {"ask": "status"}, PATIENCE_S) if self.state.is_dir() else None
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        return answer

    def wait_quiet(self, limit_s: float = PATIENCE_S) -> dict[str, Any]:
        end = time.monotonic() + limit_s
        while True:
            try:
                return super().wait_quiet(limit_s)
            except EngineError:  # it could not answer in time
                assert time.monotonic() < end


# -- the whole ----------------------------------------------------------------------------------------------------


class Soak:
    """One soak test in a folder of its own. `tell` hears what is done."""

    def __init__(self, home: Path, seconds: float, *, seed: int = 1, tell: Callable[[str], None] = print) -> None:
        self.lab = PatientLab(home, watch=WATCH, workers=2)
        pools = replace(self.lab.config.pools, task_timeout_s=TASK_TIMEOUT_S)
        self.lab.config = replace(self.lab.config, pools=pools)
        self.seconds = seconds
        self.figures = Figures(seconds=seconds)
        self._chance = random.Random(seed)
        self._tell = tell
        self._began = time.monotonic()
        self._daemon: subprocess.Popen[bytes] | None = None
        self._writers: list[Writer] = []
        self._shares: list[BoundShare | ServedShare] = []
        self._away: dict[int, float] = {}  # share → when it comes back

    def run(self) -> Figures:
        """Do it all, and hold what came of it against a fresh backfill."""
        with self._laboratory():
            self._daemon = self.lab.spawn()
            self.lab.wait_quiet()
            self.figures.first = self._cost()
            self._writers += [Writer(folder, number) for number, folder in enumerate(self._folders)]
            self._began = time.monotonic()
            half = self._began + self.seconds / 2
            born = time.monotonic()
            while (now := time.monotonic()) < half:
                if now - born > min(LONGEST_LIFE_S, self.seconds / 6):
                    self._restart_daemon()
                    born = time.monotonic()
                self._trouble()
            self._restart_daemon()
            self._settle_down()
            pid = self._pid
            end = self._began + self.seconds
            look_at = time.monotonic() + WARM_UP_PART * (end - time.monotonic())
            while (now := time.monotonic()) < end:
                self._trouble()
                if now >= look_at:
                    look_at = now + max(60.0, self.seconds / 60)
                    self._note_cost()
            for writer in self._writers:
                writer.stop()
            self._settle_down()
            self.lab.age()
            self.lab.wait_quiet(900)
            self._note_cost()
            assert self._pid == pid, "the daemon of the second half has died"
            self._judge()
        return self.figures

    # -- what happens

    def _trouble(self) -> None:
        """Let one thing happen."""
        self._bring_back()
        deeds = {
            self._rename: 8, self._move_folder: 1, self._copy: 4, self._delete: 3, self._reload: 1,
            self._kill_worker: 2, self._reboot: 1, self._drop_share: 2,
        }  # fmt: skip
        deed = self._chance.choices(list(deeds), list(deeds.values()))[0]
        with contextlib.suppress(FileNotFoundError):  # an instrument has been there first
            deed()
        time.sleep(self._chance.uniform(0.1, 1.2))

    def _did(self, what: str) -> None:
        self.figures.did[what] += 1

    def _files(self) -> list[Path]:
        """Give the raw files that can be reached without waiting, as their own PC sees them."""
        return [path for folder in self._folders for path in sorted(folder.rglob("*.csv"))]

    def _rename(self) -> None:
        if files := self._files():
            old = self._chance.choice(files)
            new = old.with_name(f"{old.stem}_{self._chance.randrange(1000)}.csv")
            if not new.exists():
                old.rename(new)
                self._did("renamed")

    def _move_folder(self) -> None:
        folders = [path for folder in self._folders for path in folder.iterdir() if path.is_dir()]
        if folders:
            old = self._chance.choice(folders)
            old.rename(old.with_name(f"moved_{self._chance.randrange(10**9)}"))
            self._did("folder renamed")

    def _copy(self) -> None:
        if files := self._files():
            old = self._chance.choice(files)
            shutil.copyfile(old, old.with_name(f"copy_{self._chance.randrange(10**9)}.csv"))
            self._did("copied")

    def _delete(self) -> None:
        if files := self._files():
            self._chance.choice(files).unlink()
            self._did("deleted")

    def _reload(self) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGHUP)
        self._did("SIGHUP")

    def _kill_worker(self) -> None:
        status = self.lab.status()
        workers = [w["pid"] for pool in (status or {"pools": []})["pools"] for w in pool["workers"]]
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._chance.choice(workers), signal.SIGKILL)
            self._did("worker killed")

    def _reboot(self) -> None:
        self._chance.choice(self._writers).reboot()
        self._did("instrument killed")

    def _drop_share(self) -> None:
        there = [number for number in range(len(self._shares)) if number not in self._away]
        if there:
            number = self._chance.choice(there)
            self._shares[number].drop()
            self._away[number] = time.monotonic() + self._chance.uniform(0.5, 9.0)
            self._did(f"{type(self._shares[number]).__name__} dropped")

    def _bring_back(self) -> None:
        """Let the shares answer again whose time has come."""
        for number, back_at in list(self._away.items()):
            if time.monotonic() >= back_at:
                self._shares[number].back()
                del self._away[number]

    def _ended(self) -> tuple[int] | None:
        """Give how the daemon ended, if it has. What waits in the kernel for a share ends when that is back."""
        self._bring_back()
        code = self._daemon.poll() if self._daemon is not None else None
        return None if code is None else (code,)

    def _restart_daemon(self) -> None:
        """End the daemon, in most cases by SIGKILL, and start another one while the laboratory goes on."""
        assert self._daemon is not None
        assert self._daemon.poll() is None, "the daemon has died by itself"
        hard = self._chance.random() < 0.8
        status = self.lab.status()
        workers = [w["pid"] for pool in (status or {"pools": []})["pools"] for w in pool["workers"]]
        self._daemon.send_signal(signal.SIGKILL if hard else signal.SIGTERM)
        code = until(self._ended, PATIENCE_S, "for the daemon to end")[0]
        assert hard or code == 0, f"the daemon ended with {code}"
        self._did("daemon killed" if hard else "daemon stopped")
        if not self._away:  # what hangs in the kernel, on a silent share, can't be killed
            until(
                lambda: not any(_alive(pid) for pid in workers), PATIENCE_S, "for the workers to die with the daemon"
            )
        self._daemon = self.lab.spawn()

    def _settle_down(self) -> None:
        for number in list(self._away):
            self._shares[number].back()
        self._away.clear()
        until(lambda: not (self.lab.status() or {"frozen": [1]})["frozen"], PATIENCE_S, "for all shares to be back")

    # -- what came of it

    @property
    def _pid(self) -> int:
        assert self._daemon is not None
        assert self._daemon.poll() is None, (self.lab.home / "daemon.log").read_text()[-4000:]
        return self._daemon.pid

    def _cost(self) -> Cost:
        return cost(self.lab, self._pid, self._began)

    def _note_cost(self) -> None:
        self.figures.costs.append(self._cost())
        self._tell(json.dumps(asdict(self.figures.costs[-1]) | {"did": dict(self.figures.did)}))

    def _judge(self) -> None:
        lab, figures = self.lab, self.figures
        figures.files, figures.runs = len(lab.files()), len(lab.runs())
        figures.slowest_answer_s = round(lab.slowest_s, 1)
        figures.states = dict(Counter(state for state, _ in lab.files().values()))
        # Without the program's own eyes: a file that has a start time and whole rows is a run, unless it is refused.
        refused = {path for path, (state, _) in lab.files().items() if state == "rejected"}
        starts = {
            start[1].decode()
            for path in lab.raw.rglob("*.csv")
            if os.fsencode(path.relative_to(lab.raw)) not in refused
            and (start := _START.search(data := path.read_bytes()))
            and data.partition(b"#Data:\r\n")[2].count(b"\r\n") > 1
        }
        # Several files may hold one measurement, and no two measurements begin at one microsecond.
        there = [run for run in lab.runs().values() if not run.source_missing]
        assert len(there) == len(starts), (len(there), len(starts))
        assert_converged(lab)
        found = verify(lab.config)
        assert not found.problems, found.problems
        figures.assert_light()

    @contextlib.contextmanager
    def _laboratory(self) -> Iterator[None]:
        lab = self.lab
        try:
            local = lab.raw / "pc1"
            local.mkdir()
            self._folders = [local]
            if os.geteuid() == 0:
                self._shares.append(BoundShare(lab.home / "disk2", lab.raw / "pc2"))
                if shutil.which("bindfs"):
                    self._shares.append(ServedShare(lab.home / "disk3", lab.raw / "pc3"))
            self._folders += [share.source for share in self._shares]
            yield
        finally:
            for writer in self._writers:
                writer.stop()
            for number in self._away:
                self._shares[number].back()
            if self._daemon is not None and self._daemon.poll() is None:
                self._daemon.terminate()
                self._daemon.wait(PATIENCE_S)
            for share in self._shares:
                share.close()
        assert self._daemon is not None
        assert self._daemon.returncode == 0
        assert not outputs.leftovers(lab.stage, lab.output)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


if __name__ == "__main__":
    if sys.argv[1] == "instrument":
        instrument_pc(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        done = Soak(Path(sys.argv[1]), float(sys.argv[2]), tell=lambda words: print(words, flush=True)).run()
        print(json.dumps(done.as_dict()), flush=True)
