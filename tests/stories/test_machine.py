"""Faults of the machine while the daemon works: none is held against a file, each is told, all pass by themselves."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import instrument
import pytest
from lab import InlinePool, Lab, assert_converged, toml, until
from test_surprises import published

from nanolab_daemon import verify as verify_module
from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.model import FileState
from nanolab_daemon.report import status
from nanolab_daemon.verify import verify

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root; CI runs as root")


@pytest.fixture(autouse=True)
def _verify_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `verify` need no processes of its own: its workers are tested elsewhere."""
    monkeypatch.setattr(verify_module, "Pool", InlinePool)


@contextmanager
def process(lab: Lab, *before: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon as a process under another command, or with another environment; it must end well."""
    file = lab.home / "config.toml"
    file.write_text(toml(lab.config))
    command = [*before, sys.executable, "-m", "nanolab_daemon", "run", "--config", str(file)]
    with (lab.home / "daemon.log").open("ab") as log:
        daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=lab.home, env={**os.environ, **environment}
        )
    try:
        until(lambda: daemon.poll() is not None or lab.status(), what="for the daemon to listen")
        yield daemon
        daemon.terminate()
        assert daemon.wait(30) == 0, (lab.home / "daemon.log").read_text()
    finally:
        daemon.kill()
        daemon.wait()


def paused(lab: Lab) -> str:
    found = status(lab.config, datetime.now(UTC))
    return found.health if found.health.startswith("paused since") else ""


def assert_sound(lab: Lab) -> None:
    assert not verify(lab.config).problems
    assert_converged(lab)


def record(lab: Lab, path: bytes) -> Any:
    catalog = Catalog.open_to_read(lab.state / FILE_NAME)
    assert catalog is not None
    try:
        return catalog.file(path)
    finally:
        catalog.close()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@needs_root
def test_no_rights_on_a_raw_file(tmp_path: Path) -> None:
    """A file that may not be read waits, with the remedy; others go on; it is published when it may be read."""
    lab = Lab(tmp_path)
    capabilities = ("--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
    with process(lab, "setpriv", *capabilities):
        closed = instrument.iv(1).write(lab.raw / "closed.csv.part")
        closed.chmod(0)
        closed = closed.rename(lab.raw / "closed.csv")
        instrument.iv(2).write(lab.raw / "open.csv")
        until(lambda: published(lab, "open.csv"))
        until(lambda: lab.state_of("closed.csv") == "waiting")
        known = record(lab, b"closed.csv")
        assert "Permission denied" in known.reason
        assert "the right to read it" in known.reason
        assert known.attempts == 0
        assert known.rejection is None
        assert not paused(lab)
        closed.chmod(0o644)
        until(lambda: published(lab, "closed.csv"))
        lab.wait_quiet()
    assert_sound(lab)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the library that lets calls fail."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc; CI has it")
    library = tmp_path_factory.mktemp("sick") / "sick.so"
    source = Path(__file__).parent.parent / "sick.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-o", library, source, "-ldl"], check=True)
    return library


class Sickness:
    """Lets a call fail on files whose path holds a text, until it is over."""

    def __init__(self, control: Path, shim: Path) -> None:
        self.control = control
        self.environment = {"LD_PRELOAD": str(shim), "SICK": str(control)}

    def begins(self, call: str, code: int, text: str) -> None:
        part = self.control.with_suffix(".part")
        part.write_text(f"{call} {code} {text}\n")
        part.rename(self.control)

    def ends(self) -> None:
        self.control.unlink()


@pytest.mark.parametrize("code", [pytest.param(errno.EIO, marks=pytest.mark.long), errno.ESTALE])
def test_a_file_that_can_not_be_read(tmp_path: Path, shim: Path, code: int) -> None:
    """A bad block or a stale handle keeps others waiting for moments only; its file waits on, and is not refused."""
    lab = Lab(tmp_path)
    sickness = Sickness(tmp_path / "control", shim)
    with process(lab, **sickness.environment):
        sickness.begins("pread", code, "/sick/")
        for seed in range(3):
            instrument.iv(seed).write(lab.raw / "sick" / f"{seed}.csv")
            instrument.ivg(seed).write(lab.raw / "well" / f"{seed}.csv")
        until(lambda: published(lab, *(f"well/{seed}.csv" for seed in range(3))))
        until(lambda: {lab.state_of(f"sick/{seed}.csv") for seed in range(3)} == {"waiting"}, 60)
        assert os.strerror(code) in record(lab, b"sick/0.csv").reason
        assert record(lab, b"sick/0.csv").attempts == 0
        until(lambda: not paused(lab))
        sickness.ends()
        until(lambda: published(lab, *(f"sick/{seed}.csv" for seed in range(3))))
        lab.wait_quiet()
    assert_sound(lab)


@pytest.mark.parametrize("place", [pytest.param("stage", marks=pytest.mark.long), "output"])
def test_a_quota_is_used_up(tmp_path: Path, shim: Path, place: str) -> None:
    """It is a full disk for this user: everything waits, with the remedy, and goes on by itself."""
    lab = Lab(tmp_path)
    sickness = Sickness(tmp_path / "control", shim)
    with process(lab, **sickness.environment):
        sickness.begins("write", errno.EDQUOT, f"/{place}/")
        for seed in range(3):
            instrument.ivg(seed).write(lab.raw / f"{seed}.csv")
        assert "quota" in until(lambda: paused(lab), what="for the pause")
        sickness.ends()
        until(lambda: published(lab, *(f"{seed}.csv" for seed in range(3))), 40)
        until(lambda: not paused(lab))
        lab.wait_quiet()
    assert_sound(lab)


@pytest.mark.parametrize("who", ["worker", "parent"])
def test_too_many_open_files(tmp_path: Path, who: str) -> None:
    """Without a free descriptor nothing can be done, and nothing is lost: no file is blamed, the daemon stays."""
    lab = Lab(tmp_path)
    with lab.process() as daemon:
        instrument.iv(0).write(lab.raw / "first.csv")
        until(lambda: published(lab, "first.csv"))
        lab.wait_quiet()
        limited = [daemon.pid] if who == "parent" else children(daemon.pid)
        before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in limited}
        for pid, (_, hard) in before.items():
            number = len(os.listdir(f"/proc/{pid}/fd")) if who == "parent" else 3
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, hard))
        for seed in range(1, 6):
            instrument.iv(seed).write(lab.raw / f"{seed}.csv")
        if who == "worker":
            assert "Too many open files" in until(lambda: paused(lab), what="for the pause")
            assert "LimitNOFILE" in paused(lab)
        else:
            time.sleep(3)  # nothing can be asked meanwhile
        assert daemon.poll() is None, (tmp_path / "daemon.log").read_text()
        assert not [state for state, _ in lab.files().values() if state == "rejected"]
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        until(lambda: published(lab, *(f"{seed}.csv" for seed in range(1, 6))), 40)
        lab.wait_quiet()
        assert {run.revision for run in lab.runs().values()} == {1}
    assert_sound(lab)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("bindfs"), reason="needs root and bindfs; CI has both")
def test_a_share_dies_in_the_middle_of_the_load(tmp_path: Path) -> None:
    """When a share's program is killed, its files wait and count neither as gone nor as bad; they are done later."""
    lab = Lab(tmp_path)
    (share := tmp_path / "share").mkdir()
    for seed in range(60):
        instrument.iv(seed).write(share / f"{seed}.csv")
    target = lab.raw / "pc1"
    target.mkdir()
    command = ["bindfs", "-f", "-o", "attr_timeout=0,entry_timeout=0", share, target]
    server = subprocess.Popen(command)
    try:
        until(lambda: os.path.ismount(target), what="for the mount")
        with lab.process():
            until(lambda: len(lab.runs()) > 3)
            server.kill()
            server.wait()
            instrument.ivg(70).write(lab.raw / "pc2" / "other.csv")
            until(lambda: published(lab, "pc2/other.csv"))
            assert not [run for run in lab.runs().values() if run.source_missing]
            assert not [state for state, _ in lab.files().values() if state == "rejected"]
            subprocess.run(["umount", "-l", target], check=True)
            server = subprocess.Popen(command)
            until(lambda: len(lab.runs()) == 61, 60)
            until(lambda: not paused(lab))
            lab.wait_quiet()
            assert_sound(lab)
    finally:
        server.terminate()
        subprocess.run(["umount", "-l", target], check=False, stderr=subprocess.DEVNULL)
        server.wait(10)


@pytest.mark.parametrize("jump_s", [-3 * 86400.0, 3 * 86400.0])
def test_the_clock_is_set(tmp_path: Path, jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps by days, either way, costs no file: those from the future are settled and published too."""
    lab = Lab(tmp_path)
    real = time.time
    offset = 0.0
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    with lab.daemon():
        instrument.iv(0).write(lab.raw / "before.csv")
        until(lambda: published(lab, "before.csv"))
        half = instrument.iv(1)
        (lab.raw / "growing.csv").write_bytes(half.data(20))
        (lab.raw / "queued.csv").write_bytes(instrument.iv(2).queued())
        until(lambda: lab.state_of("growing.csv") is not None)
        offset = jump_s
        for name, shift in (("now", 0.0), ("future", 5 * 86400.0), ("past", -400 * 86400.0)):
            file = instrument.ivg(hash(name) % 50).write(lab.raw / f"{name}.csv.part")
            os.utime(file, (real() + shift,) * 2)
            file.rename(lab.raw / f"{name}.csv")
        with (lab.raw / "growing.csv").open("ab") as file_:
            file_.write(half.data()[len(half.data(20)) :])
        until(lambda: published(lab, "now.csv", "future.csv", "past.csv"))
        until(lambda: [run.facts.rows for run in lab.runs().values() if run.source == b"growing.csv"] == [44])
        lab.wait_quiet()
        assert lab.state_of("queued.csv") == (FileState.REJECTED if jump_s > 0 else FileState.QUEUED)
    offset = 0.0
    with lab.daemon():
        lab.wait_quiet()
        assert lab.state_of("queued.csv") == FileState.QUEUED
    assert_sound(lab)
