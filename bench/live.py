"""What the daemon costs while nothing happens, and how soon a measurement is there once it ends.

    python bench/live.py [--files 31806] [--idle-s 600] [--measurements 200] [--keep FOLDER]

Makes an archive of so many tiny instrument files, lets the daemon take it in, and measures with the machine's own
clocks: CPU at rest, the CPU of one full scan, memory of each process, and the time from the writer's close to the
rename of the last segment, at rest and while the whole archive is done again. Beside the latency stands the bare
cost of staging and cutting the same file in a warm process.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import archive
import instrument
from lab import Lab, until

from nanolab_daemon import engine, publish, segment, stage
from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.config import Watch
from nanolab_daemon.control import ask
from nanolab_daemon.tasks import SegmentJob, Staged, StageJob

AT_WORK_S = 0.01


def cpu_s(pid: int) -> float:
    """Give the CPU time of a process, that of ended threads too, to the nanosecond.

    /proc/PID/stat counts in ticks, which what is woken by a timer, as a resting daemon is, meets too often.
    """
    return time.clock_gettime((~pid << 3) | 2)  # its CPUCLOCK_SCHED, as clock_getcpuclockid(3) makes it


def pss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rename_of(path: Path) -> float:
    """When a published folder got its name: the change time that rename(2) gives it."""
    return path.stat().st_ctime


def latencies(lab: Lab, count: int, seed: int) -> list[float]:
    """Write measurements one by one and give the seconds from each close to the rename of its segments."""
    chance = random.Random(seed)
    found: list[float] = []
    folder = lab.raw / f"live-{seed}"
    folder.mkdir()
    for number in range(count):
        start = 1750000000.0 + seed * 1e6 + number * 7
        one = instrument.iv(seed * 10000 + number, start=start)
        path = folder / f"IV_{number}.csv"
        with path.open("wb") as file:
            file.write(one.data())
        closed = time.time()
        relative = os.fsencode(path.relative_to(lab.raw))

        def done(relative: bytes = relative) -> Any:
            catalog = Catalog.open_to_read(lab.state / FILE_NAME)
            assert catalog is not None
            with contextlib.closing(catalog):
                record = catalog.file(relative)
                run = catalog.run(record.run_id) if record and record.run_id else None
                return run if run and run.segmentation == "done" else None

        run = until(done, 120)
        found.append(rename_of(lab.output / run.segments_folder) - closed)
        time.sleep(chance.uniform(0, 0.05))
    return found


def bare_cost_ms(lab: Lab) -> float:
    """Give the median cost of staging and cutting one sweep in this process, durable as the daemon's."""
    home = lab.home / "bare"
    bare = Lab(home)
    settings = engine.work_settings(bare.config, "bench")
    publish.make_temp_folder(bare.stage, "bench")
    publish.make_temp_folder(bare.output, "bench")
    stager, cutter = stage.stage_batch(settings), segment.segment_batch(settings)
    took: list[float] = []
    for number in range(120):
        path = bare.raw / f"{number}.csv"
        path.write_bytes(instrument.iv(number, start=1760000000.0 + number).data())
        began = time.perf_counter()
        outcome = stager([StageJob(os.fsencode(path.name))], lambda *_: None)[0]
        assert isinstance(outcome, Staged)
        job = SegmentJob(outcome.facts.run_id, outcome.output.path, f"iv_segments/{outcome.target}")
        cutter([job], lambda *_: None)
        took.append(time.perf_counter() - began)
    return statistics.median(took[20:]) * 1e3


def spread(values: list[float]) -> str:
    ordered = sorted(values)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"p50 {p50 * 1e3:7.1f} ms   p99 {p99 * 1e3:7.1f} ms   max {ordered[-1] * 1e3:7.1f} ms   ({len(ordered)})"


@contextlib.contextmanager
def folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    home = Path(tempfile.mkdtemp(prefix="nanolab-bench-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=31_806)
    parser.add_argument("--idle-s", type=float, default=600.0)
    parser.add_argument("--measurements", type=int, default=200)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    with folder(args.keep) as home:
        lab = Lab(home, watch=Watch(), workers=2)
        if not any(lab.raw.iterdir()):
            archive.make(lab.raw, args.files, tiny=True)
        began = time.monotonic()
        daemon = lab.spawn()
        try:
            print(f"start-up to answering: {time.monotonic() - began:.2f} s", flush=True)
            until(lambda: len(lab.files()) >= args.files and (lab.status() or {})["idle"], 3600)
            print(f"archive of {args.files:,} taken in after {time.monotonic() - began:.1f} s", flush=True)
            lab.wait_quiet(600)
            share, parent, others, scan_s = rest(lab, daemon, args.idle_s)
            print(f"at rest for {args.idle_s:.0f} s: {share:.2f} % of one core, all processes", flush=True)
            print(f"memory (PSS): parent {parent:.0f} MiB, others {', '.join(f'{one:.0f}' for one in others)} MiB")
            print(f"one full scan, CPU: {scan_s:.3f} s (the asking included)", flush=True)
            bare = bare_cost_ms(lab)
            print(f"bare cost of staging and cutting one sweep, durably: {bare:.1f} ms", flush=True)
            print(f"close to last segment, at rest:       {spread(latencies(lab, args.measurements, 1))}", flush=True)
            ask(lab.state, {"ask": "backfill", "force": True})
            until(lambda: (lab.status() or {})["queues"]["stage"][0] > 0, 60)
            busy = latencies(lab, args.measurements, 2)
            left = (lab.status() or {})["scanning"]
            print(f"close to last segment, under backlog: {spread(busy)}  backlog to the end: {left}", flush=True)
        finally:
            daemon.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(30)


def rest(lab: Lab, daemon: subprocess.Popen[bytes], idle_s: float) -> tuple[float, float, list[float], float]:
    """Leave the daemon alone; give per cent of one core, MiB of it and of each child, CPU seconds of a full scan."""
    workers = [-1.0]
    # They import what they will need, which is no rest; but where there is no end of it, the rest is what it is.
    while len(workers) < 4 or (workers[-1] - workers[-4] > AT_WORK_S and len(workers) < 60):
        time.sleep(1)
        workers.append(sum(map(cpu_s, children(daemon.pid))))
    pids = [daemon.pid, *children(daemon.pid)]
    before, began = {pid: cpu_s(pid) for pid in pids}, time.monotonic()
    time.sleep(idle_s)
    seconds = time.monotonic() - began
    used = {pid: cpu_s(pid) - before[pid] for pid in pids}
    share = 100 * sum(used.values()) / seconds
    parent, others = pss_mib(daemon.pid), [pss_mib(pid) for pid in children(daemon.pid)]
    cost = []
    for _ in range(3):
        start = cpu_s(daemon.pid)
        lab.wait_quiet(600)
        cost.append(cpu_s(daemon.pid) - start)
    return share, parent, others, statistics.median(cost)


if __name__ == "__main__":
    main()
