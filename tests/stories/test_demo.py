"""The demonstration shows a whole day, finds everything right, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanolab_daemon import demo
from nanolab_daemon.errors import UsageError
from nanolab_daemon.lock import holder

# A shell that runs the tests in the background has them ignore SIGINT, and their children too.
_MAIN = """
import signal, sys
from nanolab_daemon import demo
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(demo.main(**eval(sys.argv[1])))
"""


def start(temp: Path, arguments: str = "{}", **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temp), **environment},
    )


def test_the_demo_shows_every_fate_of_a_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Settings meant for another daemon don't reach it."""
    process = start(tmp_path, NANOLAB_PATHS_RAW="/nowhere", NANOLAB_LOG_LEVEL="error")
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, out + err
    assert err == ""
    for words in (
        "queued",
        "started",
        "measuring",
        "segmented: ",
        "Incomplete: 233 of 601",
        "rejected: Line",
    ):
        assert words in out
    assert "forward_negative" in out
    assert "\x1b" not in out
    assert list(tmp_path.iterdir()) == []


def test_a_kept_lab_can_be_looked_at_and_its_daemon_is_gone(tmp_path: Path) -> None:
    lab = tmp_path / "my lab"
    process = start(tmp_path, f"{{'speed': 2.0, 'keep': __import__('pathlib').Path({str(lab)!r})}}")
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, out + err
    assert len(list((lab / "data/01_raw").rglob("*.csv"))) == 7
    assert len(list((lab / "data/02_stage/raw_measurements").rglob("part-000.parquet"))) == 5
    assert len(list((lab / "data/03_intermediate").rglob("part-000.parquet"))) == 20
    assert "nanolab-daemon why" in out
    assert holder(lab / "data/.nanolab") is None
    # The kept configuration is one that every command takes.
    command = [sys.executable, "-m", "nanolab_daemon", "check", "--config", str(lab / "config.toml")]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_stops_the_daemon_and_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if "begins" in line:
            break
    (lab,) = tmp_path.iterdir()
    running = holder(lab / "data/.nanolab")
    assert running is not None
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == ""
    assert list(tmp_path.iterdir()) == []
    assert _ended(running.pid)


def test_a_folder_with_something_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="not an empty folder"):
        demo.main(keep=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_that_makes_no_sense_is_refused(speed: float) -> None:
    with pytest.raises(UsageError, match="--speed"):
        demo.main(speed=speed)


def _ended(pid: int) -> bool:
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.1)
    return False
