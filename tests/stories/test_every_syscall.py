"""Killed before, or refused, any system call that changes the disk: the end is that of an undisturbed backfill.

Each case is one change of a raw folder. The calls of the backfill that follows it are counted. Then, for each of
them, a backfill meets a fault just there, readers look, a second one runs undisturbed, and all is compared. A few
faults chosen by chance are tried; `FAULTS=all` tries every one, in some minutes a case.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faults
import instrument
import lab
import outputs
import polars as pl
import pytest
from faults import Act, Ended, Stage, Who

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc here"),
]

SEED = os.environ.get("FAULTS_SEED") or str(random.randrange(10**6))
SAMPLE = os.environ.get("FAULTS", "4")  # of each sort of fault, in each case; or all


def _nothing(raw: Path) -> None:
    raw.mkdir()


def _one(raw: Path) -> None:
    instrument.iv(0).first(30).write(raw / "a.csv")
    instrument.ivg(1).write(raw / "b.csv")


def _dated(raw: Path) -> None:
    """Write a run whose date is told by its path alone."""
    _one(raw)
    replace(instrument.iv(2), start_time=None, metadata={"Sensor": "none"}).write(raw / "2025-09-04" / "c.csv")


def _new(raw: Path) -> None:
    instrument.iv(0).write(raw / "a.csv")


def _several(raw: Path) -> None:
    for seed in range(3, 6):
        instrument.iv(seed).write(raw / f"{seed}.csv")
    instrument.it(6).write(raw / "6.csv")


def _grown(raw: Path) -> None:
    instrument.iv(0).write(raw / "a.csv")


def _shrunk(raw: Path) -> None:
    instrument.iv(0).first(3).write(raw / "a.csv")


def _another(raw: Path) -> None:
    instrument.it(7).write(raw / "a.csv")


def _moved(raw: Path) -> None:
    (raw / "2025-09-05").mkdir()
    (raw / "2025-09-04" / "c.csv").rename(raw / "2025-09-05" / "c.csv")
    (raw / "b.csv").rename(raw / "z.csv")


def _gone(raw: Path) -> None:
    (raw / "a.csv").unlink()
    (raw / "b.csv").write_bytes((raw / "b.csv").read_bytes() + b"x\r\n")


def _fuller(raw: Path) -> None:
    instrument.iv(0).write(raw / "z.csv")
    (raw / "copy.csv").write_bytes((raw / "b.csv").read_bytes())


def _two(raw: Path) -> None:
    _one(raw)
    _fuller(raw)


def _heir(raw: Path) -> None:
    (raw / "z.csv").unlink()


CASES: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "first start": (_nothing, _new),
    "new runs": (_one, _several),
    "grown": (_one, _grown),
    "shrunk until nothing is cut": (_one, _shrunk),
    "another measurement": (_one, _another),
    "moved": (_dated, _moved),
    "vanished and spoilt": (_one, _gone),
    "fuller file and a copy": (_one, _fuller),
    "shorter heir": (_two, _heir),
}


@dataclass(frozen=True)
class Fault:
    """What befalls the first run, and maybe the second."""

    act: Act
    at: int
    error: int = 0
    fails: int = 1
    again_at: int = 0  # the restart is killed as well, before this call of its own

    @property
    def words(self) -> str:
        name = self.act.name.lower().replace("_", " ")
        if self.act is Act.FAIL:
            name = f"{errno.errorcode[self.error]}{' from then on' if self.fails > 1 else ''}"
        return f"{name} at call {self.at}{f', then killed at call {self.again_at}' if self.again_at else ''}"


class Case:
    """A change of a raw folder, the folders as they were before it, and as they must be at the end."""

    def __init__(
        self, stage: Stage, home: Path, before: Callable[[Path], None], after: Callable[[Path], None]
    ) -> None:
        self.stage, self.home, self.raw = stage, home, home / "raw"
        before(self.raw)
        template, self.trial = home / "template", home / "trial"
        template.mkdir()
        self._template = template
        stage.faults.set(home / "none")
        self.expect(stage.run(template, self.raw, "backfill"), 0)
        after(self.raw)
        self.old = faults.views(template)
        self.begin()
        stage.faults.set(self.trial, log=True)
        self.expect(stage.run(self.trial, self.raw, "backfill"), 0)
        self.expect(stage.run(self.trial, self.raw, "verify"), 0)
        self.calls = stage.faults.calls
        assert stage.faults.count == len(self.calls)
        self.new, self.end = faults.views(self.trial), self.state()

    def expect(self, ended: Ended, *codes: int) -> None:
        assert ended.code in codes, f"exit code {ended.code}\n{ended.said}"

    def begin(self) -> None:
        faults.copy_of(self._template, self.trial)

    def state(self) -> tuple[Any, ...]:
        """Give everything that must be the same in the end, whatever has happened."""
        home = lab.Lab(self.trial)
        manifest = pl.read_parquet(home.stage / "_manifest/manifest.parquet").sort("run_id")
        runs = {
            run_id: replace(run, revision=0, staged_at=0.0, segmented_at=None) for run_id, run in home.runs().items()
        }
        rows = outputs.bits(manifest.drop(outputs.TIMES)).rows()
        return faults.views(self.trial), home.files(), runs, rows, outputs.leftovers(home.stage, home.output)

    def meet(self, fault: Fault) -> None:
        """Run into a fault, and hold what readers find, and the end, against what they should be."""
        stage, trial, raw = self.stage, self.trial, self.raw
        self.begin()
        stage.faults.set(trial, fault.act, fault.at, error=fault.error, fails=fault.fails)
        ended = stage.run(trial, raw, "backfill")
        never_met = (0,) if stage.faults.count < fault.at else ()  # the calls are not quite the same each time
        self.expect(ended, *((0, 1) if fault.act is Act.FAIL else (-9, *never_met)))
        assert faults.strange(faults.views(trial), self.old, self.new) == []
        if fault.again_at:
            stage.faults.set(trial, Act.KILL_GROUP, fault.again_at)
            self.expect(stage.run(trial, raw, "backfill"), -9, 0)
            assert faults.strange(faults.views(trial), self.old, self.new) == []
        stage.faults.set(trial)
        self.expect(stage.run(trial, raw, "backfill"), 0)
        self.compare()

    def faults(self, chance: random.Random) -> list[Fault]:
        """Choose the faults to meet."""
        places = range(1, len(self.calls) + 1)
        kinds = [
            [Fault(Act.KILL_GROUP, at) for at in places],
            [Fault(Act.TEAR, at) for at in places if "write" in self.calls[at - 1]],
            [Fault(Act.FAIL, at, errno.ENOSPC) for at in places],
            [Fault(Act.FAIL, at, errno.EIO) for at in places],
            [Fault(Act.FAIL, at, errno.ENOSPC, faults.FOR_EVER) for at in places],
            [Fault(Act.KILL_GROUP, at, again_at=chance.choice(places)) for at in places],
        ]
        if SAMPLE != "all":
            kinds = [chance.sample(kind, min(int(SAMPLE), len(kind))) for kind in kinds]
        return [fault for kind in kinds for fault in kind]

    # -- with workers of its own

    def program(self, command: str = "backfill", *head: str) -> Ended:
        """Let the true program do a command, with its pools."""
        here = lab.Lab(self.trial)
        config = self.trial / "config.toml"
        config.write_text(lab.toml(replace(here.config, paths=replace(here.config.paths, raw=self.raw))))
        done = subprocess.run(
            [*head, sys.executable, "-m", "nanolab_daemon", command, "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.stage.faults.environment,
            text=True,
            start_new_session=True,
            check=False,
        )
        return Ended(done.returncode, done.stdout)

    def compare(self) -> None:
        """Hold the end against what it should be."""
        self.stage.faults.set(self.trial)
        self.expect(self.stage.run(self.trial, self.raw, "verify"), 0)
        for name, found, wanted in zip(
            ("outputs", "verdicts", "runs", "manifest", "left over"), self.state(), self.end, strict=True
        ):
            assert found == wanted, name


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with faults.stage(tmp_path_factory.mktemp("faults")) as opened:
        yield opened


@pytest.mark.parametrize("name", CASES)
def test_fault_at_every_call(stage: Stage, tmp_path: Path, name: str) -> None:
    """Killed or refused at any call, and then run again: the old or the new run at every moment, the right end."""
    case = Case(stage, tmp_path, *CASES[name])
    failed = []
    for fault in case.faults(random.Random(f"{SEED} {name}")):
        try:
            case.meet(fault)
        except AssertionError as error:
            failed.append(f"--- {fault.words}, {case.calls[fault.at - 1]}\n{error}")
    assert not failed, f"FAULTS_SEED={SEED}: {len(failed)} faults\n" + "\n".join(failed[:200])


@pytest.mark.parametrize("name", ["first start", "grown"])
def test_worker_killed_at_every_call(stage: Stage, tmp_path: Path, name: str) -> None:
    """A worker that is killed before any call of its own costs nothing: the same program comes to the right end."""
    case = Case(stage, tmp_path, *CASES[name])
    calls = _of_workers(case)
    case.compare()
    places: Sequence[int] = range(1, 1 + len(calls))
    if SAMPLE != "all":
        places = random.Random(f"{SEED} {name}").sample(places, min(int(SAMPLE), len(places)))
    for at in places:
        case.begin()
        stage.faults.set(case.trial, Act.KILL_SELF, at, who=Who.WORKERS)
        ended = case.program()
        assert ended.code == 0, f"killed at call {at}, {calls[at - 1]}\n{ended.said}"
        case.compare()


def _of_workers(case: Case) -> list[str]:
    case.begin()
    case.stage.faults.set(case.trial, who=Who.WORKERS, log=True)
    case.expect(case.program(), 0)
    calls = case.stage.faults.calls
    assert any("rename /stage" in call for call in calls)
    assert any("rename /output" in call for call in calls)
    assert not any("write /state" in call for call in calls)
    return calls


@pytest.mark.skipif(not shutil.which("strace"), reason="no strace here")
def test_no_call_escapes(stage: Stage, tmp_path: Path) -> None:
    """What is counted is all that the kernel is asked for, by every process of the program."""
    case = Case(stage, tmp_path, *CASES["grown"])
    case.begin()
    stage.faults.set(case.trial, log=True)
    trace = tmp_path / "trace"
    head = ("strace", "-f", "-y", "-qq", "-e", "trace=file,desc", "-e", "signal=none", "-o", str(trace))
    case.expect(case.program("backfill", *head), 0)
    met = Counter(call.partition(" ")[0] for call in stage.faults.calls)
    seen: Counter[str] = Counter()
    for line in trace.read_text(errors="replace").splitlines():
        found = re.match(r"\d+ +(\w+)\((.*)", line)
        if found is None or str(case.trial) not in found[2]:
            continue
        name, rest = found.groups()
        if name.startswith("open") and not re.search("O_CREAT|O_TRUNC|O_WRONLY|O_RDWR", rest):
            continue
        if name == "unlinkat" and "AT_REMOVEDIR" in rest:
            name = "rmdir"
        if name == "renameat2" and "RENAME_EXCHANGE" in rest:
            name = "exchange"
        if (word := _KERNEL.get(name)) is not None:
            seen[word] += 1
    assert met == seen


_KERNEL = {
    **{name: name for name in ("write", "writev", "fsync", "fdatasync", "syncfs", "ftruncate", "rmdir", "exchange")},
    **dict.fromkeys(("open", "openat", "creat"), "open"),
    **dict.fromkeys(("pwrite64", "pwritev"), "pwrite"),
    **dict.fromkeys(("rename", "renameat", "renameat2"), "rename"),
    **dict.fromkeys(("mkdir", "mkdirat"), "mkdir"),
    **dict.fromkeys(("unlink", "unlinkat"), "unlink"),
    **dict.fromkeys(("link", "linkat"), "link"),
    **dict.fromkeys(("symlink", "symlinkat", "truncate", "fallocate", "copy_file_range", "sendfile"), "unknown"),
}
"""The kernel's calls that change the disk, by the words of faults.c; what that does not know must not be used."""
