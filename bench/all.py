"""All that the program promises of speed, measured in one run beside yardsticks of its own kind; one table.

    python bench/all.py [--quick] [--files 6360] [--tiny 3180 31806] [--rounds 3] [--idle-s 120] [--write]

A backfill of an archive in the lab's mix, in turns with `floor.py`; backfills of archives of tiny files of several
sizes, for what a file costs in a small one and in a large one; the rerun of each, with nothing to do, beside a bare
walk; a daemon on the larger ones: its start, its rest, one scan, and how soon a measurement is there. Wall clocks
are the median of the rounds; CPU is that of all processes, which a busy machine disturbs less. `--write` puts the
table into RESULTS.md; `--quick` tries it all out on a few files, and proves nothing but that this script works.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests"), str(HERE.parent)]

import archive
import floor
import live
import polars as pl
from lab import Lab, toml, until

from nanolab_daemon.config import Watch
from nanolab_daemon.control import ask

WORKERS = 2
DAEMON_FROM = 10_000  # files; what is known of fewer costs a daemon nothing that could be measured
LOOK_S = 300
WALK = """
import os, sys
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        os.stat(os.path.join(folder, name))
"""


@dataclass(frozen=True)
class Row:
    """One line of the table: what, how much, beside which yardstick, and what is wanted."""

    what: str
    measured: str
    yardstick: str = ""
    ratio: str = ""
    goal: str = ""


@dataclass(frozen=True)
class Used:
    wall_s: float
    cpu_s: float


def environment_of() -> dict[str, str]:
    """Give an environment in which Python keeps compiled modules, as it does those of an installation."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPATH": str(HERE.parent)
    }


def command(*words: str, cwd: Path) -> Used:
    """Run a command in a process of its own; give wall clock and CPU of it and all its children."""
    environment = environment_of()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, check=False)
    wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{words} ended with {done.returncode}:\n{done.stderr.decode()[-2000:]}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Used(wall, used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime)


def median(every: list[Used]) -> Used:
    return Used(statistics.median(u.wall_s for u in every), statistics.median(u.cpu_s for u in every))


def lab_on(home: Path) -> Lab:
    lab = Lab(home, watch=Watch(), workers=WORKERS)
    lab.config = replace(lab.config, manifest=type(lab.config.manifest)())
    (home / "config.toml").write_text(toml(lab.config))
    return lab


def emptied(lab: Lab) -> None:
    """Put what was made aside. Not deleted: for minutes, ext4 looks at each deleted inode before it gives another."""
    spent = Path(tempfile.mkdtemp(prefix="spent-", dir=lab.home))
    for folder in (lab.stage, lab.output, lab.state):
        if folder.exists():
            folder.rename(spent / folder.name)
    os.sync()


def backfill(lab: Lab) -> Used:
    return command("-m", "nanolab_daemon", "backfill", "--config", str(lab.home / "config.toml"), cwd=lab.home)


