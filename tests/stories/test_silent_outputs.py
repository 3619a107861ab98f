"""Outputs on a share whose server stops answering: the daemon waits, says so, and loses nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import instrument
import outputs
import pytest
from lab import Lab, assert_converged, until
from served import Server, served

from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.verify import verify

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("bindfs"), reason="needs root and bindfs; CI has both"),
]

ANSWER_S = 12.0  # one call on the share may hold the loop up for 5 s, once; the rest is for a busy machine


@contextmanager
def laboratory(home: Path, which: str) -> Iterator[tuple[Lab, Server]]:
    lab = Lab(home)
    lab.config = replace(lab.config, pools=replace(lab.config.pools, task_timeout_s=6.0))
    folder: Path = getattr(lab, which)
    folder.mkdir(exist_ok=True)
    with served(home / "disk", folder) as server:
        yield lab, server


def measure(lab: Lab, numbers: range, name: str = "") -> None:
    for number in numbers:
        instrument.iv(number, start=1757600000.0 + 60 * number).write(lab.raw / f"{name}{number}.csv")


def paused(lab: Lab) -> str:
    began = time.monotonic()
    status = lab.status()
    assert time.monotonic() - began < ANSWER_S
    return str((status or {}).get("paused") or "")


@pytest.mark.parametrize("which", ["stage", pytest.param("output", marks=pytest.mark.long)])
def test_silent_outputs_are_waited_for(tmp_path: Path, which: str) -> None:
    """The status names the folder, no file is blamed, and the work goes on by itself when the server is back."""
    with laboratory(tmp_path, which) as (lab, server), lab.process() as daemon:
        measure(lab, range(5))
        whole = instrument.iv(5, start=1757600300.0).data()
        (lab.raw / "5.csv").write_bytes(whole[: whole.rindex(b"\n", 0, len(whole) * 3 // 4) + 1])
        lab.age()
        until(lambda: len(lab.runs()) == 6)
        lab.wait_quiet()
        server.fall_silent()
        measure(lab, range(6, 40))
        (lab.raw / "5.csv").write_bytes(whole)  # replaces what is published
        until(lambda: "does not answer" in paused(lab), 60, "for the pause")
        assert f"the {which} folder {getattr(lab, which)}" in paused(lab)
        ends_at = time.monotonic() + 8.0  # longer than a task may take
        until(lambda: not paused(lab) or time.monotonic() > ends_at, 60)
        assert paused(lab)
        server.answer()
        until(lambda: not paused(lab), 90, "for the work to go on")
        until(lambda: len(lab.runs()) == 40, 60)
        lab.wait_quiet()
        assert daemon.poll() is None
        catalog = Catalog.open_to_read(lab.state / FILE_NAME)
        assert catalog is not None
        assert sum(record.attempts for record in catalog.files()) == 0
        catalog.close()
        assert_converged(lab)
        assert not verify(lab.config).problems
    assert not outputs.leftovers(lab.stage, lab.output)


def test_it_stops_while_the_outputs_are_silent(tmp_path: Path) -> None:
    """A stop is not kept up by a dead server, and the next start does what was left."""
    with laboratory(tmp_path, "stage") as (lab, server):
        daemon = lab.spawn()
        measure(lab, range(3))
        until(lambda: len(lab.runs()) == 3)
        lab.wait_quiet()
        server.fall_silent()
        measure(lab, range(3, 9))
        until(lambda: "does not answer" in paused(lab), 60, "for the pause")
        daemon.send_signal(signal.SIGTERM)
        until(lambda: daemon.poll() is not None, 25, "for the end")
        refused = subprocess.run(daemon.args, capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == 1
        assert f'"{lab.stage}" does not answer' in refused.stderr
        server.answer()
        with lab.process():
            until(lambda: len(lab.runs()) == 9, 60)
            lab.wait_quiet()
            assert_converged(lab)
        assert not outputs.leftovers(lab.stage, lab.output)


def test_it_starts_while_the_raw_folder_is_silent(tmp_path: Path) -> None:
    """A daemon waits for its raw folder; what nobody can look at keeps it neither from starting nor from stopping."""
    with laboratory(tmp_path, "raw") as (lab, server):
        server.fall_silent()
        with lab.process():
            until(lambda: "does not answer" in str((lab.status() or {}).get("degraded")), 60, "for it to be told")
            server.answer()
            measure(lab, range(3))
            until(lambda: len(lab.runs()) == 3, 60)
