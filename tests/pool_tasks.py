"""What the workers of the pool tests do: each item is a verb and an argument."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Item = tuple[str, Any]


def double(number: int) -> int:
    return 2 * number


def fail(text: str) -> None:
    raise ValueError(text)


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
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd))


def _is_open(fd: str) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}") or os.path.islink(f"/proc/self/fd/{fd}")


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
        "main": getattr(sys.modules["__main__"], "__file__", None),
        "mp_main": "__mp_main__" in sys.modules,
        "sigint": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "sigmask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "stdin": os.readlink("/proc/self/fd/0"),
        "stdout_is_stderr": os.fstat(1).st_ino == os.fstat(2).st_ino,
        "threads": threading.active_count(),
        "modules": sorted(sys.modules),
    }


def group_by(rows: int) -> int:
    import polars as pl

    frame = pl.DataFrame({"key": [i % 7 for i in range(rows)], "value": list(range(rows))})
    return frame.group_by("key").agg(pl.col("value").sum()).height


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


def noop_factory(_: object) -> Callable[[Sequence[Any], Callable[[int], None]], list[Any]]:
    def handler(items: Sequence[Any], began: Callable[[int], None]) -> list[Any]:
        for index, _ in enumerate(items):
            began(index)
        return list(items)

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
