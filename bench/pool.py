"""What the pool itself costs: no-op batches a second, and how much of two cores 1-ms tasks get.

PYTHONPATH=.:tests python bench/pool.py
"""

from __future__ import annotations

import resource
import time
from typing import Any

from pool_tasks import drive

from nanolab_daemon.pool import Pool

SECONDS = 2.0


def measure(name: str, item: Any, batch_size: int) -> None:
    with Pool(
        "bench", "pool_tasks:factory", workers=2, settings=None, task_timeout_s=60, task_memory_mb=1024
    ) as pool:
        began = time.perf_counter()
        drive(pool, until=lambda _: pool.idle == 2)
        loaded = time.perf_counter() - began
        batch = [item] * batch_size
        submitted = 0
        cpu = _cpu_s()
        began = time.perf_counter()

        def enough(outcomes: list[Any]) -> bool:
            nonlocal submitted
            while pool.idle and time.perf_counter() - began < SECONDS:
                pool.submit(submitted, batch)
                submitted += 1
            return submitted == len(outcomes)

        drive(pool, until=enough)
        wall = time.perf_counter() - began
        cpu = _cpu_s() - cpu
    items = submitted * batch_size
    share = f", {100 * items * 0.001 / wall / 2:.0f} % of two cores" if item[0] == "spin" else ""
    print(
        f"{name:6} batches of {batch_size:2}: {submitted / wall:6.0f} batches/s, {items / wall:7.0f} items/s{share}; "
        f"parent {1e6 * cpu / submitted:.0f} us a batch; ready after {loaded:.2f} s"
    )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    for size in (1, 16):
        measure("no-op", ("double", 1), size)
        measure("1 ms", ("spin", 0.001), size)
