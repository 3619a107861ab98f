"""What ten million files and a thousand million would need: each price measured at several sizes, and carried on.

    python bench/scale.py [--only ledger scan ...] [--ledger 10000 100000 1000000] [--below FOLDER] [--write]

Measures what grows with the number of files: the ledger, the manifest, a scan, the entries of folders, a watch, what
a file costs an engine and a task costs a scheduler, many small Parquet files. Simulates a cluster of workers, and the
chance that two runs get one id. Prints a table for each; `--write` puts them into docs/scale.md, between its marks,
and the prices into scale.json, from which `together` and `cluster` take those of parts that are not measured anew.
The exponent of a table is that of the line through its measurements on logarithmic scales: 1 is proportional, less
has a fixed part. Times are CPU times unless they are called otherwise, since other work disturbs these less.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import heapq
import json
import math
import os
import platform
import random
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests"), str(HERE.parent)]

if TYPE_CHECKING:
    from nanolab_daemon.catalog import Catalog, FileRecord, RunRecord
    from nanolab_daemon.scan import Listing

PAGE = HERE.parent / "docs/scale.md"
FIGURES = HERE / "scale.json"
GOALS = (10**7, 10**9)
FILES_A_FOLDER = 160
COMMIT_FILES = 256
MIX = {"IV": 7636, "It": 11291, "IVg": 10349, "LaserCalibration": 2530}
FIRST_INODE = 10_000_000
FIRST_START_S = 1_700_000_000
BETWEEN_S = 271.37
ID_BITS = 64
TEN_YEARS_S = 10 * 365.25 * 86400
# From LOG.md: 157,464 stat(2) in 0.45 to 0.49 s; a rerun over 318,060 files that the kernel had not at hand.
STAT_S = 0.47 / 157_464
COLD_LOOK_S = 385 / 318_060

Table = tuple[Sequence[str], list[Sequence[str]]]


@dataclass
class Given:
    """What the parts are told, and what each tells the next: figures by name, for one file or one task."""

    home: Path
    ledger: list[int]
    manifest: list[int]
    scan: list[int]
    small: list[int]
    engine: list[int]
    tasks: list[int]
    watches: list[int]
    found: dict[str, float]


# -- arithmetic ------------------------------------------------------------------------------------------------------


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Give the slope of the line through the measurements on logarithmic scales."""
    x, y = [math.log(one) for one in sizes], [math.log(max(one, 1e-12)) for one in values]
    middle, level = sum(x) / len(x), sum(y) / len(y)
    return sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Give what one more costs: the slope of the straight line, so that a fixed part does not count."""
    middle, level = sum(sizes) / len(sizes), sum(values) / len(values)
    above = sum((a - middle) * (b - level) for a, b in zip(sizes, values, strict=True))
    return above / sum((a - middle) ** 2 for a in sizes)


def clash_chance(runs: float, bits: int = ID_BITS) -> float:
    """Give the chance that any two of so many random ids are equal."""
    return -math.expm1(-runs * (runs - 1) / 2 / 2.0**bits)


def clash_share(runs: int, bits: int, tries: int, seed: int) -> float:
    """Draw so many random ids again and again; give the share of the tries in which two were equal."""
    import numpy as np

    chance = np.random.default_rng(seed)
    hits = sum(len(np.unique(chance.integers(0, 1 << bits, runs, np.uint64))) < runs for _ in range(tries))
    return hits / tries


# -- a cluster, as a simulation --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cluster:
    """Workers behind one scheduler and one engine; times in seconds, all but `task_s` for one file in both stages."""

    workers: int
    batch: int  # files in a task
    work_s: float  # of a worker
    task_s: float  # of the scheduler, for a task of any size
    engine_s: float  # of the engine's own process
    trips: int = 2  # tasks that a file goes through, one for each stage
    ahead: int = 2  # tasks that are out for each worker

    def bounds(self) -> dict[str, float]:
        """Give files a second by whom they bind."""
        return {
            "workers": self.workers / self.work_s,
            "scheduler": self.batch / (self.trips * self.task_s),
            "engine": 1 / self.engine_s,
        }

    @property
    def binding(self) -> str:
        every = self.bounds()
        return min(every, key=lambda name: every[name])

    @property
    def bound(self) -> float:
        return min(self.bounds().values())


class _Desk:
    """A service with a queue and one place or several."""

    def __init__(self, places: int, seconds: Callable[[], float]) -> None:
        self.free, self.seconds = places, seconds
        self.waiting: deque[int] = deque()


def simulate(cluster: Cluster, tasks: int, *, seed: int = 0, spread: float = 0.0) -> float:
    """Let so many tasks go round engine, scheduler and workers, one event after the other; give files a second.

    `spread`: by what part the time of a task at a worker varies either way.
    """
    chance = random.Random(seed)
    files = cluster.batch / cluster.trips  # a task is a part of the way for each of its files
    work = cluster.work_s * files
    desks = (
        _Desk(1, lambda: cluster.engine_s * files),
        _Desk(1, lambda: cluster.task_s),
        _Desk(cluster.workers, lambda: work * (1 + spread * (2 * chance.random() - 1)) if spread else work),
    )
    events: list[tuple[float, int, int, int]] = []  # when, serial, which desk, which task
    serial = begun = done = 0
    now = 0.0

    def come(at: int, task: int) -> None:
        desks[at].waiting.append(task)
        serve(at)

    def serve(at: int) -> None:
        nonlocal serial
        desk = desks[at]
        while desk.free and desk.waiting:
            desk.free -= 1
            serial += 1
            heapq.heappush(events, (now + desk.seconds(), serial, at, desk.waiting.popleft()))

    while begun < min(tasks, cluster.ahead * cluster.workers):
        begun += 1
        come(0, begun)
    while events:
        now, _, at, task = heapq.heappop(events)
        desks[at].free += 1
        serve(at)
        if at < len(desks) - 1:
            come(at + 1, task)
            continue
        done += 1
        if begun < tasks:
            begun += 1
            come(0, begun)
    return done * files / now


# -- archives that are there in the ledger alone ---------------------------------------------------------------------


def real_lab(home: Path, files: int) -> Any:
    """Backfill a few files in the lab's mix by the real engine."""
    import archive
    from lab import Lab

    lab = Lab(home)
    archive.make(lab.raw, files)
    lab.backfill()
    return lab


