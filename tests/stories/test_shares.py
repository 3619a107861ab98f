"""Shares below the raw folder that come and go, and kernels that refuse to watch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import instrument
import pytest
from lab import QUICK, SCAN_ONLY, Lab, assert_converged, toml, until
from test_surprises import HINTS_ONLY, published

from nanolab_daemon.config import Watch
from nanolab_daemon.control import ask

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount; CI runs as root")


@contextmanager
def mounted(source: Path, target: Path) -> Iterator[None]:
    """Let one folder stand in the place of another, as a share does."""
    target.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", source, target], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", target], check=False, stderr=subprocess.DEVNULL)


def unmount(target: Path) -> None:
    subprocess.run(["umount", "-l", target], check=True)


def frozen(lab: Lab, place: str) -> bool:
    status = lab.status()
    return bool(status and status["places"].get(place, {}).get("frozen"))


@needs_root
@pytest.mark.parametrize("watch", [HINTS_ONLY, SCAN_ONLY], ids=["events", "scan"])
def test_one_share_of_several_goes_and_comes_back(tmp_path: Path, watch: Watch) -> None:
    """A share that is unmounted is frozen, though it leaves an empty folder; the others work on; it comes back."""
    lab = Lab(tmp_path, watch=watch)
    (share := tmp_path / "share").mkdir()
    instrument.lab(share, 4)
    (lab.raw / "pc2").mkdir()
    with mounted(share, lab.raw / "pc1"), lab.daemon():
        until(lambda: len(lab.runs()) == 4)
        status = lab.wait_quiet()
        assert status["places"]["pc1"]["frozen"] == ""
        before = lab.files()

        unmount(lab.raw / "pc1")
        until(lambda: frozen(lab, "pc1"))
        instrument.iv(50, start=1757700000.0).write(lab.raw / "pc2" / "IV.csv")
        instrument.iv(51, start=1757710000.0).write(lab.raw / "pc1" / "under the share.csv")
        until(lambda: published(lab, "pc2/IV.csv"))
        lab.wait_quiet()
        assert {path: verdict for path, verdict in lab.files().items() if path.startswith(b"pc1/")} == before
        assert not any(run.source_missing for run in lab.runs().values())

        with mounted(share, lab.raw / "pc1"):
            until(lambda: not frozen(lab, "pc1"))
            instrument.iv(52, start=1757720000.0).write(share / "new.csv")
            until(lambda: published(lab, "pc1/new.csv"))
            status = lab.wait_quiet()
            assert status["tally"]["missing"] == 0
            assert {run.revision for run in lab.runs().values()} == {1}
            assert_converged(lab)


@needs_root
def test_the_whole_share_goes_while_nobody_looks(tmp_path: Path) -> None:
    """A daemon or a backfill that starts while the share is not mounted knows that it was, and concludes nothing."""
    lab = Lab(tmp_path)
    (share := tmp_path / "share").mkdir()
    instrument.lab(share, 4)
    with mounted(share, lab.raw), lab.daemon():
        lab.wait_quiet()
    before = lab.files()
    assert len(before) == 4
    with lab.daemon():
        until(lambda: (lab.status() or {})["degraded"])
        assert lab.files() == before
        with mounted(share, lab.raw):
            until(lambda: not (lab.status() or {})["degraded"])
            lab.wait_quiet()
            assert lab.files() == before
    assert not any(run.source_missing for run in lab.runs().values())


@needs_root
def test_a_backfill_leaves_an_unmounted_share_alone(tmp_path: Path) -> None:
    """A backfill over several shares passes over the one that is not mounted, and says so."""
    lab = Lab(tmp_path)
    (share := tmp_path / "share").mkdir()
    instrument.lab(share, 4)
    instrument.iv(50, start=1757700000.0).write(lab.raw / "pc2" / "IV.csv")
    with mounted(share, lab.raw / "pc1"):
        lab.backfill()
    assert len(lab.files()) == 5
    before = lab.files()
    ended = lab.backfill()
    assert ended.tally.frozen == ["pc1"]
    assert ended.tally.missing == 0
    assert lab.files() == before
    assert not any(run.source_missing for run in lab.runs().values())


@needs_root
def test_a_share_that_takes_its_folder_along(tmp_path: Path) -> None:
    """A share whose mount point goes with it is frozen all the same, until a person says that it is gone for good."""
    lab = Lab(tmp_path)
    (share := tmp_path / "share").mkdir()
    instrument.lab(share, 4)
    instrument.iv(50, start=1757700000.0).write(lab.raw / "stays.csv")
    lab.age()
    with mounted(share, lab.raw / "pc1"), lab.daemon():
        lab.wait_quiet()
        before = lab.files()
        assert len(before) == 5
        unmount(lab.raw / "pc1")
        (lab.raw / "pc1").rmdir()
        until(lambda: frozen(lab, "pc1"))
        lab.wait_quiet()
        assert lab.files() == before
        ask(lab.state, {"ask": "backfill", "accept_missing": True})
        until(lambda: set(lab.files()) == {b"stays.csv"})
        assert not lab.wait_quiet()["frozen"]
        assert_converged(lab)


def test_too_few_watches(tmp_path: Path) -> None:
    """When the kernel refuses watches in silence, that is told with its remedy, and every file is found."""
    lab = Lab(tmp_path, watch=replace(QUICK, rescan_s=2.0))
    for number in range(60):
        (lab.raw / str(number)).mkdir()
    file = lab.home / "config.toml"
    file.write_text(toml(lab.config))
    script = 'echo 25 > /proc/sys/user/max_inotify_watches && exec "$@"'
    command = [sys.executable, "-m", "nanolab_daemon", "run", "--config", str(file)]
    if subprocess.run(["unshare", "-Ur", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a user namespace")
    with (lab.home / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(["unshare", "-Ur", "sh", "-c", script, "sh", *command], stderr=log, cwd=lab.home)
    try:
        until(lambda: daemon.poll() is not None or lab.status())
        until(lambda: "max_user_watches" in str((lab.status() or {})["trouble"]))
        names = [f"{number}/IV.csv" for number in range(60)]
        for number, name in enumerate(names):
            instrument.iv(number, start=1757018821.0 + number).write(lab.raw / name)
        until(lambda: published(lab, *names), 60)
        assert "max_user_watches" in (lab.home / "daemon.log").read_text()
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0
    shutil.rmtree(lab.raw / "0")
