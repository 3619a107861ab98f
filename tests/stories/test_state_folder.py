"""A state folder that can't be read, is none, has lost its ledger, or one that does not know a file yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import instrument
import pytest
from lab import Lab, toml

from nanolab_daemon.catalog import FILE_NAME

COMMANDS = (["status"], ["why", "iv.csv"], ["show", "iv.csv"], ["rejects"])
# Python may lie where other users can't go, so each command is imported, by being run, before the rights are dropped.
AS_NOBODY = (
    "import os, sys\n"
    "from nanolab_daemon.cli import main\n"
    f"for argv in {COMMANDS}: main(argv)\n"
    "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    f"sys.exit([main(argv) for argv in {COMMANDS}] != [1, 1, 1, 1])\n"
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "lab")
    (lab.home / "config.toml").write_text(toml(lab.config))
    (lab.raw / "iv.csv").write_bytes(instrument.iv(3).data())
    lab.backfill()
    return lab


def run(lab: Lab, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nanolab_daemon", *argv], cwd=lab.home, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_may_not_read_it_is_told_and_how_he_may(lab: Lab) -> None:
    for folder in lab.home.parents:
        if folder.stat().st_uid == os.geteuid() and folder.name.startswith(("pytest-of-", "pytest-", "test_")):
            folder.chmod(0o755)
    lab.home.chmod(0o755)
    lab.state.chmod(0o750)
    os.chown(lab.state, -1, 1)  # the group `daemon` on every Linux
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY], cwd=lab.home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"This user may not read the state folder {lab.state}.") == len(COMMANDS)
    assert done.stderr.count("sudo usermod --append --groups daemon nobody") == len(COMMANDS)


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_a_lost_ledger_is_told_and_how_it_is_made_anew(lab: Lab, how: str) -> None:
    for path in lab.state.glob(f"{FILE_NAME}*"):
        path.unlink()
    if how == "empty":
        (lab.state / FILE_NAME).touch()
    for argv in (["status"], ["rejects"]):
        done = run(lab, *argv)
        said = done.stdout + done.stderr  # what is asked for is an answer, what can't be given an error
        assert f"{FILE_NAME} is {how}." in said
        assert "verify --rebuild" in said
        assert "nothing was processed" not in said
    assert json.loads(run(lab, "status", "--json").stdout)["health"] == "not running, and the ledger is lost"


def test_a_file_in_place_of_the_folder_is_told(lab: Lab) -> None:
    lab.state.rename(lab.home / "elsewhere")
    lab.state.touch()
    for argv in (["status"], ["why", "iv.csv"], ["rejects"]):
        done = run(lab, *argv)
        assert done.returncode == 1
        assert f"The state folder {lab.state} is no folder" in done.stderr


def test_a_new_file_is_found_by_its_bare_name(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab")
    (lab.home / "config.toml").write_text(toml(lab.config))
    folder = lab.raw / "2025-09-04" / "chip 7"
    folder.mkdir(parents=True)
    (folder / "new.csv").write_bytes(instrument.iv(3).data())
    for _ in range(2):
        done = run(lab, "why", "new.csv")
        assert done.returncode == 0
        assert "It counts, but the ledger has not seen it yet." in done.stdout
        assert run(lab, "show", "new.csv").returncode == 0
        lab.state.mkdir(exist_ok=True)
        (lab.state / FILE_NAME).touch()  # an empty one knows no more than none
    (lab.raw / "new.csv").write_bytes(instrument.iv(4).data())
    (folder.parent / "new.csv").write_bytes(instrument.iv(5).data())
    assert run(lab, "why", str(Path("2025-09-04/new.csv"))).returncode == 0
    (lab.raw / "new.csv").unlink()
    assert "2 files have the name new.csv." in run(lab, "why", "new.csv").stderr
    assert "There is no such file" in run(lab, "why", "other.csv").stdout
