"""The daemon as a process of its own, with real workers, and PyMeasure itself at the other end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import instrument
import polars as pl
import pytest
from lab import QUICK, Lab, assert_converged, until

from nanolab_daemon.config import Watch, WatchMode
from nanolab_daemon.why import why

WATCHES = {
    "events": Watch(settle_s=0.3, quiet_s=30.0, poll_s=0.1, rescan_s=2.0),
    "scan": Watch(mode=WatchMode.SCAN, settle_s=0.3, quiet_s=3.0, poll_s=0.1, rescan_s=0.5),
}

PLAN = [
    {"procedure": "IVg"},
    {"procedure": "IV", "parameters": {"burn_in": 1.0, "laser_v": 1.5, "step_time": 0.04}},
    {"procedure": "IVg", "abort_after_rows": 20},
    {"procedure": "IV"},
    {"procedure": "IV", "queued": True},
]


class Reader:
    """Opens everything that is published, over and over: what it finds must always be whole."""

    def __init__(self, *roots: Path) -> None:
        self.roots = roots
        self.reads = 0
        self.torn: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="reader")

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _loop(self) -> None:
        while not self._stop.is_set():
            for root in self.roots:
                with contextlib.suppress(FileNotFoundError):  # a folder gone while it was listed
                    for path in root.glob("**/run_id=*/**/*.parquet"):
                        if ".nanolab-tmp" not in path.parts:
                            self._read(path)
            self._stop.wait(0.002)

    def _read(self, path: Path) -> None:
        try:
            contents = path.read_bytes()
        except FileNotFoundError:
            return
        self.reads += 1
        try:
            assert pl.read_parquet(contents).height > 0
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is told
            self.torn.append(f"{path}: {error}")


LIFE = ["queued", "started", "measuring", "whole"]


class Witness:
    """Asks `why` of every file, over and over, and looks into it at the same time.

    What `why` says must be what the file was within the last `lag_s`: the daemon hears of things a moment later.
    """

    def __init__(self, lab: Lab, folder: Path, lag_s: float) -> None:
        self.lab, self.folder, self.lag_s = lab, folder, lag_s
        self.wrong: list[str] = []
        self.said: dict[str, list[str]] = {}
        self._true: dict[str, list[tuple[float, str]]] = {}  # file → (since when, what it is)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="witness")

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        if self._failure is not None:
            raise self._failure

    def _loop(self) -> None:
        try:
            while not self._stop.wait(0.02):
                for path in sorted(self.folder.glob("*/*.csv")):
                    self._look(path)
                    self._ask(path)
        except BaseException as error:  # noqa: BLE001 -- told in the test's own thread
            self._failure = error

    def _look(self, path: Path) -> None:
        head, _, rows = path.read_bytes().partition(b"#Data:")
        count = max(0, rows.replace(b"\r\n", b"\n").count(b"\n") - 2)
        whole = 44 if path.name.startswith("IV2") else 61
        now = (
            "whole" if count >= whole else "measuring" if count else "started" if b"Start time" in head else "queued"
        )
        story = self._true.setdefault(path.name, [])
        if not story or story[-1][1] != now:
            story.append((time.monotonic(), now))

    def _ask(self, path: Path) -> None:
        began = time.monotonic()
        answer = why(self.lab.config, os.path.relpath(path, self.folder))
        story = self._true[path.name]
        self._look(path)
        since = [since for since, _ in story[1:]] + [time.monotonic()]
        recent = [now for until, (_, now) in zip(since, story, strict=True) if until >= began - self.lag_s]
        between = LIFE[LIFE.index(recent[0]) : LIFE.index(recent[-1]) + 1]  # also what went by between two looks
        allowed: set[str | None] = {name for name in between if name != "whole"}
        if "whole" in recent or answer.run is not None:  # also an aborted one is published, once it is closed
            allowed |= {"staged", "segmented"}
        if story[0][0] >= began - self.lag_s:
            allowed.add(None)
        assert answer.reason
        assert answer.next
        states = self.said.setdefault(path.name, [])
        if answer.state is not None and (not states or states[-1] != answer.state):
            states.append(answer.state)
        if answer.state not in allowed:
            self.wrong.append(f"{path.name} at {began:.2f}: why says {answer.state}, it was {story}")


@contextlib.contextmanager
def share(source: Path, target: Path) -> Iterator[None]:
    """Mount a folder by a program in user space, which tells this side nothing of what is written on the other."""
    source.mkdir()
    subprocess.run(["bindfs", source, target], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", target], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["events", "scan", "share", "crlf"])
def test_pymeasure(tmp_path: Path, mode: str) -> None:
    """Each sweep of PyMeasure is published whole, soon after its end, and no reader ever finds half a file."""
    lab = Lab(tmp_path, watch=WATCHES.get(mode, WATCHES["events"]))
    folder = lab.raw
    states: list[dict[bytes, str]] = []
    delays_s: list[float] = []
    with contextlib.ExitStack() as stack:
        if mode == "share":
            if os.geteuid() or not shutil.which("bindfs"):
                pytest.skip("needs root and bindfs; CI has both")
            folder = tmp_path / "the other side"
            stack.enter_context(share(folder, lab.raw))
            lab.config = replace(lab.config, watch=replace(WATCHES["scan"], mode=WatchMode.AUTO))
        stack.enter_context(lab.process())
        reader = stack.enter_context(Reader(lab.stage, lab.output))
        witness = stack.enter_context(Witness(lab, folder, 4.0))  # 2 s are promised; this is no benchmark
        script = Path(__file__).parent.parent / "pymeasure_lab.py"
        command = [sys.executable, script, folder / "2026-11-24", json.dumps(PLAN)]
        command += ["--crlf"] if mode == "crlf" else []
        pc = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert pc.stdout is not None
        for line in pc.stdout:
            ended = json.loads(line)
            name = os.path.relpath(ended["file"], folder)
            assert (b"\r\n" in Path(ended["file"]).read_bytes()) == (mode == "crlf")
            until(lambda n=name: lab.state_of(n) == "segmented", 15, f"for {name}, {lab.files()}")
            run = next(r for r in lab.runs().values() if os.fsdecode(r.source) == name)
            delays_s.append(run.segmented_at - ended["ended"])
            assert run.revision == 1, f"{name} was published before it was whole"
            states.append({p: s for p, (s, _) in lab.files().items()})
        assert pc.wait(30) == 0
        lab.wait_quiet()
        by_name = {os.fsdecode(r.source).rpartition("/")[2]: r for r in lab.runs().values()}
        assert {name: run.facts.completeness.complete for name, run in by_name.items()} == {
            "IVg2026-11-24_1.csv": True,
            "IV2026-11-24_2.csv": True,
            "IVg2026-11-24_3.csv": False,
            "IV2026-11-24_4.csv": True,
        }
        assert by_name["IV2026-11-24_2.csv"].facts.with_light
        assert lab.state_of("2026-11-24/IV2026-11-24_5.csv") == "queued"
        assert states[0][b"2026-11-24/IV2026-11-24_2.csv"] in ("queued", "started", "measuring")
        root = (lab.status() or {})["places"]["."]
        assert root["mode"] == ("scan" if mode in ("scan", "share") else "events"), root
        assert_converged(lab)
    assert reader.reads
    assert not reader.torn
    assert not witness.wrong, "\n".join(witness.wrong[:20])
    assert witness.said["IV2026-11-24_2.csv"][:3] == ["queued", "started", "measuring"]
    assert witness.said["IV2026-11-24_2.csv"][-1] == "segmented"
    assert witness.said["IVg2026-11-24_3.csv"][-1] == "segmented"
    assert witness.said["IV2026-11-24_5.csv"] == ["queued"]
    # The promise is 2 s; a busy machine gets more here, since a test is no benchmark.
    assert max(delays_s) < 8.0, delays_s
    print("seconds from PyMeasure's end to the last segment:", [round(d, 2) for d in delays_s])


def test_run_and_backfill_give_equal_outputs(tmp_path: Path) -> None:
    """The same folder through the daemon and through a backfill gives the same files, verdicts and manifest."""
    lab = Lab(tmp_path, watch=replace(QUICK, settle_s=0.05))
    instrument.lab(lab.raw, 12)
    lab.age()
    with lab.process():
        instrument.iv(77, start=1757900000.0).write(lab.raw / "late" / "IV.csv")
        status = lab.wait_quiet()
        assert [(pool["started"], pool["size"]) for pool in status["pools"]] == [(1, 1), (1, 1)]
        instrument.iv(78, start=1757910000.0).write(lab.raw / "later" / "IV.csv")
        status = lab.wait_quiet()
        assert [(pool["started"], pool["replaced"]) for pool in status["pools"]] == [(1, 0), (1, 0)]
    assert_converged(lab)


def test_killed_workers_cost_nothing(tmp_path: Path) -> None:
    """A worker of either pool that is killed is replaced, and everything is published all the same."""
    lab = Lab(tmp_path)
    with lab.process() as daemon:
        status = lab.wait_quiet()
        for pool in status["pools"]:
            os.kill(pool["workers"][0]["pid"], signal.SIGKILL)
        instrument.lab(lab.raw, 8)
        status = lab.wait_quiet()
        assert [pool["replaced"] for pool in status["pools"]] == [1, 1]
        assert daemon.poll() is None
    assert_converged(lab)


def test_parent_killed(tmp_path: Path) -> None:
    """When the daemon is killed, its workers die with it, and the next one takes up where it stopped."""
    lab = Lab(tmp_path)
    daemon = lab.spawn()
    status: dict[str, Any] = lab.wait_quiet()
    pids = [worker["pid"] for pool in status["pools"] for worker in pool["workers"]]
    instrument.lab(lab.raw, 8)
    lab.age()
    daemon.kill()
    daemon.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 5, "for the workers to be gone")
    with lab.process():
        lab.wait_quiet()
    assert_converged(lab)


def test_stop_is_graceful(tmp_path: Path) -> None:
    """SIGTERM in the middle of a load ends the daemon with code 0 and without a temporary file or a traceback."""
    lab = Lab(tmp_path)
    instrument.lab(lab.raw, 60)
    lab.age()
    with lab.process():
        pass
    assert "Traceback" not in (lab.home / "daemon.log").read_text()
    assert not list(lab.home.rglob(".nanolab-tmp"))
    with lab.process():
        lab.wait_quiet()
    assert_converged(lab)


@pytest.mark.slow
def test_live_before_backlog(tmp_path: Path) -> None:
    """A file that an instrument closes while thousands wait is published before they are."""
    lab = Lab(tmp_path, watch=WATCHES["events"])
    old = time.time() - 86400
    template = instrument.iv(1)
    waiting = 3000
    for number in range(waiting):
        path = lab.raw / str(number // 100) / f"{number}.csv"
        replace(template, start_time=f"{1700000000 + number}.5").write(path)
        os.utime(path, (old, old))
    with lab.process():
        until(lambda: len(lab.runs()) > 50, 60)
        for number in range(5):
            instrument.iv(10 + number, start=1760000000.0 + number).write(lab.raw / "live" / f"{number}.csv")
            until(lambda n=number: lab.state_of(f"live/{n}.csv") == "segmented", 60)
        assert len(lab.runs()) < waiting, "the backlog was done before anything could overtake it"


@pytest.mark.slow
def test_live_before_a_copied_archive(tmp_path: Path) -> None:
    """A file that an instrument closes overtakes an archive that is copied in while the daemon runs."""
    lab = Lab(tmp_path, watch=WATCHES["events"])
    old = time.time() - 86400
    template = instrument.iv(1)
    archive = tmp_path / "archive"
    for number in range(2500):
        path = replace(template, start_time=f"{1700000000 + number}.5").write(archive / f"{number}.csv")
        os.utime(path, (old, old))
    with lab.process():
        lab.wait_quiet()
        subprocess.run(["cp", "-rp", archive, lab.raw / "copied"], check=True)
        for number in range(5):
            instrument.iv(10 + number, start=1760000000.0 + number).write(lab.raw / "live" / f"{number}.csv")
            until(lambda n=number: lab.state_of(f"live/{n}.csv") == "segmented", 60)
        assert len(lab.runs()) < 2500, "the archive was done before anything could overtake it"
