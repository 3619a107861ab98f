"""`verify` beside a daemon that publishes and replaces runs all the time: no false alarm, and no true one missed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import instrument
import pytest
from lab import InlinePool, Lab, until

from nanolab_daemon import verify


@contextmanager
def load(lab: Lab) -> Iterator[None]:
    """Let instruments write, files grow, change, move and vanish, as fast as the daemon can follow."""
    stop = threading.Event()

    def work() -> None:
        chance = random.Random(1)
        count = 0
        while not stop.is_set():
            seed = chance.randrange(40)
            measurement = (instrument.iv, instrument.ivg, instrument.it)[seed % 3](seed)
            rows = chance.randrange(4, len(measurement.rows) + 1)
            path = lab.raw / f"day{seed % 4}" / f"{seed}.csv"
            if chance.random() < 0.1 and path.exists():
                path.rename(path.with_name(f"{seed} moved {count}.csv"))
            elif chance.random() < 0.05 and path.exists():
                path.unlink()
            else:
                measurement.first(rows).write(path)
            count += 1
            stop.wait(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def look_on(lab: Lab, seconds: float) -> int:
    """Verify again and again; give how many rounds there were."""
    until(lambda: len(lab.runs()) > 20)
    rounds = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = verify.verify(lab.config)
        assert not found.problems, (rounds, found.problems)
        rounds += 1
    return rounds


@pytest.mark.parametrize("seconds", [4.0, pytest.param(120.0, marks=[pytest.mark.scale, pytest.mark.timeout(300)])])
def test_no_false_alarm(tmp_path: Path, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often one looks while runs come, are replaced, move and go, all is as the ledger says."""
    monkeypatch.setattr(verify, "Pool", InlinePool)
    monkeypatch.setattr(verify, "LOOK_AGAIN_AFTER_S", 0.2)
    lab = Lab(tmp_path)
    with lab.daemon():
        with load(lab):
            rounds = look_on(lab, seconds)
        assert rounds > 3
    lab.backfill()  # what the daemon was stopped in the middle of
    assert not verify.verify(lab.config).problems


def test_a_true_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing, damaged or foreign is told in the midst of it, and only that."""
    monkeypatch.setattr(verify, "Pool", InlinePool)
    monkeypatch.setattr(verify, "LOOK_AGAIN_AFTER_S", 0.2)
    lab = Lab(tmp_path)
    for seed in range(50, 53):
        instrument.iv(seed).write(lab.raw / "steady" / f"{seed}.csv")
    lab.age()
    with lab.daemon():
        lab.wait_quiet()
        runs = sorted(lab.stage.glob("proc=IV/date=*/run_id=*/part-000.parquet"))
        with load(lab):
            until(lambda: len(lab.runs()) > 20)
            runs[0].unlink()
            runs[1].write_bytes(b"nothing")
            (lab.stage / "proc=IV" / "notes.txt").write_text("mine")
            found = verify.verify(lab.config)
        assert {(one.kind, one.path) for one in found.problems} == {
            ("damaged", str(runs[0])),
            ("damaged", str(runs[1])),
            ("foreign", str(lab.stage / "proc=IV" / "notes.txt")),
        }