def patterns(home: Path) -> dict[str, tuple[FileRecord, RunRecord]]:
    """Give of each procedure what the ledger tells of a file and its run, as the real engine has recorded it."""
    from nanolab_daemon.catalog import FILE_NAME, Catalog

    lab = real_lab(home / "patterns", 80)
    catalog = Catalog.open_to_read(lab.state / FILE_NAME)
    assert catalog is not None
    found = {}
    for record in catalog.files("run_id IS NOT NULL"):
        assert record.run_id
        run = catalog.run(record.run_id)
        assert run
        found[run.facts.proc] = record, run
    catalog.close()
    shutil.rmtree(lab.home)
    return found


class Archive:
    """Files and runs by number, all alike but for what tells one from another."""

    def __init__(self, home: Path, files: int) -> None:
        self.files = files
        self._patterns = patterns(home)
        self._kinds = random.Random(0).choices(list(MIX), MIX.values(), k=1 << 16)

    def record(self, number: int) -> tuple[FileRecord, RunRecord]:
        from nanolab_daemon.identity import run_id

        kind = self._kinds[number % len(self._kinds)]
        record, run = self._patterns[kind]
        start = f"{FIRST_START_S + number * BETWEEN_S:.4f}"
        name = run_id(kind, start)
        date = time.strftime("%Y-%m-%d", time.gmtime(float(start)))
        path = self.path(number, kind)
        facts = replace(run.facts, run_id=name, start_us=round(float(start) * 1e6), date=date)
        old, new = run.folder, f"proc={kind}/date={date}/run_id={name}"
        sha256 = hashlib.sha256(path).hexdigest()
        moved = [replace(one, path=one.path.replace(old, new)) for one in (run.stage_file, *run.segment_files)]
        mark = self.mark(record, number)
        return (
            replace(record, path=path, fingerprint=mark, sha256=sha256, run_id=name),
            replace(
                run,
                facts=facts,
                source=path,
                source_sha256=sha256,
                stage_file=moved[0],
                segment_files=tuple(moved[1:]),
                staged_at=run.staged_at + number,
                segmented_at=None if run.segmented_at is None else run.segmented_at + number,
            ),
        )

    @staticmethod
    def path(number: int, kind: str) -> bytes:
        return f"{number // FILES_A_FOLDER:07d}/{kind}_{number}.csv".encode()

    @staticmethod
    def mark(record: FileRecord, number: int) -> Any:
        return record.fingerprint._replace(inode=FIRST_INODE + number)

    def listings(self) -> Iterator[Listing]:
        """Give what a walk over the raw folder would."""
        from nanolab_daemon.scan import Listing

        yield Listing(b"", {})
        for first in range(0, self.files, FILES_A_FOLDER):
            files = {}
            for number in range(first, min(self.files, first + FILES_A_FOLDER)):
                kind = self._kinds[number % len(self._kinds)]
                files[self.path(number, kind)] = self.mark(self._patterns[kind][0], number)
            yield Listing(f"{first // FILES_A_FOLDER:07d}".encode(), files)

    def fill(self, catalog: Catalog) -> None:
        """Record all of them as an engine does: a file and its run, then the run's segments."""
        from nanolab_daemon.model import FileState

        for number in range(self.files):
            record, run = self.record(number)
            if run.segment_files:
                catalog.put_file(replace(record, state=FileState.STAGED))
                catalog.put_run(replace(run, segmentation="pending", segment_files=(), segmented_at=None))
                assert run.segmented_at is not None
                catalog.set_segments(run.run_id, run.segment_files, run.rows_outside or 0, run.segmented_at)
                catalog.set_state(record.path, record.state, record.reason)
            else:
                catalog.put_file(record)
                catalog.put_run(run)
            if number % COMMIT_FILES == COMMIT_FILES - 1:
                catalog.commit()
        catalog.commit()


