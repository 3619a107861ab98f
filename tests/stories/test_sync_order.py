"""The order of syncs, from a trace of the program's system calls: what survives a loss of power, whenever it comes.

Of each published file: its last byte < a sync < its rename < a sync < the ledger's first word of it < the ledger's.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import instrument
import pytest
from lab import Lab, toml, until

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not shutil.which("strace"), reason="no strace here"),
]

TRACED = "write,pwrite64,writev,pwritev,rename,renameat,renameat2,fsync,fdatasync,syncfs"
_LINE = re.compile(r"(?P<pid>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<name>\w+)\()(?P<rest>.*)")
_FD = re.compile(r"\d+<(?P<path>[^>]*)>")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Call:
    """One system call that succeeded; `began` and `ended` are its places in the trace."""

    pid: int
    name: str
    text: str
    began: int
    ended: int

    @property
    def path(self) -> str:
        """The file that it is about."""
        found = _FD.match(self.text)
        return found["path"] if found else ""

    @property
    def names(self) -> tuple[str, str]:
        """From where to where a rename goes."""
        one, other = _QUOTED.findall(self.text)[:2]
        return one, other


def parse(trace: Path) -> list[Call]:
    """Read a trace of strace -f, in the order in which the calls began."""
    calls: list[Call] = []
    open_: dict[int, tuple[str, str, int]] = {}
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        found = _LINE.match(line)
        if found is None:
            continue  # a signal, the end of a process
        pid, name, text, began = int(found["pid"]), found["name"] or found["resumed"], found["rest"], number
        if text.endswith("<unfinished ...>"):
            open_[pid] = (name, text.removesuffix("<unfinished ...>"), number)
            continue
        if found["resumed"]:
            _, first, began = open_.pop(pid)
            text = first + text
        if re.search(r"= \d+$", text):
            calls.append(Call(pid, name, text, began, number))
    return sorted(calls, key=lambda call: call.began)


class Trace:
    """What happened, and the questions to it."""

    def __init__(self, file: Path, lab: Lab) -> None:
        self.calls = parse(file)
        self.roots = {str(root) for root in (lab.stage, lab.output)}
        self.wal = str(lab.state / "ledger.sqlite-wal")
        self.renames = [call for call in self.calls if call.name.startswith("rename")]
        self.syncs = [call for call in self.calls if call.name == "syncfs" and call.path in self.roots]

    def root_of(self, path: str) -> str:
        (root,) = (one for one in self.roots if path.startswith(one + "/"))
        return root

    def first(self, calls: Iterable[Call], after: int) -> Call | None:
        return next((call for call in calls if call.began > after), None)

    def synced(self, path: str, after: int) -> int:
        """Give the end of the first sync of a path's root that began after a moment; the greatest number if none."""
        root = self.root_of(path)
        found = self.first((call for call in self.syncs if call.path == root), after)
        return found.ended if found else sys.maxsize

    def told(self, words: Iterable[str], after: int = -1) -> Call | None:
        """Give the first write to the ledger that holds one of some words."""
        return self.first(
            (
                call
                for call in self.calls
                if call.name == "pwrite64" and call.path == self.wal and any(word in call.text for word in words)
            ),
            after,
        )

    def complaints(self, path: Path) -> Iterator[str]:
        """Say what is wrong with the order for one file that was published in the course of the trace."""
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        folder = next(str(one) for one in path.parents if one.name.startswith("run_id="))
        moves = [call for call in self.renames if call.names[1] == folder or call.names[1] == str(path)]
        told = self.told((sha256[:32], sha256[32:]))  # one half is whole, wherever a page of the ledger ends
        if not moves or told is None:
            yield f"{path}: moved {len(moves)} times, told of {told}"
            return
        move = moves[-1]
        source = move.names[0] + str(path).removeprefix(folder)
        writes = [call for call in self.calls if call.name == "write" and call.path == source]
        if not writes or sum(int(call.text.rpartition("= ")[2]) for call in writes) != path.stat().st_size:
            yield f"{path}: not written whole before it was moved"
            return
        if not self.synced(folder, writes[-1].ended) < move.began:
            yield f"{path}: moved into place before its contents were synced"
        if not self.synced(folder, move.ended) < told.began:
            yield f"{path}: in the ledger before its name was synced"
        if self.first((c for c in self.calls if c.name == "fdatasync" and c.path == self.wal), told.ended) is None:
            yield f"{path}: the ledger was never synced"

    def moves_without_sync(self, leader: int) -> Iterator[str]:
        """Say which names the engine itself moved and did not sync before it wrote to the ledger."""
        for move in self.renames:
            if move.pid == leader and any(move.names[1].startswith(root) for root in self.roots):
                written = self.first((c for c in self.calls if c.path == self.wal and "write" in c.name), move.ended)
                if written is not None and not self.synced(move.names[1], move.ended) < written.began:
                    yield f"{move.names}: not synced before the ledger was written"