def same_outputs(one: Path, other: Path) -> int:
    """Count the published files of two folders, which must hold the same values under the same names."""
    found = [{str(p.relative_to(r)): p for p in r.rglob("part-000.parquet")} for r in (one, other)]
    if found[0].keys() != found[1].keys():
        raise SystemExit(f"other files: {sorted(found[0].keys() ^ found[1].keys())[:5]}")
    for name in list(found[0])[:: max(1, len(found[0]) // 500)]:
        a, b = (pl.read_parquet(every[name], hive_partitioning=False) for every in found)
        if a.schema != b.schema or not a.equals(b, null_equal=True):
            raise SystemExit(f"{name} holds other values")
    return len(found[0])


def mixed(home: Path, files: int, rounds: int) -> list[Row]:
    """Compare backfills in the lab's mix with the yardstick, in turns."""
    lab = lab_on(home / "mixed")
    archive.make(lab.raw, files)
    bare, ours = [], []
    count = 0
    for number in range(rounds):
        out = lab.home / f"yardstick-{number}"
        os.sync()
        bare.append(Used(*floor.run(lab.raw, out, WORKERS)))
        emptied(lab)
        ours.append(backfill(lab))
        if not count:
            count = sum(
                same_outputs(out / name, folder) for name, folder in (("stage", lab.stage), ("output", lab.output))
            )
    a, b = median(bare), median(ours)
    ratio = statistics.median(o.wall_s / f.wall_s for o, f in zip(ours, bare, strict=True))
    what = f"backfill, {files:,} files in the lab's mix, {count:,} Parquet files"
    each = [1e3 * used.cpu_s / files for used in (b, a)]
    return [
        Row(f"{what}: wall clock", f"{b.wall_s:.1f} s", f"{a.wall_s:.1f} s", f"{ratio:.2f}", "≤ 1.25"),
        Row("the same: CPU a file", f"{each[0]:.2f} ms", f"{each[1]:.2f} ms", f"{each[0] / each[1]:.2f}"),
    ]


def rerun(lab: Lab, files: int, rounds: int) -> list[Row]:
    """Run a backfill with nothing to do, beside a bare walk in a process of its own."""
    none, walk = [], []
    for _ in range(rounds):
        walk.append(command("-I", "-c", WALK, str(lab.raw), cwd=lab.home))
        none.append(backfill(lab))
    a, b = median(walk), median(none)
    rows = [
        Row(
            f"rerun, {files:,} known files: whole command",
            f"{b.wall_s:.2f} s",
            f"{a.wall_s:.2f} s (a bare walk)",
            "",
            "≤ 1 s",
        ),
        Row("the same: CPU", f"{b.cpu_s:.2f} s", f"{a.cpu_s:.2f} s"),
    ]
    if shutil.which("strace"):
        trace = lab.home / "opened.trace"
        words = ["strace", "-f", "-e", "trace=openat,open", "-o", str(trace), sys.executable, "-m", "nanolab_daemon"]
        environment = environment_of()
        words += ["backfill", "--config", str(lab.home / "config.toml")]
        subprocess.run(words, cwd=lab.home, env=environment, capture_output=True, check=True)
        opened = sum(".csv" in line for line in trace.read_text(errors="replace").splitlines())
        rows.append(Row("the same: raw files opened", str(opened), goal="0"))
    return rows


def tiny(home: Path, sizes: list[int], rounds: int) -> Iterator[tuple[Lab, int, list[Row]]]:
    """Backfill archives of several sizes, and rerun each; give each one's lab, its size and what was found."""
    first = 0.0
    for files in sorted(sizes):
        rows: list[Row] = []
        lab = lab_on(home / f"tiny{files}")
        archive.make(lab.raw, files, tiny=True)
        times = rounds if files < 10_000 else 1
        used = []
        for _ in range(times):
            emptied(lab)
            used.append(backfill(lab))
        each = median(used)
        a_file = 1e3 * each.cpu_s / files
        first = first or a_file
        ratio = f"{a_file / first:.2f}" if a_file != first else ""
        rows.append(
            Row(f"backfill, {files:,} tiny files: CPU a file", f"{a_file:.2f} ms", f"{first:.2f} ms", ratio, "≤ 1.1")
        )
        rows.append(Row("the same: wall clock", f"{each.wall_s:.1f} s"))
        yield lab, files, rows + rerun(lab, files, rounds)


def daemon(lab: Lab, files: int, idle_s: float, measurements: int) -> list[Row]:
    """Start a daemon on a known archive; measure its start, its rest, a scan, and how soon a measurement is there."""
    lab.patience_s = 300.0  # type: ignore[misc]
    began = time.monotonic()
    process = lab.spawn()
    rows = []
    try:
        listens = time.monotonic() - began
        until(lambda: (lab.status() or {}).get("idle"), 600)
        rows.append(Row(f"start with {files:,} known files, until it answers", f"{listens:.2f} s"))
        rows.append(Row("the same, until all is scanned", f"{time.monotonic() - began:.2f} s"))
        while not (whole := lab.has_looked()) and time.monotonic() - began < LOOK_S:
            time.sleep(0.5)  # asking costs the daemon something too
        looked = f"{time.monotonic() - began:.2f} s" if whole else f"not within {LOOK_S} s, so it goes on below"
        rows.append(Row("the same, until every published file was looked at", looked))
        lab.wait_quiet(600)
        share, parent, others, scan_s = live.rest(lab, process, idle_s)
        rows.append(Row(f"at rest for {idle_s:.0f} s: all processes", f"{share:.2f} % of one core", goal="≤ 0.3 %"))
        rows.append(Row("memory (PSS): parent", f"{parent:.0f} MiB", goal="≤ 60 MiB"))
        rows.append(Row("memory (PSS): its children", ", ".join(f"{one:.0f}" for one in others) + " MiB"))
        rows.append(Row("one full scan, CPU", f"{scan_s:.3f} s"))
        bare = live.bare_cost_ms(lab)
        for words, seed, goals in (
            ("at rest", 1, ("≤ 10 ms", "≤ 50 ms")),
            ("under a backlog", 2, ("", "p99 ≤ 250 ms")),
        ):
            if seed == 2:
                ask(lab.state, {"ask": "backfill", "force": True})
                until(lambda: (lab.status() or {})["queues"]["stage"][0] > 0, 60)
            found = sorted(1e3 * one for one in live.latencies(lab, measurements, seed))
            spread = [found[math.ceil(len(found) * share) - 1] for share in (0.5, 0.99)]
            for part, ms, goal in zip(("p50", "p99"), spread, goals, strict=True):
                what = f"close to last segment, {words}: {part}"
                rows.append(Row(what, f"{ms:.1f} ms", f"{bare:.1f} ms bare", f"+{ms - bare:.1f} ms", goal))
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
    return rows


def helped(rounds: int) -> list[Row]:
    used = median([command("-m", "nanolab_daemon", "--help", cwd=HERE) for _ in range(max(5, rounds))])
    bare = median([command("-c", "pass", cwd=HERE) for _ in range(max(5, rounds))])
    return [Row("`--help`", f"{used.wall_s:.2f} s", f"{bare.wall_s:.2f} s (Python alone)", "", "≤ 0.25 s")]


def machine() -> str:
    model = next(
        (line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("pyarrow", "numpy", "watchdog"))
    return (
        f"{time.strftime('%Y-%m-%d')}; {os.cpu_count()} CPUs, {model}; Linux {platform.release()}; "
        f"Python {platform.python_version()}, {packages}; load when it began {os.getloadavg()[0]:.1f}, when it ended "
    )


def table(rows: list[Row]) -> str:
    head = [Row("what", "measured", "yardstick", "ratio", "goal"), Row(*["---"] * 5)]
    return "\n".join(f"| {r.what} | {r.measured} | {r.yardstick} | {r.ratio} | {r.goal} |" for r in head + rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=6_360)
    parser.add_argument("--tiny", type=int, nargs="+", default=[3_180, 31_806])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle-s", type=float, default=120.0)
    parser.add_argument("--measurements", type=int, default=300)
    parser.add_argument("--below", type=Path, help="a folder on the disk in question")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.files, args.tiny, args.rounds, args.idle_s, args.measurements = 60, [40, 80], 1, 3.0, 5
    told = machine()
    home = Path(tempfile.mkdtemp(prefix="nanolab-bench-", dir=args.below))
    rows: list[Row] = []
    try:
        rows += helped(args.rounds)
        rows += mixed(home, args.files, args.rounds)
        print(table(rows), flush=True)
        for lab, files, found in tiny(home, args.tiny, args.rounds):
            rows += found
            print(table(found), flush=True)
            if files >= DAEMON_FROM or files == max(args.tiny):
                lived = daemon(lab, files, args.idle_s, args.measurements)
                rows += lived
                print(table(lived), flush=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    called = f"`python bench/all.py {' '.join(sys.argv[1:])}`"
    text = f"# Results\n\n{told}{os.getloadavg()[0]:.1f}.\n\n{called}\n\n{table(rows)}\n"
    print(text)
    if args.write:
        (HERE / "RESULTS.md").write_text(text)


if __name__ == "__main__":
    main()