def written_bytes() -> int:
    """Tell what this process has had written to disks so far."""
    return int(re.findall(r"^write_bytes: (\d+)$", Path("/proc/self/io").read_text(), re.MULTILINE)[0])


def difference(archive: Archive, catalog: Catalog) -> float:
    """Hold listings of all folders against the ledger, by the scan's own code; give the CPU seconds of that alone."""
    from nanolab_daemon.backlog import Backlog, Rules
    from nanolab_daemon.scan import name_test
    from nanolab_daemon.tally import Tally

    bare = math.inf
    for _ in range(2):
        began = time.process_time()
        for _ in archive.listings():
            pass
        bare = min(bare, time.process_time() - began)
    tally, news = Tally(), threading.Event()
    work = Backlog(Path("/"), name_test(["*.csv"], []), catalog, tally, rules=Rules(), wake=news.set)
    work._walked = archive.listings  # type: ignore[method-assign]  # in the place of the walk, which `scan` measures
    began = time.process_time()
    work.start()
    while not work.finished:
        news.wait(1)
        news.clear()
        if list(work.take(1000)):
            raise SystemExit("the scan has found work where there is none")
    if tally.known != archive.files or tally.missing:
        raise SystemExit(f"the scan knows {tally.known} of {archive.files} files")
    return time.process_time() - began - bare


def opened(path: Path, *, cold: bool) -> float:
    """Open a ledger, as each start does; give the seconds. `cold`: none of it is in the machine's memory."""
    from nanolab_daemon.catalog import Catalog

    if cold:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    Catalog.open(path).close()
    return time.perf_counter() - began


# -- the parts -------------------------------------------------------------------------------------------------------


def ledger(given: Given) -> list[Table]:
    from nanolab_daemon.catalog import Catalog

    rows: list[Sequence[str]] = []
    every: dict[str, list[float]] = {}
    for files in given.ledger:
        archive = Archive(given.home, files)
        path = given.home / "ledger" / "ledger.sqlite"
        catalog = Catalog.open(path)
        cpu, before = time.process_time(), written_bytes()
        archive.fill(catalog)
        cpu, wrote = time.process_time() - cpu, written_bytes() - before
        first = difference(archive, catalog)
        again = min(difference(archive, catalog) for _ in range(3))
        catalog.close()
        now = {
            "size": path.stat().st_size,
            "wrote": wrote,
            "fill": cpu,
            "first": first,
            "again": again,
            "warm": opened(path, cold=False),
            "cold": opened(path, cold=True),
        }
        for name, value in now.items():
            every.setdefault(name, []).append(value)
        shutil.rmtree(path.parent)
        rows.append(_ledger_row(f"{files:,}", files, now))
        print(rows[-1], file=sys.stderr, flush=True)
    largest = given.ledger[-1]
    for name, values in every.items():
        given.found[f"ledger_{name}"] = values[-1] / largest
    if len(given.ledger) > 1:
        rows.append(["exponent", *(f"{exponent(given.ledger, values):.2f}" for values in every.values())])
    for files in GOALS:
        rows.append(
            _ledger_row(f"*{_power(files)}*", files, {name: v[-1] / largest * files for name, v in every.items()})
        )
    head = (
        "files",
        "ledger",
        "written to disk",
        "recording",
        "difference, first",
        "then",
        "open, warm",
        "open, cold",
    )
    return [(head, rows)]


def _ledger_row(name: str, files: int, now: dict[str, float]) -> list[str]:
    return [
        name,
        f"{_bytes(now['size'])} ({now['size'] / files:,.0f} B a file)",
        _bytes(now["wrote"]),
        _time(now["fill"]),
        _time(now["first"]),
        _time(now["again"]),
        _time(now["warm"]),
        _time(now["cold"]),
    ]


def pages(given: Given) -> list[Table]:
    """Write one ledger anew in pages of several sizes."""
    from nanolab_daemon.catalog import Catalog

    files = given.ledger[0]
    path = given.home / "ledger" / "ledger.sqlite"
    catalog = Catalog.open(path)
    Archive(given.home, files).fill(catalog)
    catalog.close()
    rows: list[Sequence[str]] = []
    for size in (4096, 8192, 16384):
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA journal_mode = DELETE")  # a ledger in WAL mode keeps the pages that it has
            db.execute(f"PRAGMA page_size = {size}")
            db.execute("VACUUM")
        rows.append([f"{size:,} bytes", f"{path.stat().st_size / files:,.0f} B"])
    shutil.rmtree(path.parent)
    return [((f"pages, {files:,} files", "ledger, a file"), rows)]


MANIFEST = """
import re, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[1:4]
import nanolab_daemon.segment
from nanolab_daemon import manifest, publish
peak = lambda: int(re.findall(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[0]) << 10
before, began = peak(), time.process_time()
root = Path(sys.argv[5])
publish.make_temp_folder(root, "bench")
manifest.write(Path(sys.argv[4]), root, "bench")
print(before, peak(), time.process_time() - began, (root / manifest.PATH).stat().st_size)
"""