def traced(lab: Lab, name: str, *command: str) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a command under strace."""
    file, config = lab.home / f"{name}.trace", lab.home / "config.toml"
    config.write_text(toml(lab.config))
    head = ["strace", "-f", "-y", "-s", "100000", "-e", f"trace={TRACED}", "-e", "signal=none", "-o", str(file)]
    with (lab.home / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*head, sys.executable, "-m", "nanolab_daemon", *command, "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=lab.home,
        )
    return process, file


def backfilled(lab: Lab, name: str) -> Trace:
    process, file = traced(lab, name, "backfill")
    assert process.wait(120) == 0, (lab.home / f"{name}.log").read_text()
    return Trace(file, lab)


def published(lab: Lab) -> dict[Path, int]:
    """Give the files of all runs and when they were written."""
    return {
        path: path.stat().st_mtime_ns
        for root in (lab.stage, lab.output)
        for path in root.rglob("*.parquet")
        if "run_id=" in str(path)
    }


def check(trace: Trace, paths: Iterable[Path]) -> None:
    leader = next(call.pid for call in trace.calls if call.path == trace.wal)
    words = [words for path in paths for words in trace.complaints(path)] + list(trace.moves_without_sync(leader))
    assert not words, "\n".join(words)


def test_backfill(tmp_path: Path) -> None:
    """New runs, then runs that are replaced, cut otherwise, withdrawn: contents, names, ledger, in this order."""
    lab = Lab(tmp_path, workers=2)
    instrument.lab(lab.raw, 9)
    grows, shrinks = instrument.iv(20), instrument.iv(21)
    grows.first(20).write(lab.raw / "grows.csv")
    shrinks.write(lab.raw / "shrinks.csv")
    dated = replace(instrument.iv(22), start_time=None).write(lab.raw / "2025-09-04" / "dated.csv")
    first = backfilled(lab, "first")
    before = published(lab)
    assert len([path for path in before if path.is_relative_to(lab.stage)]) == 12
    check(first, before)

    manifest = str(lab.stage / "_manifest/manifest.parquet")
    move = [call for call in first.renames if call.names[1] == manifest][-1]
    serial = len([call for call in first.renames if call.names[1] == manifest])
    told = first.told([f"manifest{serial}"])
    assert told is not None
    assert first.synced(manifest, move.ended) < told.began, "the manifest is told of before its name was synced"

    grows.write(lab.raw / "grows.csv")
    shrinks.first(3).write(lab.raw / "shrinks.csv")
    (lab.raw / "2025-09-05").mkdir(exist_ok=True)
    dated.rename(lab.raw / "2025-09-05" / "dated.csv")
    second = backfilled(lab, "second")
    fresh = [path for path, written in published(lab).items() if before.get(path) != written]
    assert {path.parent.name.startswith("segment=") for path in fresh} == {True, False}
    assert [call for call in second.renames if "RENAME_EXCHANGE" in call.text]
    check(second, fresh)


def test_daemon(tmp_path: Path) -> None:
    """The same holds for a file that is written, and grows, while the daemon runs."""
    lab = Lab(tmp_path)
    process, file = traced(lab, "daemon", "run")
    until(lambda: process.poll() is not None or lab.status(), 60, "for the daemon to listen")
    status = lab.status()
    assert status, (lab.home / "daemon.log").read_text()
    measurement = instrument.iv(0)
    for rows in (20, 44):
        measurement.first(rows).write(lab.raw / "a.csv")
        until(lambda rows=rows: [run.facts.rows for run in lab.runs().values()] == [rows], 60)
        until(lambda: lab.state_of("a.csv") == "segmented", 60)
    os.kill(status["pid"], signal.SIGTERM)
    assert process.wait(60) == 0
    check(Trace(file, lab), published(lab))
