"""Shares whose server stops answering: every call on them hangs. A stopped program in user space is such a one."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import instrument
import pytest
from lab import QUICK, Lab, assert_converged, until
from served import served

from nanolab_daemon.catalog import FILE_NAME, Catalog

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("bindfs"), reason="needs root and bindfs; CI has both"),
]


def silent(lab: Lab, place: str = "pc1") -> bool:
    status = lab.status()
    return bool(status and "does not answer" in status["places"].get(place, {}).get("frozen", ""))


def published_s(lab: Lab, path: str, limit_s: float = 20.0) -> float:
    """Wait until a file's run is published and give how long that took."""
    began = time.monotonic()
    until(lambda: lab.state_of(path) == "segmented", limit_s, f"for {path}")
    return time.monotonic() - began


def attempts(lab: Lab) -> int:
    catalog = Catalog.open_to_read(lab.state / FILE_NAME)
    assert catalog is not None
    try:
        return sum(record.attempts for record in catalog.files())
    finally:
        catalog.close()


def test_a_silent_share_holds_up_only_itself(tmp_path: Path) -> None:
    """While one share hangs, others are served at once; it comes back by itself, and nobody is charged."""
    lab = Lab(tmp_path, watch=replace(QUICK, quiet_s=60.0), workers=2)
    share = tmp_path / "share"
    (lab.raw / "pc2").mkdir()
    with served(share, lab.raw / "pc1") as server, lab.process():
        for number in range(6):
            instrument.iv(number, start=1757600000.0 + 60 * number).write(share / f"{number}.csv")
        with (share / "growing.csv").open("wb") as growing:
            one = instrument.iv(70, start=1757990000.0).data()
            growing.write(one[: len(one) // 2])
            growing.flush()
            until(lambda: len(lab.runs()) == 6)
            until(lambda: lab.state_of("pc1/growing.csv") == "measuring")
            server.fall_silent()
            for number in range(40):  # they are found half, read half, wherever it has come to
                instrument.iv(100 + number, start=1758000000.0 + 60 * number).write(share / f"late_{number}.csv")
            instrument.iv(50, start=1757700000.0).write(lab.raw / "pc2" / "first.csv")
            assert published_s(lab, "pc2/first.csv") < 8.0  # the one wait for the share is in it, on a busy machine
            until(lambda: silent(lab), what="for the share to be taken for silent")
            instrument.iv(51, start=1757710000.0).write(lab.raw / "pc2" / "second.csv")
            assert published_s(lab, "pc2/second.csv") < 4.0
            assert lab.status()
            server.answer()
            until(lambda: not silent(lab), what="for the share to be back")
            growing.write(one[len(one) // 2 :])
        until(lambda: lab.state_of("pc1/growing.csv") == "segmented")
        until(lambda: len(lab.runs()) == 49)
        status = lab.wait_quiet()
        assert status["tally"]["missing"] == 0
        assert not status["frozen"]
        assert attempts(lab) == 0
        assert_converged(lab)


@pytest.mark.timeout(240)
def test_a_share_falls_silent_while_it_is_read(tmp_path: Path) -> None:
    """Workers that hang in a read are freed, the files are read again when the share is back, none is quarantined."""
    lab = Lab(tmp_path, workers=2)
    limit_s = 6.0  # which no sound file needs, on a busy machine either
    lab.config = replace(lab.config, pools=replace(lab.config.pools, task_timeout_s=limit_s))
    share = tmp_path / "share"
    (lab.raw / "pc2").mkdir()
    with served(share, lab.raw / "pc1") as server:
        instrument.lab(share, 400)
        with lab.process():
            until(lambda: 20 < len(lab.runs()) < 390, what="for the middle of the archive")
            server.fall_silent()
            until(lambda: silent(lab), what="for the share to be taken for silent")
            instrument.iv(1051, start=1757710000.0).write(lab.raw / "pc2" / "local.csv")
            assert published_s(lab, "pc2/local.csv") < 4.0
            time.sleep(limit_s + 1)  # longer than a task may take
            server.answer()
            until(lambda: len(lab.runs()) == 401, 60, "for the rest of the archive")
            status = lab.wait_quiet()
            assert status["tally"]["missing"] == 0
            assert attempts(lab) == 0
            assert_converged(lab)


def test_the_daemon_starts_beside_a_silent_share(tmp_path: Path) -> None:
    """A share that hangs from the beginning keeps neither the start nor the others waiting, nor the end."""
    lab = Lab(tmp_path)
    share = tmp_path / "share"
    (lab.raw / "pc2").mkdir()
    with served(share, lab.raw / "pc1") as server:
        instrument.lab(share, 4)
        server.fall_silent()
        with lab.process() as daemon:
            until(lambda: silent(lab), what="for the share to be taken for silent")
            instrument.iv(50, start=1757700000.0).write(lab.raw / "pc2" / "first.csv")
            assert published_s(lab, "pc2/first.csv") < 4.0
            server.answer()
            until(lambda: len(lab.runs()) == 5)
            server.fall_silent()
            began = time.monotonic()
            daemon.terminate()
            daemon.wait(20)
            assert time.monotonic() - began < 12.0
        server.answer()


def test_the_whole_raw_folder_falls_silent(tmp_path: Path) -> None:
    """The daemon stays, says so, and goes on by itself."""
    lab = Lab(tmp_path, watch=replace(QUICK, rescan_s=1.0))
    share = tmp_path / "share"
    with served(share, lab.raw) as server, lab.process():
        instrument.lab(share, 4)
        until(lambda: len(lab.runs()) == 4)
        server.fall_silent()
        until(lambda: "does not answer" in str((lab.status() or {}).get("degraded")))
        instrument.iv(60, start=1757700000.0).write(share / "late.csv")
        server.answer()
        until(lambda: len(lab.runs()) == 5)
        assert lab.wait_quiet()["tally"]["missing"] == 0
        assert_converged(lab)