def in_a_worker(ledger: Path, home: Path) -> str:
    """Have the manifest written as the engine does, by a worker under the usual limits; tell how it ends."""
    from lab import Lab
    from pool_tasks import drive

    from nanolab_daemon import publish
    from nanolab_daemon.engine import work_settings
    from nanolab_daemon.pool import Pool
    from nanolab_daemon.tasks import ManifestJob
    from nanolab_daemon.workpool import Finished, OutOfMemory

    config = Lab(home).config
    publish.make_temp_folder(config.paths.stage, "bench")
    with Pool[Any, Any](
        "manifest",
        "nanolab_daemon.segment:segment_batch",
        workers=1,
        settings=work_settings(config, "bench"),
        task_timeout_s=config.pools.task_timeout_s,
        task_memory_mb=config.pools.task_memory_mb,
    ) as pool:
        drive(pool, until=lambda _: pool.idle > 0)
        pool.submit(0, [ManifestJob(str(ledger), 1)])
        told = drive(pool, until=lambda outcomes: any(hasattr(one, "batch_id") for one in outcomes), within_s=120)
    shutil.rmtree(home)
    match next(one for one in told if hasattr(one, "batch_id")):
        case Finished():
            return "written"
        case OutOfMemory() as ended:
            return f"ended: {ended.cause}"
        case other:
            return f"ended: {type(other).__name__}"


