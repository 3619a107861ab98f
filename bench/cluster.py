"""A backfill by the workers of a Dask cluster against the local pools, by batch size, in turns; outputs must agree.

    PYTHONPATH=.:tests python bench/cluster.py [--files 3180] [--rounds 3] [--batches 1 8 32 128]

A real scheduler and one worker on this machine, with as many processes as the local pools have: what is measured is
the price of the way, not what more machines would bring. `scheduler` is its CPU time for each batch of either stage.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import archive
from dask_lab import Cluster, cluster
from live import cpu_s

from nanolab_daemon import batch, engine
from nanolab_daemon.config import Config, Paths, Pools
from nanolab_daemon.sections import PoolEngine
from nanolab_daemon.workpool import WorkPool

MOST_BYTES = 1 << 30  # so that the number of files alone ends a batch


def digest(*roots: Path) -> str:
    """Tell all published files but the manifest, which tells times, from others."""
    found = hashlib.sha256()
    for root in roots:
        for path in sorted(root.rglob("part-*.parquet")):
            found.update(str(path.relative_to(root)).encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


@contextmanager
def batches_of(files: int) -> Iterator[list[int]]:
    """Let engines make batches of so many files; count them, of both stages."""
    sent = [0]
    made, most = batch.Engine, engine.BATCH_BYTES

    def make(*args: object, **options: object) -> engine.Engine:
        one = made(*args, **options, batch_files=files)  # type: ignore[arg-type]
        for lane in (one.staging, one.cutting):
            lane.pool = _counted(lane.pool, sent)
        return one

    batch.Engine, engine.BATCH_BYTES = make, MOST_BYTES  # type: ignore[assignment,misc]
    try:
        yield sent
    finally:
        batch.Engine, engine.BATCH_BYTES = made, most  # type: ignore[misc]


def _counted(pool: WorkPool, sent: list[int]) -> WorkPool:  # type: ignore[type-arg]
    submit = pool.submit

    def count(*args: object) -> None:
        sent[0] += 1
        submit(*args)  # type: ignore[arg-type]

    pool.submit = count  # type: ignore[method-assign]
    return pool


def backfill(raw: Path, pools: Pools, files: int) -> tuple[float, int, str]:
    """Give the seconds, the batches and the digest of a backfill into new folders."""
    with tempfile.TemporaryDirectory(prefix="nanolab-bench-", dir=raw.parent) as home:
        paths = Paths(raw=raw, stage=Path(home, "stage"), output=Path(home, "output"), state=Path(home, "state"))
        with batches_of(files) as sent:
            began = time.perf_counter()
            batch.run(Config(paths=paths, pools=pools), "backfill")
            seconds = time.perf_counter() - began
        return seconds, sent[0], digest(paths.stage, paths.output)


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=3180)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    local = Pools(stage_workers=args.workers, segment_workers=args.workers)
    digests = set()
    with tempfile.TemporaryDirectory(prefix="nanolab-bench-") as home:
        raw = Path(home, "raw")
        archive.make(raw, args.files)
        with cluster(Path(home, "dask"), workers=1, stage=args.workers, segment=args.workers) as dask:
            there = replace(local, engine=PoolEngine.DASK, scheduler=dask.address)
            backfill(raw, there, 32)  # the cluster's processes start once, and stay
            print(f"{args.files} files, {args.workers} + {args.workers} processes, medians of {args.rounds}\n")
            print("| files a batch | local, files/s | Dask, files/s | ratio of times | scheduler, ms a batch |")
            print("|---:|---:|---:|---:|---:|")
            for size in args.batches:
                here_s, there_s, each = _in_turns(raw, local, there, size, args.rounds, dask, digests)
                rates = f"{args.files / here_s:.0f} | {args.files / there_s:.0f}"
                print(f"| {size} | {rates} | {there_s / here_s:.2f} | {1000 * each:.1f} |", flush=True)
    agree = "equal" if len(digests) == 1 else "DIFFERENT"
    print(f"\nOutputs of all {2 * args.rounds * len(args.batches)} backfills: {agree}")
    return int(len(digests) != 1)


def _in_turns(
    raw: Path, local: Pools, there: Pools, size: int, rounds: int, dask: Cluster, digests: set[str]
) -> tuple[float, float, float]:
    assert dask.scheduler is not None
    here_s, there_s, each = [], [], []
    for _ in range(rounds):
        seconds, _, mark = backfill(raw, local, size)
        here_s.append(seconds)
        digests.add(mark)
        before = cpu_s(dask.scheduler.pid)
        seconds, sent, mark = backfill(raw, there, size)
        there_s.append(seconds)
        each.append((cpu_s(dask.scheduler.pid) - before) / sent)
        digests.add(mark)
    return statistics.median(here_s), statistics.median(there_s), statistics.median(each)


if __name__ == "__main__":
    sys.exit(main())
