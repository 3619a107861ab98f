"""What the workers of the pool tests do, each item a verb and an argument; and the loop that drives a pool."""

from __future__ import annotations

import ctypes
import os
import re
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanolab_daemon.pool import Pool
    from nanolab_daemon.workpool import Outcome

Item = tuple[str, Any]


def double(number: int) -> int:
    return 2 * number


def fail(text: str) -> None:
    raise ValueError(text)


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def sigterm_deaf(seconds: float) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(seconds)


def loop(_: None) -> None:
    while True:
        pass


def gil(_: None) -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


def bomb(chunk_mb: int) -> None:
    hoard = []
    while True:
        hoard.append(b"x" * (chunk_mb << 20))


def swell(total_mb: int) -> None:
    hoard = [b"x" * (1 << 20) for _ in range(total_mb)]
    time.sleep(60 + len(hoard))


def fds(_: None) -> list[str]:
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(links)


def meet(folder: str) -> int:
    """End only when two workers are here at the same time."""
    (Path(folder) / str(os.getpid())).touch()
    while len(os.listdir(folder)) < 2:
        time.sleep(0.001)
    return os.getpid()


def wait_for(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.001)
    return path


def facts(_: None) -> dict[str, Any]:
    return {
        "comm": Path("/proc/self/comm").read_text().strip(),
        "environ": dict(os.environ),
        "knows_parents_main": sys.modules["__mp_main__"] is not sys.modules["__main__"],
        "sigint": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "sigmask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "stdin": os.readlink("/proc/self/fd/0"),
        "stdout_is_stderr": os.fstat(1).st_ino == os.fstat(2).st_ino,
        "threads": threading.active_count(),
        "modules": sorted(sys.modules),
    }


def group_by(rows: int) -> int:
    import polars as pl

    frame = pl.DataFrame({"key": [i % 7 for i in range(rows)], "value": list(range(rows))})
    return frame.group_by("key").agg(pl.col("value").sum()).height


def scalar(value: object) -> tuple[object, bool]:
    """Have Arrow make a scalar, and tell whether it has brought pandas in."""
    import pyarrow as pa

    return pa.scalar(value).as_py(), "pandas" in sys.modules


class Unreadable:
    """Can be pickled and not unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return fail, ("can't be read",)


VERBS: dict[str, Callable[[Any], Any]] = {
    "double": double,
    "exit": os._exit,
    "signal": lambda number: os.kill(os.getpid(), number),
    "segfault": lambda _: ctypes.string_at(0),
    "raise": fail,
    "sys_exit": sys.exit,
    "memory_error": lambda _: bytes(1 << 60),
    "sleep": time.sleep,
    "spin": spin,
    "sigterm_deaf": sigterm_deaf,
    "loop": loop,
    "gil": gil,
    "bomb": bomb,
    "swell": swell,
    "unpicklable": lambda _: lambda: None,
    "unreadable": lambda _: Unreadable(),
    "big": lambda size: b"x" * size,
    "pid": lambda _: os.getpid(),
    "fds": fds,
    "meet": meet,
    "wait_for": wait_for,
    "facts": facts,
    "group_by": group_by,
    "scalar": scalar,
}


def factory(settings: object) -> Callable[[Sequence[Item], Callable[[int], None]], list[Any]]:
    def handler(items: Sequence[Item], began: Callable[[int], None]) -> list[Any]:
        results = []
        for index, (verb, argument) in enumerate(items):
            if verb == "short":
                return results
            if verb == "before":
                os._exit(7)
            if verb == "settings":
                results.append(settings)
                continue
            if verb == "after":  # while the batch is brought to its end
                began(len(items))
                time.sleep(argument)
                continue
            began(index)
            results.append(VERBS[verb](argument))
        began(len(items))
        return results

    return handler


def broken_factory(_: object) -> None:
    raise ImportError("no such library here")


def dying_factory(_: object) -> None:
    os._exit(9)


def flaky_factory(path: str) -> Callable[[Sequence[Item], Callable[[int], None]], list[Any]]:
    """Load only once the file is there."""
    if not os.path.exists(path):
        raise RuntimeError("not yet")
    return factory(None)


def drive(
    *pools: Pool[Any, Any], until: Callable[[list[Outcome[Any]]], bool], within_s: float = 20.0
) -> list[Outcome[Any]]:
    """Run the loop of a program that owns these pools until the condition holds of all outcomes so far."""
    outcomes: list[Outcome[Any]] = []
    end = time.monotonic() + within_s
    with selectors.DefaultSelector() as selector:
        for pool in pools:
            selector.register(pool, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            for pool in pools:
                outcomes += pool.poll(now)
            if until(outcomes):
                return outcomes
            if now > end:
                raise TimeoutError(f"{outcomes} {[pool.describe(now) for pool in pools]}")
            due = min([end] + [due for pool in pools if (due := pool.next_deadline()) is not None])
            selector.select(max(0.0, due - time.monotonic()))


def work_off(pool: Pool[Any, Any], batches: dict[int, list[Item]]) -> list[Outcome[Any]]:
    """Feed the batches to the pool as workers come free; return all outcomes when each batch has its own."""
    waiting = list(batches.items())

    def done(outcomes: list[Outcome[Any]]) -> bool:
        while waiting and pool.idle:
            pool.submit(*waiting.pop(0))
        return sum(hasattr(outcome, "batch_id") for outcome in outcomes) == len(batches)

    return drive(pool, until=done)
