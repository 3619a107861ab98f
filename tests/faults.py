"""Faults at any system call that changes the disk: the calls of a program are counted, one is its last or fails.

`tests/faults.c`, preloaded into a program and all its workers, does it. For thousands of trials, `Stage` gives birth
to programs that are loaded already and have pools without processes: a trial takes some hundredths of a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import mmap
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOR_EVER = 1 << 40
LIMIT_S = 60.0
_BLOCK = struct.Struct("7q1024s")


class Act(IntEnum):
    """What is done at the chosen call; the numbers are those of faults.c."""

    NOTHING = 0
    KILL_GROUP = 1
    KILL_SELF = 2
    TEAR = 3  # write half of what was to be written, then kill the group
    FAIL = 4
    SKIP_SYNC = 5  # every sync does nothing


class Who(IntEnum):
    """Whose calls count."""

    ALL = 0
    LEADER = 1
    WORKERS = 2


def build(folder: Path) -> Path:
    """Compile the library to be preloaded."""
    made = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", str(made), str(source), "-ldl"], check=True)
    return made


class Faults:
    """The control block of one or several programs that run one after the other."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._control, self._log = folder / "faults.control", folder / "faults.log"
        self._control.write_bytes(bytes(_BLOCK.size))
        self._log.touch()
        with self._control.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _BLOCK.size)
        self.environment = os.environ | {
            "LD_PRELOAD": str(library),
            "FAULTS_CONTROL": str(self._control),
            "FAULTS_LOG": str(self._log),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "OPENBLAS_NUM_THREADS": "1",
            "POLARS_MAX_THREADS": "1",
        }

    def set(
        self,
        root: Path,
        act: Act = Act.NOTHING,
        at: int = 0,
        *,
        error: int = 0,
        fails: int = 1,
        who: Who = Who.ALL,
        log: bool = False,
    ) -> None:
        """Count from nothing the calls on files below `root`; `act` at the one with the number `at`, from 1."""
        os.truncate(self._log, 0)
        block = _BLOCK.pack(0, at, act, error, fails, who, log, os.fsencode(root))
        self._map.seek(0)
        self._map.write(block)

    @property
    def count(self) -> int:
        """How many calls have been met."""
        return int(_BLOCK.unpack(self._map[:])[0])

    @property
    def calls(self) -> list[str]:
        """The calls in their order, if they were to be logged: name and path below the root."""
        return self._log.read_text(errors="backslashreplace").splitlines()


@dataclass(frozen=True)
class Ended:
    """How a program ended: exit code, or the negative number of the signal; and what it said."""

    code: int
    said: str


class Stage:
    """A loaded program that gives birth to others which do one command each, under the eyes of `faults`."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.faults = Faults(folder, library)
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.faults.environment,
            text=True,
        )
        self._said = folder / "said"

    def run(self, home: Path, raw: Path, command: str) -> Ended:
        """Let a new program do a command over the folders of `home`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"home": str(home), "raw": str(raw), "command": command, "said": str(self._said)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the stage is gone"
        return Ended(int(answer), self._said.read_text(errors="replace"))

    def close(self) -> None:
        self._process.communicate(timeout=30)


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Open a stage whose files lie in `folder`."""
    opened = Stage(folder, build(folder))
    try:
        yield opened
    finally:
        opened.close()


# -- what is compared ------------------------------------------------------------------------------------------------

Files = Mapping[str, str]
"""Of one published run: path in its folder → SHA-256."""


def views(home: Path) -> dict[str, Files]:
    """Give what a reader finds now: folder of each run, below stage or output → its files."""
    found: dict[str, dict[str, str]] = {}
    for name in ("stage", "output"):
        for path in (home / name).rglob("run_id=*"):
            if ".nanolab-tmp" not in path.parts:
                found[str(path.relative_to(home))] = {
                    str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
                    for file in path.rglob("*")
                    if file.is_file()
                }
    return found


def strange(seen: Mapping[str, Files], *allowed: Mapping[str, Files]) -> list[str]:
    """Say which run is seen neither as it was nor as it will be: torn, mixed, or away though it is in all of them."""
    words = []
    for folder in sorted(set(seen).union(*allowed)):
        if all(seen.get(folder) != one.get(folder) for one in allowed):
            words.append(f"{folder}: {dict(seen.get(folder) or {}) or 'not there'}")
    return words


# -- the other side --------------------------------------------------------------------------------------------------


def _serve() -> None:
    for name in ("lab", "nanolab_daemon.audit", "nanolab_daemon.segment", "pyarrow.compute", "pandas", "structlog"):
        importlib.import_module(name)  # all that is slow to load, once; Arrow itself loads pandas where there is one

    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os._exit(_perform(order))
        watch = os.pidfd_open(pid)
        if not select.select([watch], [], [], LIMIT_S)[0]:
            os.kill(pid, signal.SIGABRT)
        os.close(watch)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _perform(order: dict[str, str]) -> int:
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    import lab

    from nanolab_daemon import batch, pauses, verify
    from nanolab_daemon.errors import NanolabError

    commands: dict[str, Callable[[Any], object]] = {
        "backfill": lambda config: batch.run(config, "backfill"),
        "force": lambda config: batch.run(config, "backfill", rules=batch.Rules(force=True)),
        "verify": _verify,
    }
    try:
        here = lab.Lab(Path(order["home"]))
        config = replace(here.config, paths=replace(here.config.paths, raw=Path(order["raw"])))
        pauses.WAITS_S = (0.01,)
        batch.GIVE_UP_AFTER_S = 0.1
        verify.Pool = lab.InlinePool  # type: ignore[misc, assignment]
        with lab.inline_pools():
            return int(commands[order["command"]](config) == 1)
    except NanolabError as error:
        print(f"Error: {error}")
        return 1
    except BaseException:  # noqa: BLE001 -- told by the exit code
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _verify(config: Any) -> int:
    from nanolab_daemon import verify

    found = verify.verify(config)
    for problem in found.problems:
        print(problem)
    return int(bool(found.problems))


def copy_of(template: Path, home: Path) -> Path:
    """Give a trial folders of its own."""
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(template, home)
    return home


if __name__ == "__main__":
    _serve()