def manifest(given: Given) -> list[Table]:
    from nanolab_daemon.catalog import Catalog

    rows: list[Sequence[str]] = []
    every: list[tuple[float, float, float]] = []
    for files in given.manifest:
        path = given.home / "ledger" / "ledger.sqlite"
        catalog = Catalog.open(path)
        Archive(given.home, files).fill(catalog)
        catalog.close()
        told = subprocess.run(
            [sys.executable, "-c", MANIFEST, *sys.path[:3], str(path), str(given.home / "stage")],
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split()
        every.append((float(told[1]) - float(told[0]), float(told[2]), float(told[3])))
        ends = in_a_worker(path, given.home / "lab")
        rows.append([f"{files:,}", _bytes(every[-1][0]), _time(every[-1][1]), _bytes(every[-1][2]), ends])
        shutil.rmtree(path.parent)
    columns = list(zip(*every, strict=True))
    if len(given.manifest) > 1:
        rows.append(["exponent", *(f"{exponent(given.manifest, values):.2f}" for values in columns), ""])
    each = [slope(given.manifest, values) for values in columns]
    given.found["manifest_memory"] = max(columns[0])  # a part of the runs at a time: it does not grow
    given.found["manifest_cpu"], given.found["manifest_size"] = each[1:]
    rows += [
        [f"*{_power(runs)}*", _bytes(max(columns[0])), _time(each[1] * runs), _bytes(each[2] * runs), ""]
        for runs in GOALS
    ]
    return [(("runs", "memory it takes", "CPU", "the file", "a worker under the usual limits"), rows)]


def scan(given: Given) -> list[Table]:
    from nanolab_daemon.scan import Memory, name_test, walk, walk_changed

    test = name_test(["*.csv"], [])
    rows: list[Sequence[str]] = []
    every: list[tuple[float, float]] = []
    for files in given.scan:
        seconds = []
        for a_folder in (FILES_A_FOLDER, files):
            root = given.home / "raw"
            for number in range(files):
                if number % a_folder == 0:
                    folder = root / f"{number // a_folder:07d}"
                    folder.mkdir(parents=True)
                os.close(os.open(folder / f"IV_{number}.csv", os.O_CREAT | os.O_WRONLY, 0o644))
            memory: Memory = {}
            least = math.inf
            for _ in range(3):
                began = time.process_time()
                met = sum(len(one.files) for one in walk(os.fsencode(root), test, memory=memory))
                least = min(least, time.process_time() - began)
                if met != files:
                    raise SystemExit(f"the scan has met {met} of {files} files")
            seconds.append(least)
            if a_folder == FILES_A_FOLDER:
                began = time.process_time()
                for _ in walk_changed(os.fsencode(root), test, memory):
                    raise SystemExit("a folder has changed")
                seconds.append(time.process_time() - began)
            shutil.rmtree(root)
        full, names, flat = seconds
        every.append((full, names))
        rows.append([f"{files:,}", _time(full), f"{1e6 * full / files:.2f} µs", _time(flat), _time(names)])
    largest = given.scan[-1]
    full, names = (one / largest for one in every[-1])
    given.found["scan"], given.found["names"] = full, names
    if len(given.scan) > 1:
        told = [exponent(given.scan, one) for one in zip(*every, strict=True)]
        rows.append(["exponent", f"{told[0]:.2f}", "", "", f"{told[1]:.2f}"])
    rows += [
        [f"*{_power(files)}*", _time(full * files), f"{1e6 * full:.2f} µs", "", _time(names * files)]
        for files in GOALS
    ]
    head = (
        "files",
        f"full scan, {FILES_A_FOLDER} a folder",
        "a file",
        "the same, one folder",
        "a look for new names",
    )
    return [(head, rows)]


@dataclass
class Made:
    """What lies below some folders."""

    files: int = 0
    folders: int = 0
    size: int = 0
    on_disk: int = 0

    def add(self, path: Path) -> None:
        status = path.lstat()
        if path.is_dir():
            self.folders += 1
        else:
            self.files += 1
            self.size += status.st_size
        self.on_disk += 512 * status.st_blocks

    @property
    def inodes(self) -> int:
        return self.files + self.folders


def entries(given: Given) -> list[Table]:
    lab = real_lab(given.home / "entries", 400)
    os.sync()  # blocks are given when they are written out
    runs = Counter(run.facts.proc for run in lab.runs().values())
    made = {kind: Made() for kind in MIX}
    for root in (lab.stage, lab.output):
        for path in root.rglob("*"):
            kind = re.search(r"/proc=(\w+)/", f"{path}/")
            if kind and "/run_id=" in str(path):  # folders of procedures and days are shared by many runs
                made[kind[1]].add(path)
    raw = Made()
    for path in lab.raw.rglob("*.csv"):
        raw.add(path)
    rows: list[Sequence[str]] = []
    share = {kind: number / sum(MIX.values()) for kind, number in MIX.items()}
    mean = [0.0] * 4
    for kind, one in made.items():
        each = [one.files / runs[kind], one.folders / runs[kind], one.size / runs[kind], one.on_disk / runs[kind]]
        mean = [a + share[kind] * b for a, b in zip(mean, each, strict=True)]
        rows.append([kind, f"{share[kind]:.0%}", *_entries(each)])
    rows.append(["the mix", "100%", *_entries(mean)])
    raw_disk = raw.on_disk / raw.files
    found = given.found
    found["published_files"], found["published_folders"], found["published_size"], found["published_disk"] = mean
    found["inodes"] = mean[0] + mean[1]
    found["raw_disk"] = raw_disk
    shutil.rmtree(lab.home)
    head = ("a run of", "share", "files", "folders", "inodes", "bytes in files", "bytes on disk")
    per = found["inodes"]
    goals = [
        [
            f"*{_power(n)}*",
            _many(per * n),
            _bytes(mean[2] * n),
            _bytes(mean[3] * n),
            _bytes(raw_disk * n),
            _bytes(16384 * per * n),
            _bytes(512 * per * n),
        ]
        for n in GOALS
    ]
    more = (
        "files",
        "inodes published",
        "bytes in files",
        "on this disk",
        "raw files",
        "ext4 of 16 KiB an inode",
        "inodes of XFS, 512 B",
    )
    return [(head, rows), (more, goals)]


def _entries(each: Sequence[float]) -> list[str]:
    files, folders, size, disk = each
    return [f"{files:.2f}", f"{folders:.2f}", f"{files + folders:.2f}", _bytes(size), _bytes(disk)]


ENGINE = """
import resource, sys
sys.path[:0] = sys.argv[1:4]
from nanolab_daemon import cli
code = cli.main(sys.argv[4:])
mine, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
print("CPU", mine.ru_utime + mine.ru_stime, others.ru_utime + others.ru_stime)
raise SystemExit(code)
"""


def engine(given: Given) -> list[Table]:
    """Tell what a file costs the engine's own process and the workers, by a whole backfill of each size."""
    import archive
    from lab import Lab, toml

    rows: list[Sequence[str]] = []
    every = []
    for files in given.engine:
        lab = Lab(given.home / f"engine-{files}")
        archive.make(lab.raw, files)
        (lab.home / "config.toml").write_text(toml(lab.config))
        words = ["backfill", "--config", str(lab.home / "config.toml")]
        done = subprocess.run(
            [sys.executable, "-c", ENGINE, *sys.path[:3], *words], capture_output=True, check=True, text=True
        )
        mine, others = (float(one) for one in done.stdout.split("CPU ")[1].split()[:2])
        every.append((mine, others))
        rows.append([f"{files:,}", _time(mine), _time(others)])
        shutil.rmtree(lab.home)
    mine, others = (slope(given.engine, one) for one in zip(*every, strict=True))
    given.found["engine"], given.found["work"] = mine, others
    rows.append(["one more file", f"{1e3 * mine:.2f} ms", f"{1e3 * others:.2f} ms"])
    return [(("files, the lab's mix", "the engine's process", "its workers"), rows)]


def tasks(given: Given) -> list[Table]:
    """Tell what an idle task, as large as a batch of 32 files, costs a real Dask scheduler and who asks for it."""
    import dask_lab
    from distributed import Client, as_completed

    rows: list[Sequence[str]] = []
    every = []
    batch = b"." * 6000

    def ask() -> Any:
        return client.submit(bytes.strip, batch, pure=False, resources={"nanolab_stage": 1})

    with dask_lab.cluster(given.home / "dask", workers=1, stage=16) as found, Client(found.address) as client:
        assert found.scheduler
        pid = found.scheduler.pid
        client.wait_for_workers(1)
        ask().result()
        for number in given.tasks:
            wall, mine, its = time.perf_counter(), time.process_time(), _cpu_of(pid)
            left = number - 16
            waiting = as_completed([ask() for _ in range(16)])
            for _ in waiting:
                if left:
                    left -= 1
                    waiting.add(ask())
            wall, mine, its = time.perf_counter() - wall, time.process_time() - mine, _cpu_of(pid) - its
            every.append((wall, its, mine))
            rows.append([f"{number:,}", _time(wall), _time(its), _time(mine)])
    each = [slope(given.tasks, one) for one in zip(*every, strict=True)]
    rows.append(["one more task", *(f"{1e3 * one:.2f} ms" for one in each)])
    given.found["task_wall"], given.found["task"], given.found["task_client"] = each
    return [(("empty tasks, 16 at a time", "wall clock", "scheduler", "who asks"), rows)]


def _cpu_of(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def cluster(given: Given) -> list[Table]:
    """Simulate clusters of several sizes with the prices measured; what asking costs is the engine's."""
    prices = {name: given.found.get(name, usual) for name, usual in USUAL.items()}
    rows: list[Sequence[str]] = []
    for batch in (1, 8, 32):
        for workers in (1, 2, 8, 32, 128, 512):
            mine = prices["engine"] + 2 * prices["task_client"] / batch
            one = Cluster(workers, batch, prices["work"], prices["task_wall"], mine)
            found = simulate(one, max(400, 40 * workers), spread=0.5)
            every = one.bounds()
            rows.append(
                [
                    f"{batch}",
                    f"{workers}",
                    *(f"{every[name]:,.0f}" for name in ("workers", "scheduler", "engine")),
                    f"{found:,.0f}",
                    f"{found / one.bound:.2f}",
                    one.binding,
                ]
            )
    head = ("files a task", "workers", "W/s", "b/2c", "1/e", "simulated, files/s", "of the least", "binds")
    return [(head, rows)]


USUAL = {"work": 4.6e-3, "task_wall": 1.7e-3, "task_client": 0.4e-3, "engine": 0.62e-3}


def encoded(table: Any, notes: dict[str, str]) -> memoryview:
    """Encode a table of one run as the program does."""
    from nanolab_daemon import parquet, tables
    from nanolab_daemon.pages import Same, Values

    constant = dict(tables.RUN)
    layout = tables.run_layout(tuple(name for name in table.column_names if name not in constant))
    columns: list[Values] = []
    for name in layout.names:
        column = table.column(name).combine_chunks()
        first = column[0]
        columns.append(Same(getattr(first, "value", first.as_py())) if name in constant else column)
    return parquet.encode(layout, columns, table.num_rows, notes)


def small(given: Given) -> list[Table]:
    """Ask the same of many small files, as they are published, and of one file a day."""
    import numpy as np
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nanolab_daemon import parquet

    lab = real_lab(given.home / "small", 40)
    table, notes = parquet.read(next(lab.stage.rglob("proc=IV/**/part-000.parquet")).read_bytes())
    shutil.rmtree(lab.home)
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    at = table.schema.get_field_index("I (A)")
    who = table.schema.get_field_index("run_id")
    chance = np.random.default_rng(0)
    rows: list[Sequence[str]] = []
    for runs in given.small:
        one_each, a_day = given.home / "each", given.home / "day"
        size = [0, 0]
        wanted = ""
        for first in range(0, runs, FILES_A_FOLDER):
            date = f"proc=IV/date={2024 + first // FILES_A_FOLDER // 300}-{first // FILES_A_FOLDER % 300:03d}"
            day = []
            for number in range(first, min(runs, first + FILES_A_FOLDER)):
                name = hashlib.sha256(b"%d" % number).hexdigest()[:16]
                wanted = name if number == runs // 2 else wanted
                noise = pa.array(np.char.mod("%.6e", chance.normal(0, 1e-7, table.num_rows)).astype(float))
                mine = table.set_column(at, table.schema.field(at), noise)
                mine = mine.set_column(who, table.schema.field(who), pa.array([name] * table.num_rows))
                day.append(mine)
                folder = one_each / date / f"run_id={name}"
                folder.mkdir(parents=True)
                size[0] += (folder / "part-000.parquet").write_bytes(encoded(mine, notes))
            (a_day / date).mkdir(parents=True)
            target = a_day / date / "part-000.parquet"
            pq.write_table(pa.concat_tables(day), target, compression="lz4", use_dictionary=texts, store_schema=False)
            size[1] += target.stat().st_size
        os.sync()
        taken = []
        for root in (one_each, a_day):
            disk = Made()
            for path in root.rglob("*"):
                disk.add(path)
            lazy = lambda root=root: pl.scan_parquet(f"{root}/**/*.parquet", hive_partitioning=False)  # noqa: E731
            queries = (
                lambda lazy=lazy: lazy().select(pl.col("I (A)").mean()).collect(),
                lambda lazy=lazy, one=wanted: lazy().filter(pl.col("run_id") == one).select("I (A)").collect(),
            )
            seconds = []
            for ask in queries:
                least = math.inf
                for _ in range(3):
                    began = _own_cpu()
                    ask()
                    least = min(least, _own_cpu() - began)
                seconds.append(least)
            taken.append((*seconds, disk.on_disk))
            shutil.rmtree(root)
        (mean, found, disk_a), (mean_b, found_b, disk_b) = taken
        given.found["small_mean"], given.found["day_mean"] = mean / runs, mean_b / runs
        given.found["small_ratio"] = size[0] / size[1]
        rows.append(
            [
                f"{runs:,}",
                f"{_time(mean)}, {_time(mean_b)}: {mean / mean_b:.0f}",
                f"{_time(found)}, {_time(found_b)}: {found / found_b:.0f}",
                f"{_bytes(size[0])}, {_bytes(size[1])}: {size[0] / size[1]:.1f}",
                f"{_bytes(disk_a)}, {_bytes(disk_b)}: {disk_a / disk_b:.1f}",
            ]
        )
    head = ("runs", "mean of a column: a file a run, a file a day, ratio", "one run by its id", "bytes", "on disk")
    return [(head, rows)]


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def identity(given: Given) -> list[Table]:
    """Hold the formula against draws of ids short enough to clash, and count clashes of real ids cut to 32 bits."""
    from nanolab_daemon.identity import run_id

    rows: list[Sequence[str]] = []
    for bits, runs in ((24, 2_000), (24, 5_000), (32, 40_000), (32, 80_000), (32, 160_000)):
        share = clash_share(runs, bits, 200, seed=bits + runs)
        rows.append([f"{bits} bits, {runs:,} ids", f"{clash_chance(runs, bits):.3f}", f"{share:.3f} of 200 tries"])
    ids = 500_000
    cut = Counter(run_id("IV", f"{FIRST_START_S + n * BETWEEN_S:.4f}")[:8] for n in range(ids))
    pairs = sum(n * (n - 1) // 2 for n in cut.values())
    rows.append([f"real ids cut to 32 bits, {ids:,}", f"{ids * (ids - 1) / 2 / 2**32:.1f} pairs", f"{pairs} pairs"])
    rows += [[f"*64 bits, {_power(runs)}*", _many(clash_chance(runs)), ""] for runs in GOALS]
    ticks = [("1 µs", 1e-6), ("1 ms", 1e-3), ("15.6 ms", 15.6e-3)]
    twins = [
        [f"*{_power(runs)} in ten years*", *(_many(runs * runs * tick / 2 / TEN_YEARS_S) for _, tick in ticks)]
        for runs in GOALS
    ]
    more = ("pairs of runs that start at one tick", *(f"of {name}" for name, _ in ticks))
    return [(("ids", "formula", "counted"), rows), (more, twins)]


def watches(given: Given) -> list[Table]:
    """Watch folders that the kernel has at hand already; tell what its own memory grows by."""
    libc = ctypes.CDLL(None, use_errno=True)
    rows: list[Sequence[str]] = []
    sizes, bytes_ = [], []
    for number in given.watches:
        root = given.home / "watched"
        folders = [root / f"{at // 1000:04d}" / f"{at:07d}" for at in range(number)]
        for folder in folders:
            folder.mkdir(parents=True)
        for folder in folders:
            os.stat(folder)
        handle = libc.inotify_init1(os.O_CLOEXEC)
        before, began = _slab(), time.process_time()
        for folder in folders:
            if libc.inotify_add_watch(handle, os.fsencode(folder), 0x3C8) < 0:
                raise SystemExit(f"{number} watches: {os.strerror(ctypes.get_errno())}")
        took, grown = time.process_time() - began, _slab() - before
        os.close(handle)
        shutil.rmtree(root)
        sizes.append(number)
        bytes_.append(float(grown))
        rows.append([f"{number:,}", _bytes(grown), f"{grown / number:.0f} B", f"{1e6 * took / number:.1f} µs"])
    each = slope(sizes, bytes_)
    kept = {name: size for name, size in _slabs().items() if name in ("ext4_inode_cache", "dentry")}
    inode = kept.get("ext4_inode_cache", 1100) + kept.get("dentry", 192)
    given.found["watch"] = each + inode
    rows.append(["one more watch", f"{each:.0f} B", f"and {inode} B of the folder, which it keeps at hand", ""])
    rows += [
        [f"*{_power(n)} files, {n // FILES_A_FOLDER:,} folders*", _bytes((each + inode) * n / FILES_A_FOLDER), "", ""]
        for n in GOALS
    ]
    return [(("folders watched", "the kernel's memory", "a watch", "CPU a watch"), rows)]


def _slab() -> int:
    return int(re.findall(r"^Slab:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)[0]) << 10


def _slabs() -> dict[str, int]:
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    except OSError:  # root alone may read it
        return {}
    return {line.split()[0]: int(line.split()[3]) for line in lines}


def together(given: Given) -> list[Table]:
    """Put the prices of all parts side by side."""
    has = given.found
    lines: list[tuple[str, Callable[[int], str]]] = [
        ("files a second, if they come over ten years", lambda n: _many(n / TEN_YEARS_S)),
        ("backfill: CPU of workers and engine", lambda n: _time((has["work"] + has["engine"]) * n)),
        ("the engine's process alone, which no worker shortens", lambda n: _time(has["engine"] * n)),
        ("ledger", lambda n: _bytes(has["ledger_size"] * n)),
        ("start: the ledger opened and checked, warm", lambda n: _time(has["ledger_warm"] * n)),
        ("the same, read from this disk", lambda n: _time(has["ledger_cold"] * n)),
        ("full scan, all inodes at hand", lambda n: _time((has["scan"] + has["ledger_again"]) * n)),
        ("the first after a start", lambda n: _time((has["scan"] + has["ledger_first"]) * n)),
        ("a look for new names", lambda n: _time(has["names"] * n)),
        ("a look at all published files, inodes at hand", lambda n: _time(STAT_S * has["published_files"] * n)),
        ("the same, read from this disk", lambda n: _time(COLD_LOOK_S * n)),
        ("memory of the worker that writes the manifest", lambda n: _bytes(has["manifest_memory"])),
        ("Parquet files", lambda n: _many(has["published_files"] * n)),
        ("inodes published", lambda n: _many(has["inodes"] * n)),
        ("published, on this disk", lambda n: _bytes(has["published_disk"] * n)),
        (
            f"kernel's memory for watches, {FILES_A_FOLDER} files a folder",
            lambda n: _bytes(has["watch"] * n / FILES_A_FOLDER),
        ),
        ("chance that any two ids are equal", lambda n: _many(clash_chance(n))),
    ]
    rows: list[Sequence[str]] = [[name, *(told(n) for n in GOALS)] for name, told in lines]
    return [(("", *(_power(n) for n in GOALS)), rows)]


PARTS: dict[str, Callable[[Given], list[Table]]] = {
    "ledger": ledger,
    "pages": pages,
    "manifest": manifest,
    "scan": scan,
    "entries": entries,
    "engine": engine,
    "tasks": tasks,
    "cluster": cluster,
    "small": small,
    "identity": identity,
    "watches": watches,
    "together": together,
}


# -- words -----------------------------------------------------------------------------------------------------------


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{1e6 * seconds:.3g} µs"
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    for most, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h"), (math.inf, 86_400, "days")):
        if seconds < most:
            return f"{seconds / size:,.3g} {unit}" if seconds / size < 999.5 else f"{seconds / size:,.0f} {unit}"
    raise AssertionError(seconds)


def _power(number: float) -> str:
    exponent_ = math.floor(math.log10(number) + 1e-9)
    return "10" + str(exponent_).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _many(number: float) -> str:
    if 0.1 <= number < 9_999:
        return f"{number:,.2g}" if number < 100 else f"{round(number, 1 - math.floor(math.log10(number))):,.0f}"
    return f"{number / 10 ** math.floor(math.log10(number)):.1f}·{_power(number)}"


def shown(tables: list[Table]) -> str:
    texts = []
    for head, rows in tables:
        lines = [head, ["---"] * len(head), *rows]
        texts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(texts)


def put(page: str, name: str, text: str) -> str:
    """Put a part's tables between its marks in the page."""
    mark = rf"(<!-- measured: {name} -->\n).*?(<!-- end -->)"
    changed, number = re.subn(mark, lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page, flags=re.DOTALL)
    if number != 1:
        raise SystemExit(f"{PAGE} has {number} places for {name}")
    return changed


def machine() -> str:
    return (
        f"{time.strftime('%Y-%m')}; {os.cpu_count()} CPUs shared with other work; Linux {platform.release()}; "
        f"Python {platform.python_version()}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--ledger", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--manifest", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000])
    parser.add_argument("--scan", type=int, nargs="+", default=[1_000, 10_000, 100_000, 300_000])
    parser.add_argument("--small", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--engine", type=int, nargs="+", default=[500, 1_500, 4_000])
    parser.add_argument("--tasks", type=int, nargs="+", default=[500, 1_000, 2_000])
    parser.add_argument("--watches", type=int, nargs="+", default=[5_000, 20_000, 60_000])
    parser.add_argument("--below", type=Path, help="a folder on the disk in question; 10⁶ files in a ledger fill it")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="nanolab-scale-", dir=args.below))
    sizes = {name: sorted(getattr(args, name)) for name in ("ledger", "manifest", "scan", "small", "engine")}
    found = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    given = Given(home, **sizes, tasks=sorted(args.tasks), watches=sorted(args.watches), found=found)
    try:
        for name, part in PARTS.items():
            if name not in args.only:
                continue
            began = time.monotonic()
            text = shown(part(given))
            print(f"## {name} ({time.monotonic() - began:.0f} s)\n\n{text}\n", flush=True)
            if args.write:
                PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), name, text), encoding="utf-8")
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if args.write:
        PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), "machine", machine()), encoding="utf-8")
        rounded = {name: float(f"{value:.4g}") for name, value in sorted(given.found.items())}
        FIGURES.write_text(json.dumps(rounded, indent=1) + "\n")
    print(machine())


if __name__ == "__main__":
    main()
