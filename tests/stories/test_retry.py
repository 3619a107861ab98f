"""When a refused file is tried again: by order, when its bytes change, once when the program does, and not else."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import instrument
import pytest
from lab import Lab, assert_converged, inline_pools, until

from nanolab_daemon import again, batch, engine, registrar, stage
from nanolab_daemon.control import ask
from nanolab_daemon.errors import FileRejectedError, RejectCause
from nanolab_daemon.model import FileState
from nanolab_daemon.verify import verify


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Make a lab with a good file, refused ones and a queued one; `lab.read` counts how often each was judged."""
    made = Lab(tmp_path)
    instrument.iv(1).write(made.raw / "good.csv")
    (made.raw / "bad rows.csv").write_bytes(instrument.iv(2).data() + b"x,y\r\nz\r\n")
    (made.raw / "no file of ours.csv").write_bytes(b"a,b\n1,2\n")
    (made.raw / "never.csv").write_bytes(instrument.iv(3).queued())
    made.age(3 * 86400)
    judged: Counter[bytes] = Counter()
    original = stage.stage_file

    def count(job: Any, *arguments: Any) -> Any:
        judged[job.path] += 1
        return original(job, *arguments)

    monkeypatch.setattr(stage, "stage_file", count)
    made.read = judged  # type: ignore[attr-defined]
    return made


def counted(lab: Lab) -> Counter[bytes]:
    judged: Counter[bytes] = lab.read  # type: ignore[attr-defined]
    found = Counter(judged)
    judged.clear()
    return found


def another_version(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    for module in (engine, registrar, stage):
        monkeypatch.setattr(module, "__version__", version)


@pytest.mark.parametrize("running", [False, True], ids=["backfill", "daemon"])
def test_once_for_each_version(lab: Lab, running: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program tries refused files again, once, however often it is started; nothing else is read again."""

    def life() -> None:
        if running:
            with lab.daemon():
                lab.wait_quiet()
        else:
            lab.backfill()

    life()
    assert set(counted(lab)) == {b"good.csv", b"bad rows.csv", b"no file of ours.csv", b"never.csv"}
    life()
    assert not counted(lab)
    for version in ("7.0.0", "7.0.1", "7.0.0"):
        another_version(monkeypatch, version)
        life()
        assert counted(lab) == {b"bad rows.csv": 1, b"no file of ours.csv": 1}
        life()
        life()
        assert not counted(lab)
    assert Counter(state for state, _ in lab.files().values()) == {"segmented": 1, "rejected": 3}


def test_a_program_that_can_read_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an older program refused and a newer one understands is published without a word from anybody."""
    with monkeypatch.context() as patch:
        patch.setattr(stage, "read_rows", lambda *_, **__: (_ for _ in ()).throw(_too_old()))
        another_version(monkeypatch, "0.0.1")
        lab.backfill()
        assert lab.state_of("good.csv") == "rejected"
    another_version(monkeypatch, "0.0.2")
    with lab.daemon():
        until(lambda: lab.state_of("good.csv") == "segmented")
        lab.wait_quiet()
    assert_converged(lab)


def _too_old() -> Exception:
    return FileRejectedError(RejectCause.BAD_ROWS, "This program is too old.")


@pytest.mark.parametrize("running", [False, True], ids=["alone", "beside a daemon"])
def test_by_order(lab: Lab, running: bool) -> None:
    """`retry` tries what was refused; rows are left out only if asked, and only of the bytes that were meant."""

    def retry(*, skip: bool) -> None:
        chosen = again.choose(lab.config, (), skip_bad_rows=skip)
        assert not chosen.left_alone
        if running:
            paths = [os.fsdecode(job.path) for job in chosen.jobs]
            before = time.time()
            ask(lab.state, {"ask": "retry", "paths": paths, "skip_bad_rows": skip})
            until(lambda: again.judged_after(lab.config, chosen.jobs, before))
        else:
            with inline_pools():
                batch.run(lab.config, "retry", jobs=chosen.jobs)

    lab.backfill()
    counted(lab)
    with lab.daemon() if running else nullcontext():
        if running:
            lab.wait_quiet()
        retry(skip=False)
        assert counted(lab) == {b"bad rows.csv": 1, b"no file of ours.csv": 1, b"never.csv": 1}
        assert lab.state_of("bad rows.csv") == "rejected"
        retry(skip=True)
        until(lambda: lab.state_of("bad rows.csv") == "segmented")
        assert lab.state_of("no file of ours.csv") == "rejected"
        assert [run.facts.bad_rows_skipped for run in lab.runs().values() if run.source == b"bad rows.csv"] == [2]
        with (lab.raw / "bad rows.csv").open("ab") as file:
            file.write(b"and another\r\n")
        if running:
            until(lambda: lab.state_of("bad rows.csv") == "rejected")
            lab.wait_quiet()
        else:
            lab.backfill()
        assert lab.state_of("bad rows.csv") == "rejected"  # nobody has allowed that line to be left out
        (lab.raw / "bad rows.csv").write_bytes(instrument.iv(2).data())
        if running:
            until(lambda: lab.state_of("bad rows.csv") == "segmented")
            lab.wait_quiet()
        else:
            lab.backfill()
        assert lab.state_of("bad rows.csv") == FileState.SEGMENTED
    assert not verify(lab.config).problems
    assert_converged(lab)
