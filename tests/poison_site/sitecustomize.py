"""Makes workers fall ill of files that say so; to be had by PYTHONPATH alone, and the program knows nothing of it.

The real readers survive every file that is known. So a file's Information may hold `poison=exit` (or another of the
words below) for the first stage, `poison2=exit` for the second, and the worker that judges it obeys.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def _hold_the_lock() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")  # one call into C that would take for ever and never lets go of the GIL


def _eat() -> None:
    hoard = []
    while True:
        hoard.append(b"x" * (16 << 20))


def _every_other_time() -> None:
    mark = Path(os.environ["POISON_STATE"])
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        mark.unlink()
    else:
        os._exit(7)


def _raise() -> None:
    raise ValueError("poison")


DEEDS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(7),
    "segfault": lambda: ctypes.string_at(0),
    "gil": _hold_the_lock,
    "memory": _eat,
    "sleep": lambda: time.sleep(3600),
    "raise": _raise,
    "sometimes": _every_other_time,
}


def _obey(word: str, text: object) -> None:
    match = re.search(rf"{word}=(\w+)", str(text))
    if match is None:
        return
    if note := os.environ.get("POISON_LOG"):  # one line a try, as short as an append is whole
        with open(note, "a") as log:
            log.write(f"{match[0]} {os.getpid()}\n")
    DEEDS[match[1]]()


def _facts(module: ModuleType) -> None:
    judge = module.judge

    def judged(lab: Any, header: Any, *others: Any) -> Any:
        _obey("poison", header.parameters.get("Information"))
        return judge(lab, header, *others)

    module.judge = judged


def _parquet(module: ModuleType) -> None:
    read = module.read

    def obeyed(*arguments: Any) -> Any:
        table, notes = read(*arguments)
        _obey("poison2", notes.get("parameters"))
        return table, notes

    module.read = obeyed


class _Finder(importlib.machinery.PathFinder):
    """Alters two modules, which only workers import, when they are loaded."""

    changes = {"nanolab_daemon.facts": _facts, "nanolab_daemon.parquet": _parquet}  # noqa: RUF012

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        change = cls.changes.get(name)
        spec = None if change is None else super().find_spec(name, path, target)
        if change is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder)
